"""A run's folder goes with it, and what a killed one left goes with the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from saewatch.cli import scratch
from tests.sidecar import ENVIRONMENT

HOLDS = """
import sys, time
from saewatch.cli import scratch
with scratch.folder() as folder:
    (folder / "history.db").write_text("firings")
    print(folder, flush=True)
    time.sleep(60)
"""
LONG_AGO_S = time.time() - 3600


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Not everybody's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def holding(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another run, and its folder."""
    words, own = [sys.executable, "-c", HOLDS], {**ENVIRONMENT, "TMPDIR": str(folder)}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=own)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str], number: signal.Signals) -> int:
    process.send_signal(number)
    code = process.wait(10)
    assert process.stdout is not None
    process.stdout.close()
    return code


def test_it_is_ones_own_and_goes(tmp_path: Path) -> None:
    with scratch.folder() as folder:
        assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
        (folder / "file").write_text("")
    assert list(tmp_path.iterdir()) == []


def test_a_request_to_end_is_heard(tmp_path: Path) -> None:
    process, folder = holding(tmp_path)
    assert folder.is_dir()
    assert end(process, signal.SIGTERM) == 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_goes_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    killed, left = holding(tmp_path)
    end(killed, signal.SIGKILL)
    living, held = holding(tmp_path)
    try:
        with scratch.folder():
            assert left.is_dir(), "it is too young to tell"
        for folder in (left, held):
            os.utime(folder, (LONG_AGO_S, LONG_AGO_S))
        (tmp_path / f"{scratch.PREFIX}file").write_text("not a folder")
        (tmp_path / "other").mkdir()
        with scratch.folder():
            assert not left.exists()
            assert held.is_dir()
            assert (tmp_path / "other").is_dir()
    finally:
        end(living, signal.SIGTERM)
