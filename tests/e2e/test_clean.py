"""The package as others install it: in clean environments with one extra each, without torch or vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import setup_env
from deploy.setup_env import ROOT

RECORDING = ROOT / "recordings" / "demo.frames"
FIVE_LINES = """
from saewatch.client import Client
for event in Client({address!r}).watch(heartbeats=True):
    print(type(event).__name__, event)
    break
"""


class Clean:
    """A virtual environment with the package and one of its extras."""

    def __init__(self, folder: Path, extra: str) -> None:
        self.folder = folder
        self._bin = folder / "venv" / "bin"
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment |= {"XDG_STATE_HOME": str(folder / "state"), "NO_COLOR": "1"}
        uv, pins = setup_env.UV, setup_env.REQUIREMENTS / "constraints.txt"
        self._run(uv, "venv", "--quiet", folder / "venv")
        where = ("--python", self._bin / "python", "--constraints", pins, "--build-constraints", pins)
        self._run(uv, "pip", "install", "--quiet", *where, *setup_env.index_arguments(), f"{ROOT}[{extra}]")

    def _run(self, *words: object) -> str:
        line, here = [*map(str, words)], self.folder
        done = subprocess.run(
            line, cwd=here, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def saewatch(self, *words: object) -> Any:
        """``saewatch … --json``, read."""
        return json.loads(self._run(self._bin / "saewatch", *words, "--json").splitlines()[-1])

    def python(self, program: str) -> str:
        """What a program prints."""
        return self._run(self._bin / "python", "-c", program)

    def lacks(self, *modules: str) -> bool:
        """Whether none of these can be imported."""
        found = f"import importlib.util as u; print([m for m in {modules!r} if u.find_spec(m)])"
        return self.python(found).strip() == "[]"

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """``saewatch …`` in the background."""
        with (self.folder / "log").open("wb") as log:
            line = [str(self._bin / "saewatch"), *map(str, words)]
            return subprocess.Popen(line, cwd=self.folder, env=self.environment, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    return Clean(tmp_path_factory.mktemp("serve"), "serve")


@pytest.fixture(scope="module")
def replayed(serving: Clean) -> Iterator[str]:
    """The gRPC address of a replay."""
    local = {"grpc": {"listen": "127.0.0.1:0"}, "web": {"listen": "127.0.0.1:0"}}
    (serving.folder / "local.yaml").write_text(json.dumps(local))
    told = serving.folder / "addresses.json"
    process = serving.start("replay", RECORDING, "--fast", "-c", "local.yaml", "--addresses", told)
    end = time.monotonic() + 60
    while not told.exists():
        assert process.poll() is None, (serving.folder / "log").read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    address: str = json.loads(told.read_text())["grpc"]
    while not serving.saewatch("status", "--address", address)["kept_records"]:
        assert time.monotonic() < end
    time.sleep(2.0)  # the history writes each second
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0, (serving.folder / "log").read_text()


def test_a_recording_is_replayed_without_torch_or_vllm(serving: Clean) -> None:
    assert serving.lacks("torch", "vllm", "transformers", "pandas", "pyarrow")
    facts = serving.saewatch("replay", RECORDING, "--fast", "--once", "-c", _local(serving))
    assert facts["slot_firings"] > 5_000
    assert facts["imbalance"] == facts["gaps"] == facts["damaged_frames"] == 0
    assert facts["fed"] == facts["encoded"] + facts["reused"] + facts["missed"]
    assert 0 < facts["first_firing_s"] < 60


def _local(serving: Clean) -> Path:
    path = serving.folder / "once.yaml"
    path.write_text(json.dumps({"grpc": {"listen": "127.0.0.1:0"}, "web": {"listen": "127.0.0.1:0"}}))
    return path


def test_every_query_works_on_it(serving: Clean, replayed: str) -> None:
    address = ("--address", replayed)
    firings = serving.saewatch("query", "firings", "--limit", 0, *address)
    assert len(firings["firings"]) > 5_000
    (one,) = serving.saewatch("query", "firings", "--limit", 1, "--category", "vcr", *address)["firings"]
    assert one["category"] == "vcr"
    buckets = serving.saewatch("query", "buckets", "--by", "category", *address)["buckets"]
    assert sum(int(bucket["firings"]) for bucket in buckets) == len(firings["firings"])
    requests = serving.saewatch("query", "requests", "--limit", 0, *address)["requests"]
    assert len(requests) > 20


def test_the_client_alone_reads_it(tmp_path: Path, replayed: str) -> None:
    client = Clean(tmp_path, "client")
    assert client.lacks("torch", "pydantic", "starlette", "structlog", "yaml")
    assert client.python(FIVE_LINES.format(address=replayed)).strip()
