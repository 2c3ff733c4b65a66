"""The demo's own course, without an engine: how it ends, and what it leaves behind."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from deploy.demo import run as demo
from deploy.demo.ending import SIGNALS, Ending, Stop
from deploy.demo.screen import View
from deploy.demo.servers import Server, group_members, start
from tests.waiting import wait_until

STUBBORN = 'trap "kill -{signal} $PPID; sleep 0.5; exit 0" TERM; echo ready; while :; do sleep 0.1; done'
"""A child that has its parent signalled while that is cleaning up."""
LAST_WORDS = (
    'trap "mkdir -p {folder}; echo > {folder}/last; echo written; exit 0" TERM; echo ready; while :; do sleep 0.1; done'
)
"""A child that writes into the demo's folder when it is asked to stop."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A signal that the demo does not take does not end the tests; and everything is as before afterwards."""

    def miss(_number: int, _frame: FrameType | None) -> None:
        return

    before = {number: signal.signal(number, miss) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_signal_leaves_a_child_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The signal comes between the child's start and its entry, and once more during the clean-up."""
    started: list[Server] = []

    def run(*given: Any, ending: Ending) -> int:
        servers: list[Server] = given[-1]
        with ending.held():
            server = start("child", ["sh", "-c", STUBBORN.format(signal=number.name[3:])], tmp_path / "log")
            started.append(server)
            wait_until(lambda: "ready" in server.log.read_text())
            signal.raise_signal(number)
            servers.append(server)
        raise AssertionError("nobody stopped")

    monkeypatch.setattr(demo, "run", run)
    try:
        assert demo.main(["--once"]) == 2, "not run to its end"
        (server,) = started
        assert server.process.returncode == 0, "asked, not killed"
        assert group_members(server.process.pid) == []
    finally:
        for server in started:
            server.stop()


def test_a_server_leads_a_group_and_shares_our_session(tmp_path: Path) -> None:
    """In a session of its own it might wait for a processor as long as an answer may take."""
    server = start("child", ["sh", "-c", "sleep 60 & echo ready; wait"], tmp_path / "log")
    try:
        wait_until(lambda: "ready" in server.log.read_text())
        leader = server.process.pid
        assert (os.getpgid(leader), os.getsid(leader)) == (leader, os.getsid(0))
        members = group_members(leader)
        assert len(members) == 2, "the shell and what it started"
        assert os.getpid() not in members
    finally:
        server.stop()


@pytest.mark.parametrize(("arguments", "stopped"), [(["--once"], False), ([], True)], ids=["once", "until Ctrl-C"])
def test_the_facts_are_written_once_all_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], stopped: bool
) -> None:
    def run(_options: Any, facts: demo.Facts, *given: Any, ending: Ending) -> int:
        servers: list[Server] = given[-1]
        servers.append(start("child", ["sleep", "60"], tmp_path / "log"))
        facts.values = {"firings": 7}
        if stopped:
            raise Stop
        return 0

    monkeypatch.setattr(demo, "run", run)
    out = tmp_path / "facts.json"
    assert demo.main([*arguments, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["facts"] == {"firings": 7, "orphans": 0}


def test_what_a_server_writes_while_it_stops_goes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar whose history was removed under it makes a new one."""
    folders: list[Path] = []

    def run(*given: Any, ending: Ending) -> int:
        *_, folder, servers = given
        folders.append(folder)
        server = start("child", ["sh", "-c", LAST_WORDS.format(folder=folder)], tmp_path / "log")
        servers.append(server)
        wait_until(lambda: "ready" in server.log.read_text())
        return 0

    monkeypatch.setattr(demo, "run", run)
    assert demo.main(["--once"]) == 0
    assert (tmp_path / "log").read_text() == "ready\nwritten\n"
    assert not folders[0].exists()


def test_a_script_that_was_not_run_to_its_end_has_no_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_given: Any, ending: Ending) -> int:
        raise Stop

    monkeypatch.setattr(demo, "run", run)
    assert demo.main(["--json", str(tmp_path / "facts.json")]) == 2
    assert not (tmp_path / "facts.json").exists()


class Asks:
    """Stands for `Shows`: all prompts that are asked wait for the engine to end."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.engine_ended = threading.Event()

    def ask(self, prompt: Mapping[str, Any], **_how: object) -> View:
        self.asked.append(prompt["text"])
        self.engine_ended.wait(30)
        return View(title="r")

    def show(self, view: View) -> None:
        """Is not shown."""


def test_ctrl_c_does_not_wait_for_the_prompts_in_the_queue(
    monkeypatch: pytest.MonkeyPatch, threads_left: Callable[[], list[str]]
) -> None:
    shows: Any = Asks()

    def stopped(_waiting: object) -> None:
        """Ctrl-C, as `Ending` tells it, while the first prompts are asked and all others wait."""
        wait_until(lambda: len(shows.asked) == demo.ONCE_AT_A_TIME)
        raise Stop

    monkeypatch.setattr(concurrent.futures, "as_completed", stopped)
    with pytest.raises(Stop):
        demo.once(argparse.Namespace(prompts=24, max_tokens=4), shows, [])
    assert any("ThreadPoolExecutor" in name for name in threads_left()), "nobody waited for those that are asked"
    shows.engine_ended.set()
    wait_until(lambda: not any("ThreadPoolExecutor" in name for name in threads_left()))
    assert len(shows.asked) == demo.ONCE_AT_A_TIME
