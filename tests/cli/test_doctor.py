"""saewatch doctor: a healthy and a blind installation around a real sidecar, and one with nothing installed."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from saewatch import cli
from saewatch.cli import doctor
from saewatch.cli.checks.finding import Finding, Setup, State, failed, good, warning
from tests import fakes, sidecar
from tests.fakes import FakeApi, FakeEngine
from tests.sidecar import Sidecar
from tests.waiting import wait_until

FIXTURE = Path(__file__).resolve().parents[1] / "fixture"
KNOWN = fakes.dictionary()

Findings = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other sidecar of this user, and no other cache, is looked at."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Findings]:
    code = cli.main(["doctor", *map(str, words), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["good"] == (code == cli.GOOD), found
    return code, {(one["group"], one["subject"]): one for one in found["findings"]}


def states(found: Findings, group: str) -> dict[str, str]:
    return {subject: one["state"] for (of, subject), one in found.items() if of == group}


def bad(found: Findings) -> dict[tuple[str, str], str]:
    """What failed, but for what is said of the sheets-only bundles that these tests serve."""
    return {at: one["found"] for at, one in found.items() if one["state"] == "failed" and at[0] != "dictionaries"}


class Answering:
    """An engine that beats, and answers self-tests, from a thread of its own."""

    def __init__(self, path: str, *, failing: str = "") -> None:
        self.engine = FakeEngine(path, KNOWN).ready()
        self._thread = threading.Thread(target=self._answer, args=(failing,))

    def _answer(self, failing: str) -> None:
        self.engine.answer(fakes.self_test(failing=failing))

    def __enter__(self) -> FakeEngine:
        self._thread.start()
        return self.engine

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self.engine.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Sidecar]:
    with Sidecar(tmp_path, [KNOWN]) as one:
        yield one


def test_a_healthy_one(running: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeApi(running.addresses["socket"]) as api, Answering(running.addresses["socket"]) as engine:
        api.label(7)
        engine.start(7)
        engine.batch([(7, 0, 4)], [(1, 2, 3.0)])
        engine.end(7)
        engine.beat(books=[fakes.beat(seq=1, fed=4, encoded=4, firings=1).streams[0]])
        wait_until(lambda: running.get("/readyz")[0] == 200)
        code, found = ask(capsys, "-c", running.config, "--address", running.addresses["grpc"])
    assert bad(found) == {}
    assert code == cli.FAILED, "these tests serve bundles without tensors, which is told"
    assert found.pop(("sidecar", "series"))["state"] == "not verified", "the pages' port is not configured"
    assert set(states(found, "sidecar").values()) == {"good"}, found
    assert set(states(found, "socket").values()) == {"good"}
    assert states(found, "configuration")["configuration"] == "good"
    (coverage,) = [one for (_, subject), one in found.items() if subject.startswith("engine-0 resid_post.3")]
    assert coverage["found"] == "coverage 1.0000 of 4 tokens, missed nothing"


def test_looking_is_no_connection_of_an_engine(running: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    wait_until(lambda: running.blind() == ["no_engine"])
    ask(capsys, "-c", running.config, "--address", running.addresses["grpc"])
    assert running.blind() == ["no_engine"]
    counted = re.findall(r"^saewatch_faults_total.* ([0-9.]+)$", running.get("/metrics")[1], re.MULTILINE)
    assert set(counted) == {"0.0"}, "nothing was refused, and nobody was turned away"
    assert "not accepted" not in running.log.read_text()
    assert "connection refused" not in running.log.read_text()


def test_a_blind_one(running: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    with Answering(running.addresses["socket"], failing="sink") as engine:
        engine.start(7, name="plain")
        engine.batch([(7, 0, 4)], seq=3)
        blinded = fakes.beat(seq=3, fed=9, encoded=4, missed={"overflow": 3}, blind="shipper_fault").streams[0]
        engine.beat(books=[blinded])
        wait_until(lambda: running.blind() == ["shipper_fault"])
        code, found = ask(capsys, "-c", running.config, "--address", running.addresses["grpc"])
    assert code == cli.FAILED
    told = {subject.split(" sha256")[0]: one for (group, subject), one in found.items() if group == "sidecar"}
    assert told["blind: engine-0 resid_post.3"]["found"] == "shipper_fault"
    assert "its log" in told["blind: engine-0 resid_post.3"]["hint"]
    assert "firings_per_token" in told["engine-0 resid_post.3"]["hint"]
    assert told["books of engine-0 resid_post.3"]["found"] == "imbalance 2"
    assert told["self-test of engine-0 resid_post.3: sink"]["state"] == "failed"
    assert told["seq_gaps"]["state"] == "warning"


def test_labels_that_are_missing_point_to_the_middleware(running: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> bool:
        return 'saewatch_faults_total{kind="labels_missing"} 1.0' in running.get("/metrics")[1]

    with Answering(running.addresses["socket"]) as engine:
        engine.start(7)
        engine.batch([(7, 0, 4)])
        wait_until(missing)
        engine.beat()
        _, found = ask(capsys, "-c", running.config, "--address", running.addresses["grpc"])
    assert "vllm-args" in found["sidecar", "labels_missing"]["hint"]


def test_a_stopped_sidecar(running: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    running.process.kill()
    running.process.wait()
    code, found = ask(capsys, "-c", running.config, "--address", running.addresses["grpc"])
    assert code == cli.UNREACHED
    assert found["sidecar", "sidecar"]["state"] == "failed"
    assert found["socket", "listener"]["state"] == "warning"
    assert "saewatch serve" in found["sidecar", "sidecar"]["hint"]


def test_without_a_sidecar_it_is_not_verified(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps({"grpc": {"listen": "127.0.0.1:1"}}))
    bundle, model = FIXTURE / "bundle", FIXTURE / "model"
    code, found = ask(capsys, "-c", tmp_path / "c.yaml", "--dictionary", bundle, "--model", model)
    assert code == cli.GOOD, found
    assert states(found, "sidecar") == {"sidecar": "not verified"}
    assert set(states(found, "dictionaries").values()) == {"good"}
    assert set(states(found, "environment").values()) == {"good"}


def test_a_configuration_that_serve_would_refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sockets: /x")
    code, found = ask(capsys, "-c", tmp_path / "c.yaml")
    assert code == cli.FAILED
    assert found["configuration", "sockets"]["expected"].startswith("one of socket")


# --- with nothing but the core ----------------------------------------------------------------------------------------
BARE = """
import sys
import importlib.abc

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"grpc", "google", "pydantic", "yaml", "torch", "vllm", "structlog", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from saewatch.cli import main
sys.exit(main(sys.argv[1:]))
"""


def bare(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BARE, "doctor", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**sidecar.ENVIRONMENT, **os.environ}, check=False
    )


def test_nothing_is_installed_but_the_core() -> None:
    done = bare("--dictionary", FIXTURE / "bundle", "--model", FIXTURE / "model", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = {(one["group"], one["subject"]): one for one in json.loads(done.stdout)["findings"]}
    assert found["environment", "extra serve"]["state"] == "not verified"
    assert found["environment", "extra engine"]["found"] == "no torch, safetensors"
    assert found["configuration", "configuration"]["found"] in {"no yaml", "no pydantic"}
    assert found["sidecar", "sidecar"]["state"] == "not verified"
    assert found["dictionaries", "bundle: fit"]["found"] == "fits, by the digest of the weights"


def test_what_was_asked_for_and_cannot_be_examined_fails() -> None:
    done = bare("-c", "saewatch.yaml", "--address", "127.0.0.1:1")
    assert done.returncode == cli.FAILED
    assert "Traceback" not in done.stderr
    assert "failed: sidecar, sidecar: found no g" in done.stdout
    assert "failed: configuration, configuration: found no " in done.stdout
    assert "pip install 'saewatch[serve]'" in done.stdout


# --- for people -------------------------------------------------------------------------------------------------------
class Terminal(io.StringIO):
    """A terminal, or none."""

    def __init__(self, *, tty: bool = True, encoding: str = "utf-8") -> None:
        super().__init__()
        self._tty, self._encoding = tty, encoding

    def isatty(self) -> bool:
        return self._tty

    @property
    def encoding(self) -> str:  # type: ignore[override]  # of a StringIO it is None
        return self._encoding


FOUND: dict[str, Sequence[Finding]] = {
    "one": [failed("a", "x", expected="y", hint="Do this."), good("b", "fine")],
    "two": [warning("c", "x", expected="y", hint="Look there.")],
}


def said(terminal: Terminal, **environment: str) -> list[str]:
    return list(doctor.report(FOUND, terminal=terminal, environment=environment))


def test_the_worst_comes_last_with_what_to_do() -> None:
    lines = said(Terminal(tty=False))
    assert lines[:3] == ["one", "  ✗ a: x", "  ✓ b: fine"]
    assert lines[-5:] == [
        "! warning: two, c: found x, expected y",
        "    Look there.",
        "✗ failed: one, a: found x, expected y",
        "    Do this.",
        "1 good, 1 warning, 1 failed",
    ]


def test_colour_only_where_it_is_wanted() -> None:
    assert "\x1b[31m✗" in "\n".join(said(Terminal()))
    plain: list[Callable[[], list[str]]] = [
        lambda: said(Terminal(), NO_COLOR="1"),
        lambda: said(Terminal(), TERM="dumb"),
        lambda: said(Terminal(tty=False)),
    ]
    assert all("\x1b" not in "\n".join(lines()) for lines in plain)


def test_a_name_cannot_command_the_terminal() -> None:
    named = {"one": [failed("a\x1b[2J", "x\n", expected="y", hint="\x07Do this.")]}
    lines = "\n".join(doctor.report(named, terminal=Terminal(tty=False), environment={}))
    assert "\x1b" not in lines
    assert "\x07" not in lines
    assert "a?[2J: x?" in lines


def test_a_terminal_that_knows_ascii_only() -> None:
    assert said(Terminal(encoding="ascii", tty=False))[1:3] == ["  x a: x", "  + b: fine"]


def test_the_text_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == cli.GOOD
    text = capsys.readouterr().out
    assert all(f"\n{group}\n" in f"\n{text}" for group in doctor.GROUPS)
    assert "not verified: sidecar" in text


def test_every_group_examines() -> None:
    found = doctor.diagnose(Setup())
    assert list(found) == list(doctor.GROUPS)
    assert all(found.values())
    assert set(State) == set(doctor.MARKS)
