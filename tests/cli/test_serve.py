"""A real ``saewatch serve``: signals, stops, kills and restarts."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from saewatch.core.records import Ack
from saewatch.edge.pb import firing_pb2, firing_pb2_grpc, status_pb2, status_pb2_grpc
from tests import fakes, sidecar
from tests.fakes import FakeEngine
from tests.sidecar import Sidecar
from tests.waiting import wait_until

KNOWN = fakes.dictionary()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Sidecar]:
    with Sidecar(tmp_path, [KNOWN]) as one:
        yield one


def status(one: Sidecar) -> status_pb2.GetStatusResponse:
    with grpc.insecure_channel(one.addresses["grpc"]) as channel:
        stub: Any = status_pb2_grpc.StatusServiceStub(channel)
        answer: status_pb2.GetStatusResponse = stub.GetStatus(status_pb2.GetStatusRequest(), timeout=5)
        return answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_nothing_left(running: Sidecar, number: signal.Signals) -> None:
    with (
        grpc.insecure_channel(running.addresses["grpc"]) as channel,
        FakeEngine(running.addresses["socket"], KNOWN) as engine,
    ):
        stub: Any = firing_pb2_grpc.FiringServiceStub(channel)
        call = stub.WatchFirings(firing_pb2.WatchFiringsRequest())
        next(call)
        engine.ready()
        began = time.monotonic()
        running.signal(number)
        kinds = [message.WhichOneof("event") for message in call]
        assert running.process.wait(10) == 0
        assert time.monotonic() - began < 10
    assert kinds[-1] == "drain"
    assert not Path(running.addresses["socket"]).exists()
    assert [line["event"] for line in running.lines()][-1] == "stopped"
    assert "Traceback" not in running.log.read_text()


def test_subscribers_that_do_not_read_do_not_hold_up_the_end(running: Sidecar) -> None:
    with grpc.insecure_channel(running.addresses["grpc"]) as channel:
        stub: Any = firing_pb2_grpc.FiringServiceStub(channel)
        calls = [stub.WatchFirings(firing_pb2.WatchFiringsRequest()) for _ in range(3)]
        wait_until(lambda: status(running).subscribers == 3)
        running.signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        for call in calls:
            call.cancel()


def test_the_engine_may_come_later_leave_and_come_again(running: Sidecar) -> None:
    wait_until(lambda: running.blind() == ["no_engine"])
    assert running.get("/healthz")[0] == 200
    with FakeEngine(running.addresses["socket"], KNOWN) as engine:
        engine.ready()
        wait_until(lambda: running.get("/readyz")[0] == 200)
        engine.start(7, name="plain")
        engine.batch([(7, 0, 4)])
        assert engine.acked(1)
    wait_until(lambda: running.blind() == ["no_engine"])
    with FakeEngine(running.addresses["socket"], KNOWN, epoch=2000) as engine:
        assert engine.open_stream() == 0
        engine.watch()
        engine.beat()
        wait_until(lambda: running.get("/readyz")[0] == 200)


def test_a_killed_engine_is_said_to_be_blind_and_serving_goes_on(running: Sidecar) -> None:
    with FakeEngine(running.addresses["socket"], KNOWN) as engine:
        engine.ready()
        wait_until(lambda: running.get("/readyz")[0] == 200)
        wait_until(lambda: running.blind() == ["no_beat"])  # three beats were missed
        assert 'reason="no_beat",scope="tap"} 1.0' in running.get("/metrics")[1]
        engine.beat()
        wait_until(lambda: running.get("/readyz")[0] == 200)
    assert status(running).version


def test_a_killed_sidecar_leaves_a_file_that_the_next_one_removes(running: Sidecar) -> None:
    with FakeEngine(running.addresses["socket"], KNOWN) as engine:
        engine.ready()
        running.process.kill()
        running.process.wait()
        assert engine.closed_by_sidecar()
    assert Path(running.addresses["socket"]).exists()
    running.start_again()
    with FakeEngine(running.addresses["socket"], KNOWN) as engine:
        assert engine.open_stream() == 0, "a new process has received nothing"


def test_a_stopped_sidecar_takes_what_lay_in_the_kernel_when_it_goes_on(running: Sidecar) -> None:
    path = running.addresses["socket"]
    with FakeEngine(path, KNOWN) as engine:
        engine.ready()
        engine.start(7, name="plain")
        running.signal(signal.SIGSTOP)
        sent = 0
        while engine.send_without_waiting(fakes.frame([(7, sent, 1)], seq=sent + 1)):
            sent += 1
        assert sent > 10
    again = FakeEngine(path, KNOWN)  # the kernel accepts for it
    again.send(fakes.stream_open(KNOWN, engine="engine-0", epoch=1000))
    assert again.receive(0.2) is None
    running.signal(signal.SIGCONT)
    ack = again.receive()
    assert isinstance(ack, Ack)
    assert ack.seq == sent
    again.close()
    wait_until(lambda: status(running).streams[0].received_rows == sent)


def test_an_unknown_dictionary_is_refused_loudly(running: Sidecar) -> None:
    other = fakes.dictionary(seed=9)
    with FakeEngine(running.addresses["socket"], other) as engine:
        engine.ready()
        engine.start(7, name="plain")
        engine.batch([(7, 0, 4)])
        assert engine.acked(1), "received: or the engine would keep it for ever"
        wait_until(lambda: running.blind() == ["unknown_dictionary"])
    found = status(running)
    assert found.counters["unreadable_tokens"] == 4
    assert 'outcome="missed",reason="blind",role="stable"} 4.0' in running.get("/metrics")[1]
    (line,) = [line for line in running.lines() if line.get("reason") == "unknown_dictionary"]
    assert other.weights_digest[:19] in line["subject"]
    assert "dictionaries" in line["hint"]


def test_garbage_does_not_stop_it(running: Sidecar) -> None:
    with FakeEngine(running.addresses["socket"], KNOWN) as engine, contextlib.suppress(BrokenPipeError):
        for _ in range(20):  # it may hang up before the last of them
            if not engine.send_without_waiting(b"\xff" * 5000):
                break
    wait_until(lambda: status(running).counters["closed_for_bad_frames"] == 1)
    with FakeEngine(running.addresses["socket"], KNOWN) as engine:
        engine.ready()
        wait_until(lambda: running.get("/readyz")[0] == 200)
    said = [line for line in running.lines() if line["event"] == "not accepted"]
    assert len(said) == 1, "once for each connection and kind"


def test_a_second_one_on_the_same_socket_is_refused(running: Sidecar) -> None:
    done = sidecar.called("serve", "-c", running.config)
    assert done.returncode == 2
    assert "somebody listens" in done.stderr
    assert running.get("/healthz")[0] == 200


def test_a_bad_configuration(tmp_path: Path) -> None:
    (tmp_path / "saewatch.yaml").write_text("sockets: /x")
    done = sidecar.run("serve", "-c", tmp_path / "saewatch.yaml", "--json")
    assert done.returncode == 2
    assert '"subject": "sockets"' in done.stdout
    assert sidecar.called("serve", "-c", tmp_path / "nowhere").returncode == 3


@pytest.mark.parametrize("place", ["nope/x.json", "folder"])
def test_addresses_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    local = {"listen": "127.0.0.1:0"}
    config = {"socket": f"{tmp_path}/s.sock", "grpc": local, "web": local, "history": {"path": ""}}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    done = sidecar.called("serve", "-c", tmp_path / "c.yaml", "--addresses", tmp_path / place)
    assert done.returncode == 3, done.stderr
    assert f"{tmp_path / place}: found" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == ["c.yaml", "folder"]
    assert not any((tmp_path / "folder").iterdir())


def test_the_addresses_are_printed_and_a_dictionary_may_be_named(tmp_path: Path) -> None:
    bundle = fakes.write_bundle(tmp_path / "bundle", KNOWN)
    local = {"listen": "127.0.0.1:0"}
    config = {"socket": f"{tmp_path}/s.sock", "grpc": local, "web": local, "history": {"path": ""}}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    words = sidecar.command("serve", "-c", tmp_path / "c.yaml", "--dictionary", bundle, "--json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=sidecar.ENVIRONMENT) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        with FakeEngine(f"{tmp_path}/s.sock", KNOWN) as engine:
            engine.ready()
            with urllib.request.urlopen(json.loads(line)["ready"], timeout=5) as answer:
                assert answer.status == 200
        process.terminate()
        assert process.wait(10) == 0
    assert b'"grpc": "127.0.0.1:' in line
