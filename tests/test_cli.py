"""The command line as a whole."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saewatch import __version__, cli
from tests import sidecar


def test_no_verb_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["serv"], ["--what"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == cli.USAGE
    assert "usage: saewatch" in capsys.readouterr().err


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.VERBS)


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_has_help_and_takes_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*name.split(), "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert f"usage: saewatch {name} " in text
    assert (importlib.import_module(cli.VERBS[name].module).__doc__ or "").splitlines()[0][:40] in text


@pytest.fixture
def two_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "VERBS", {**cli.VERBS, "bird sings": cli.VERBS["version"]})


@pytest.mark.usefixtures("two_words")
@pytest.mark.parametrize("words", [["bird"], ["bird", "flies"], ["bird", "--json"]])
def test_a_verb_of_two_words_needs_both(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == cli.USAGE
    assert "bird: the second word should be one of sings" in capsys.readouterr().err


@pytest.mark.usefixtures("two_words")
def test_both_words_make_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bird", "sings", "--json"]) == cli.GOOD
    assert "saewatch" in json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("two_words")
def test_the_first_word_of_two_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["bird", "--help"])
    assert caught.value.code == 0
    assert "saewatch bird sings" in capsys.readouterr().out


def test_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["version", "--loud"])
    assert caught.value.code == cli.USAGE
    assert "--loud" in capsys.readouterr().err


def test_a_refusal_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["config", "check", "/nowhere/saewatch.yaml", "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert (code, error["kind"], error["found"]) == (cli.UNREACHED, "UnreachableError", "No such file or directory")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_said_as_json_where_that_can_be_heard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("saewatch.cli.version.run", full)
    assert cli.main(["version", "--json"]) == cli.UNREACHED
    assert json.loads(capsys.readouterr().out)["error"]["found"] == "No space left on device"
    monkeypatch.undo()

    def unwritable(_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "/locked/out")

    monkeypatch.setattr("saewatch.cli.version.run", unwritable)
    assert cli.main(["version", "--json"]) == cli.UNREACHED
    assert json.loads(capsys.readouterr().out)["error"]["subject"] == "/locked/out"
    monkeypatch.undo()
    words = [sys.executable, "-m", "saewatch", "version", "--json"]
    with Path("/dev/full").open("w") as out:
        told = {"stdout": out, "stderr": subprocess.PIPE, "text": True, "env": sidecar.ENVIRONMENT}
        found = subprocess.run(words, check=False, **told)  # type: ignore[call-overload]  # its own words
    assert (found.returncode, "output: found No space left" in found.stderr) == (cli.UNREACHED, True)


def test_it_starts_without_the_heavy_modules() -> None:
    program = (
        "import sys; from saewatch.cli import main; main(['version']); "
        "print([name for name in ('grpc', 'pydantic', 'numpy', 'prometheus_client', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=sidecar.ENVIRONMENT, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_only_verbs_that_touch_a_tensor_load_torch() -> None:
    """It takes seconds, which a verb that reads sheets, recordings or a sidecar's answers need not."""
    makes = {"import", "encode", "conformance", "align", "calibrate", "label", "autolabel", "review", "evaluate", "certify"}
    light = [verb.module for name, verb in cli.VERBS.items() if name.removeprefix("dictionary ") not in makes]
    program = f"import sys, {', '.join(light)}; print('torch' in sys.modules)"
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, env=sidecar.ENVIRONMENT, check=True)
    assert done.stdout.strip() == "False"


def test_a_reader_that_leaves() -> None:
    words = " ".join(sidecar.command("version"))
    done = subprocess.run(
        ["bash", "-c", f"(sleep 0.2; {words}; echo $? >&2) | true"],
        capture_output=True,
        text=True,
        env=sidecar.ENVIRONMENT,
        check=True,
    )
    assert "Traceback" not in done.stderr


def test_ctrl_c_before_a_verb_listens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert cli.main(["version"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == ""


def test_the_short_way_to_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"saewatch {__version__}\n"
