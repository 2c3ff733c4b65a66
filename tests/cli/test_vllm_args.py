"""saewatch vllm-args."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from saewatch import cli
from saewatch.core import tapconfig
from tests import fakes


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return str(fakes.write_bundle(tmp_path / "it's a bundle", fakes.dictionary()))


def test_the_tap_reads_what_is_printed(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "vllm-args",
        "--dictionary",
        bundle,
        "--watch",
        "threat.p1",
        "--socket",
        "/run/s.sock",
        "--on-failure",
        "serve",
    ]
    assert cli.main([*words, "--json"]) == cli.GOOD
    found = json.loads(capsys.readouterr().out)
    arguments = dict(zip(found["arguments"][::2], found["arguments"][1::2], strict=True))
    assert arguments["--worker-cls"] == "saewatch.engine.vllm.TapWorker"
    assert arguments["--middleware"] == "saewatch.engine.middleware.LabelMiddleware"
    config = tapconfig.read(json.loads(arguments["--additional-config"])["saewatch"])
    assert (config.socket, config.on_failure) == ("/run/s.sock", "serve")
    assert [(use.path, use.watch) for use in config.dictionaries] == [(bundle, ("threat.p1",))]
    assert found["environment"] == {"SAEWATCH_SOCKET": "/run/s.sock"}


def test_a_shell_reads_what_is_printed(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vllm-args", "--dictionary", bundle, "--socket", "/run/s.sock"]) == cli.GOOD
    memory, export, command = capsys.readouterr().out.splitlines()
    assert memory.startswith("# device memory at 8192 rows a step, it's a bundle: ")
    assert "MiB (staging " in memory
    assert export == "export SAEWATCH_SOCKET=/run/s.sock"
    words = shlex.split(command)
    assert words[:3] == ["vllm", "serve", "MODEL"]
    assert json.loads(words[words.index("--additional-config") + 1])["saewatch"]["dictionaries"][0]["path"] == bundle


def test_without_the_middleware(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vllm-args", "--dictionary", bundle, "--no-middleware", "--json"]) == cli.GOOD
    found = json.loads(capsys.readouterr().out)
    assert "--middleware" not in found["arguments"]
    assert found["environment"] == {}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--watch", "thread.p1"], "thread.p1"),
        (["--census", "2"], "census"),
        (["--rows", "0"], "rows"),
        (["--rows", "100000000"], "device_budget_mib"),
        (["--socket", "/" + "x" * 200], "socket"),
        (["--dictionary", "/nowhere"], "bundle.json"),
    ],
)
def test_what_the_tap_would_refuse(bundle: str, more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vllm-args", "--dictionary", bundle, *more]) == cli.FAILED
    assert said in capsys.readouterr().err


def test_a_dictionary_is_needed() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["vllm-args"])
    assert caught.value.code == cli.USAGE
