"""A real ``saewatch record``, and ``saewatch serve --record``: signals, bounds, and what is in the file."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saewatch.cli.record import Arrival
from saewatch.core.recording import Recording
from saewatch.edge.pipeline import Pipeline
from tests import fakes, sidecar
from tests.fakes import FakeEngine
from tests.waiting import wait_until

KNOWN = fakes.dictionary()


@contextlib.contextmanager
def recording(folder: Path, *more: object) -> Iterator[subprocess.Popen[str]]:
    """``saewatch record`` on a socket in ``folder``, until the block ends or it does."""
    bundle = fakes.write_bundle(folder / "bundle", KNOWN)
    words = sidecar.command(
        *("record", folder / "a.frames", "--socket", folder / "s.sock", "--dictionary", bundle, "--json", *more)
    )
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=sidecar.ENVIRONMENT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], number: signal.Signals | None = None) -> dict[str, Any]:
    """Its summary."""
    if number:
        process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    found: dict[str, Any] = json.loads(out)
    return found


def engine(folder: Path) -> FakeEngine:
    return FakeEngine(str(folder / "s.sock"), KNOWN, timeout_s=20)


def index_of(folder: Path) -> Any:
    with (folder / "a.frames").open("rb") as file:
        return Recording(file).index


def recorded(folder: Path) -> int:
    """The records in its file so far."""
    with (folder / "a.frames").open("rb") as file:
        return sum(got.record is not None for got in Recording(file).received())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_index_written(tmp_path: Path, number: signal.Signals) -> None:
    with recording(tmp_path, "--note", "a test") as process, engine(tmp_path).ready() as one:
        one.start(7, name="plain")
        one.batch([(7, 0, 4)], [(0, 1, 2.0)])
        one.end(7)
        wait_until(lambda: recorded(tmp_path) == 6)
        facts = ended(process, number)
    assert {name: facts[name] for name in ("frames", "requests", "tokens", "slot_firings", "dropped", "ended")} == {
        "frames": 6,
        "requests": 1,
        "tokens": 4,
        "slot_firings": 1,
        "dropped": 0,
        "ended": "asked",
    }
    file = tmp_path / "a.frames"
    assert facts["file"] == str(file)
    assert facts["bytes"] == file.stat().st_size
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert index_of(tmp_path).frames == 6
    assert not (tmp_path / "s.sock").exists()
    with file.open("rb") as data:
        found = Recording(data)
    assert found.head is not None
    assert found.head.note == "a test"
    assert list(found.sheets) == [KNOWN.weights_digest]


def test_it_ends_after_a_time(tmp_path: Path) -> None:
    with recording(tmp_path, "--for", 2) as process, engine(tmp_path).ready():
        facts = ended(process)
    assert facts["ended"] == "time"
    assert facts["frames"] == 3
    assert index_of(tmp_path).frames == 3


def test_it_says_whom_it_waits_for_and_leaves_nothing_where_nobody_came(tmp_path: Path) -> None:
    for _ in range(2):
        done = sidecar.called("record", tmp_path / "a.frames", "--socket", tmp_path / "s.sock", "--for", 0.6)
        assert (done.returncode, "waiting for an engine to connect" in done.stdout) == (3, True)
        assert f"{tmp_path / 's.sock'}: found nothing came" in done.stderr
        assert "saewatch vllm-args" in done.stderr
        assert list(tmp_path.iterdir()) == []


def test_it_says_whether_somebody_has_come() -> None:
    pipeline, times = Pipeline(dictionaries={KNOWN.weights_digest: KNOWN}), iter([0.0, 1.0, 9.0, 10.0, 11.0])
    arrival, other = Arrival("s.sock", pipeline, clock=lambda: next(times)), Arrival("s.sock", pipeline)
    assert arrival.look() == ""
    assert arrival.look().startswith("no engine has connected to s.sock yet.")
    assert arrival.look() == "", "once"
    pipeline.connect(1)
    pipeline.receive(1, fakes.stream_open(KNOWN, engine="e\x1b[31m"))
    assert [arrival.look(), arrival.look(), other.look()] == ["e?[31m has connected", "", "e?[31m has connected"]


def test_it_ends_at_a_size(tmp_path: Path) -> None:
    with recording(tmp_path, "--max-mib", 0.2) as process, engine(tmp_path).ready() as one:
        one.start(7, name="plain")
        with contextlib.suppress(ConnectionError):  # a full recorder hangs up
            for position in range(800):
                one.batch([(7, position, 1)], [(0, 1, 2.0)])
        facts = ended(process)
    assert facts["ended"] == "full"
    assert facts["bytes"] <= 0.2 * 2**20
    assert 100 < index_of(tmp_path).frames < 800


def test_a_killed_recorder_leaves_what_it_had(tmp_path: Path) -> None:
    with recording(tmp_path) as process, engine(tmp_path).ready() as one:
        one.start(7, name="plain")
        one.batch([(7, 0, 4)])
        wait_until(lambda: recorded(tmp_path) == 5)
        process.kill()
        process.wait()
    assert index_of(tmp_path) is None
    assert recorded(tmp_path) == 5


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.frames"
    file.write_text("precious")
    done = sidecar.called("record", file, "--socket", tmp_path / "s.sock")
    assert done.returncode == 2
    assert "another name" in done.stderr
    assert file.read_text() == "precious"
    assert not (tmp_path / "s.sock").exists()


def test_a_dictionary_that_is_none(tmp_path: Path) -> None:
    done = sidecar.called("record", tmp_path / "a", "--socket", tmp_path / "s.sock", "--dictionary", tmp_path)
    assert done.returncode == 3
    assert "bundle.json" in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_person_sees_how_far_it_is(tmp_path: Path) -> None:
    main, terminal = pty.openpty()
    words = sidecar.command("record", tmp_path / "a", "--socket", tmp_path / "s.sock", "--for", 2)
    environment = {**sidecar.ENVIRONMENT, "TERM": "xterm"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=terminal, env=environment, text=True) as process:
        os.close(terminal)
        with engine(tmp_path).ready():
            said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    seen = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(main, 4096):
            seen += data
    os.close(main)
    assert b"engine-0 has connected" in seen
    assert b"frames 3, requests 0, tokens 0, slot firings 0, 0.0 MiB\r" in seen
    assert f"{tmp_path / 'a'}: 0:00, frames 3" in said


def test_serving_and_recording_at_once(tmp_path: Path) -> None:
    bundle = fakes.write_bundle(tmp_path / "bundle", KNOWN)
    local = {"listen": "127.0.0.1:0"}
    config = {"socket": str(tmp_path / "s.sock"), "dictionaries": [str(bundle)], "grpc": local, "web": local}
    config |= {"history": {"path": ""}, "canaries": {"file": "c.jsonl", "model": "m", "url": "http://127.0.0.1:9/v1"}}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    (tmp_path / "c.jsonl").write_text('{"id": "a", "feature": "threat.l1", "fires": true, "prompt": "x"}\n')
    words = sidecar.command("serve", "-c", tmp_path / "c.yaml", "--record", tmp_path / "a.frames", "--json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=sidecar.ENVIRONMENT) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["socket"] == config["socket"]
        with urllib.request.urlopen(told["metrics"], timeout=5) as answer:
            metrics = answer.read().decode()
        with engine(tmp_path).ready() as one:
            one.start(7, name="plain")
            one.batch([(7, 0, 4)], [(0, 1, 2.0)])
            assert one.acked(1)
            process.terminate()
            assert process.wait(10) == 0
    assert "saewatch_canary_blind" in metrics, "canaries are sent, and a panel can be recorded"
    assert index_of(tmp_path).firings == 1
    again = sidecar.called("serve", "-c", tmp_path / "c.yaml", "--record", tmp_path / "a.frames")
    assert again.returncode == 2
    assert "another name" in again.stderr
    assert not (tmp_path / "s.sock").exists()
