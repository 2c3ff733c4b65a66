"""saewatch watch, against a fake sidecar and as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from saewatch import cli
from saewatch.client.fake import FakeServer
from tests import sidecar
from tests.waiting import wait_until


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.tokens(6, missed={"cached": 1}, firings=[(1, "violence.p1", 2.5), (5, "greeting.g1", 1.5)])
        server.tokens(3, request="r2", firings=[(0, "medical.p1", 0.5)])
        server.ends("r1")
        yield server


def watch(server: FakeServer, *more: str) -> int:
    return cli.main(["watch", "--address", server.address, *more])


def test_for_people(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(server, "--for", "3") == cli.GOOD
    text = capsys.readouterr().out
    assert "r1 prompt 1: violence.p1 2.50" in text
    assert "r1 answer 5: greeting.g1 1.50  hesitation.l1 1.50" in text
    assert "r1 ended: 7 tokens fed" in text
    assert "9 tokens seen, 3 slot firings, 1 requests ended; missed 1 cached; 0 gaps" in text
    assert "\x1b" not in text


def test_for_programs(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(server, "--count", "3", "--json") == cli.GOOD
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in found] == ["firings", "firings", "totals"]
    assert [one["feature"] for one in found[0]["feature_firings"]] == ["violence.p1", "greeting.g1", "hesitation.l1"]
    fired = [one["slot_firings"] for one in found[:-1]]
    assert (fired, sum(fired)) == ([2, 1], found[-1]["firings"]), "a latent that serves two features counts once"


def test_the_filters_are_the_clients(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--feature", "greeting.g1", "--feature", "medical.p1", "--category", "x.greeting", "--request", "r1"]
    wanted += ["--min-value", "1", "--traffic-class", "live", "--tenant", ""]
    assert watch(server, *wanted, "--count", "1") == cli.GOOD
    lines = [line for line in capsys.readouterr().out.splitlines() if " answer " in line or " prompt " in line]
    assert [line[9:] for line in lines] == ["r1 answer 5: greeting.g1 1.50"]


def test_it_goes_on_from_a_token(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(server, "--count", "1", "--json") == cli.GOOD
    token = json.loads(capsys.readouterr().out.splitlines()[-1])["resume_token"]
    assert watch(server, "--count", "1", "--resume-token", token) == cli.GOOD
    text = capsys.readouterr().out
    assert "r2 prompt 0: medical.p1" in text
    assert "violence" not in text


def test_what_was_blind_before_it_came_is_said(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.coverage(blind="no_beat", hint="Look at the engine.")
    token = server.log.head.token
    assert watch(server, "--for", "0.5", "--resume-token", token) == cli.GOOD
    assert "fake-engine, no_beat. Look at the engine." in capsys.readouterr().out


def test_what_there_is_not(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(server, "--category", "violence") == cli.FAILED
    assert "filter.categories[0]: found 'violence', expected one of spc_hlt" in capsys.readouterr().err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["watch", "--address", "127.0.0.1:1", "--give-up-after", "0.5"]) == cli.UNREACHED
    captured = capsys.readouterr()
    assert "DISCONNECTED, attempt 1" in captured.out
    assert "0 tokens seen" in captured.out
    assert "no connection in 0.5 s" in captured.err


def test_nobody_there_when_the_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["watch", "--address", "127.0.0.1:1", "--for", "0.5"]
    assert cli.main(words) == cli.UNREACHED
    captured = capsys.readouterr()
    assert "0 tokens seen" in captured.out
    assert "no connection when the time was over, expected a sidecar" in captured.err
    assert "Is `saewatch serve` running" in captured.err
    assert cli.main([*words, "--json"]) == cli.UNREACHED
    totals, error = map(json.loads, capsys.readouterr().out.splitlines()[-2:])
    assert (totals["event"], error["error"]["found"]) == ("totals", "no connection when the time was over")


def test_a_sidecar_that_leaves_before_the_time_is_over(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[int] = []
    watching = threading.Thread(target=lambda: ended.append(watch(server, "--for", "3")))
    watching.start()
    wait_until(lambda: server.watchers)
    server.stop()
    watching.join(60)
    assert ended == [cli.UNREACHED]
    assert "no connection when the time was over" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--count", "0"], ["--for", "x"], ["--for", "inf"], ["--traffic-class", "life"]])
def test_a_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["watch", *words])
    assert caught.value.code == cli.USAGE


def test_ctrl_c_ends_it_with_the_totals(server: FakeServer) -> None:
    words = sidecar.command("watch", "--address", server.address)
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=sidecar.ENVIRONMENT
    )
    assert process.stdout is not None
    assert any("r1 ended" in line for line in process.stdout), "the last event that there is"
    server.stop()  # gRPC would say something of its own about that
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (cli.GOOD, "")
    assert "9 tokens seen" in out


@pytest.mark.parametrize(("name", "coloured"), [("HOME", True), ("NO_COLOR", False)])
def test_a_terminal(server: FakeServer, name: str, coloured: bool) -> None:
    near, far = pty.openpty()
    words = sidecar.command("watch", "--address", server.address, "--for", "2")
    environment = {**sidecar.ENVIRONMENT, "TERM": "xterm", name: os.environ.get(name, "1")}
    process = subprocess.Popen(words, stdout=far, stderr=subprocess.PIPE, env=environment)
    os.close(far)
    chunks: list[bytes] = []

    def read() -> None:
        while True:
            try:
                chunks.append(os.read(near, 65536))
            except OSError:  # a terminal whose other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    process.wait(30)
    reader.join(10)
    os.close(near)
    text = b"".join(chunks).decode()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
    assert "tokens/s · coverage" in text
    assert ("\x1b[31m" in text) is coloured
