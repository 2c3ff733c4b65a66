"""The configuration's checks, and what the others take from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saewatch.cli.checks import configuration
from saewatch.cli.checks.finding import Finding, Setup, State


def written(folder: Path, **settings: Any) -> Path:
    file = folder / "saewatch.yaml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    return file


def first(setup: Setup) -> Finding:
    return next(configuration.examine(setup))


def test_none_is_named() -> None:
    assert first(Setup()).state is State.UNVERIFIED


def test_one_that_is_good(tmp_path: Path) -> None:
    setup = Setup(config=written(tmp_path, dictionaries=["bundle"]))
    assert first(setup).state is State.GOOD
    assert "1 dictionaries" in first(setup).found


def test_one_that_serve_would_refuse(tmp_path: Path) -> None:
    found = first(Setup(config=written(tmp_path, sockets="/x")))
    assert (found.subject, found.state) == ("sockets", State.FAILED)
    assert "config check" in found.hint
    open_to_all = Setup(config=written(tmp_path, web={"listen": "0.0.0.0:9108"}))
    assert (first(open_to_all).subject, first(open_to_all).state) == ("web.listen", State.FAILED)
    assert first(Setup(config=tmp_path / "nowhere")).state is State.FAILED


def test_what_the_others_take_from_it(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        socket="/run/tap.sock",
        dictionaries=["bundle"],
        allowed_users=[7],
        grpc={"listen": "127.0.0.1:5"},
        web={"listen": "127.0.0.1:6"},
        limits={"series": 9, "replay_mib": 2},
    )
    found = configuration.settle(Setup(config=file, dictionaries=(Path("more"),)))
    assert found.dictionaries == (Path("more"), tmp_path / "bundle")
    assert (found.socket, found.allowed_users, found.address) == ("/run/tap.sock", (7,), "127.0.0.1:5")
    assert found.web == "127.0.0.1:6"
    assert (found.series, found.replay_bytes, found.named) == (9, 2 * 2**20, False)
    assert configuration.settle(Setup(config=file, address="h:1", named=True)).address == "h:1"
    assert configuration.settle(Setup(config=written(tmp_path, grpc={"listen": "127.0.0.1:0"}))).address == ""
    assert configuration.settle(Setup(config=tmp_path / "nowhere")).socket.endswith("/saewatch.sock")


def test_the_history(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    assert configuration._kept("").state is State.UNVERIFIED  # noqa: SLF001 - no version has the section yet
    assert configuration._kept(str(file)).state is State.UNVERIFIED  # noqa: SLF001 - as above
    file.write_bytes(bytes(2**20))
    found = configuration._kept(str(file))  # noqa: SLF001 - as above
    assert (found.state, found.found) == (State.GOOD, f"{file}, 1.0 MiB")
