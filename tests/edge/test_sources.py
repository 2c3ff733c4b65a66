"""The ingest thread, with engines on a real socket."""

from __future__ import annotations

import random
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.core.records import Ack, Record, RequestStart
from saewatch.core.wire import encode
from saewatch.edge import sources
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.sources import SocketSource
from tests import fakes
from tests.descriptors import no_free_descriptor
from tests.edge.running import Running
from tests.fakes import FakeApi, FakeEngine
from tests.waiting import wait_until


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(str(tmp_path / "s.sock"))
    one.source.start()
    yield one
    one.source.stop()
    assert one.source.failed is None
    assert not Path(one.path).exists()


def test_batches_arrive_and_are_acknowledged_after_that(running: Running) -> None:
    with running.engine().ready() as engine:
        engine.start(7, name="plain")
        engine.batch([(7, 0, 4)], [(2, 1, 3.0)])
        assert engine.acked(1)
        (event,) = running.observed()
        assert event.requests[0].engine_id == "plain"
        assert event.batch.value.tolist() == [3.0]


def test_an_acknowledgement_comes_at_64_batches_without_waiting(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ACK_INTERVAL_NS", 10**12)
    with running.engine().ready() as engine:
        engine.start(7, name="plain")
        for position in range(limits.ACK_FRAMES - 1):
            engine.batch([(7, position, 1)])
        assert engine.receive(0.3) is None
        engine.batch([(7, 99, 1)])
        ack = engine.receive()
        assert isinstance(ack, Ack)
        assert ack.seq == limits.ACK_FRAMES


def test_acknowledgements_are_few(running: Running) -> None:
    with running.engine().ready() as engine:
        engine.start(7, name="plain")
        for position in range(20):
            engine.batch([(7, position, 1)])
        acks = []
        while (ack := engine.receive(0.3)) is not None:
            acks.append(ack)
        assert len(acks) <= 3


def test_after_a_reconnect_the_engine_learns_what_arrived(running: Running) -> None:
    with running.engine().ready() as engine:
        engine.start(7, name="plain")
        for position in range(10):
            engine.batch([(7, position, 1)])
    with running.engine() as again:
        assert again.open_stream() == 10, "what lay in the kernel when it left, included"
        again.watch()
        again.start(7, name="plain")
        again.batch([(7, 10, 1)], seq=11)
        assert again.acked(11)
    assert sum(event.batch.rows for event in running.observed()) == 11
    assert running.stream().seq_gaps == 0


def test_it_learns_so_even_when_the_sidecar_was_busy_and_acknowledgements_were_unread(running: Running) -> None:
    for epoch in range(8):  # a race if there is one
        with running.engine(epoch=epoch).ready() as engine:
            engine.start(7, name="plain")
            for position in range(100):
                engine.batch([(7, position, 1)])
            time.sleep(random.random() / 50)
        with running.engine(epoch=epoch) as again:
            assert again.open_stream() == 100


def test_batches_sent_again_are_dropped(running: Running) -> None:
    with running.engine().ready() as engine:
        engine.start(7, name="plain")
        engine.batch([(7, 0, 3)])
        engine.batch([(7, 0, 3)], seq=1)
        engine.batch([(7, 3, 1)])
        assert engine.acked(2)
    assert [event.batch.rows for event in running.observed()] == [3, 1]
    assert running.stream().duplicates == 1


def test_a_jump_in_the_sequence_is_counted(running: Running) -> None:
    with running.engine().ready() as engine:
        engine.start(7, name="plain")
        engine.batch([(7, 0, 1)])
        engine.batch([(7, 5, 1)], seq=6)
        assert engine.acked(6)
    assert running.stream().seq_gaps == 1


def test_two_engines_and_two_api_servers(running: Running) -> None:
    with (
        running.engine(engine="a").ready() as left,
        running.engine(engine="b", epoch=5).ready() as right,
        FakeApi(running.path) as one,
        FakeApi(running.path) as other,
    ):
        one.label(1)
        other.label(2)
        left.start(1)
        right.start(1, name=fakes.engine_id(2))
        left.batch([(1, 0, 2)])
        right.batch([(1, 0, 3)])
        assert left.acked(1)
        assert right.acked(1)
        wait_until(lambda: len(running.observed()) == 2)
        found = {event.requests[0].client_id: event.batch.rows for event in running.observed()}
        assert found == {"client-1": 2, "client-2": 3}


def test_a_late_label(running: Running) -> None:
    with running.engine().ready() as engine, FakeApi(running.path) as api:
        engine.start(7)
        engine.batch([(7, 0, 1)])
        assert engine.acked(1), "held is received"
        assert running.observed() == []
        api.label(7)
        wait_until(lambda: len(running.observed()) == 1)
        assert running.observed()[0].requests[0].client_id == "client-7"


def test_a_label_that_never_comes(running: Running) -> None:
    with running.engine().ready() as engine:
        engine.start(7)
        engine.batch([(7, 0, 1)])
        wait_until(lambda: len(running.observed()) == 1)
        assert running.observed()[0].requests[0].traffic_class == "unlabelled"


# --- bad input ----------------------------------------------------------------------------------------------------
FRAME = encode(RequestStart(request=1, engine_id="x", prompt_len=1))
BAD = {
    "noise": (b"\x01\x02\x03" * 30, "CorruptFrame"),
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n", "CorruptFrame"),
    "a cut frame": (FRAME[:-1], "TruncatedFrame"),
    "a header alone": (FRAME[:10], "TruncatedFrame"),
    "a longer frame": (FRAME + b"x", "CorruptFrame"),
    "a changed byte": (FRAME[:-2] + b"zz", "CorruptFrame"),
    "a later version": (FRAME[:4] + b"\x09" + FRAME[5:], "VersionMismatch"),
    "a datagram that is too long": (b"S" * (limits.FRAME_BYTES + 1), "OversizedFrame"),
    "a frame and more than fits": (FRAME + b"\0" * limits.FRAME_BYTES, "OversizedFrame"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_frame_is_counted_by_class_and_the_next_one_is_read(running: Running, name: str) -> None:
    data, kind = BAD[name]
    with running.engine().ready() as engine:
        engine.send_bytes(data)
        engine.start(7, name="plain")
        engine.batch([(7, 0, 1)])
        assert engine.acked(1)
    assert running.faults() == {kind: 1}


def test_nothing_but_bad_frames_ends_the_connection(running: Running) -> None:
    with running.engine().ready() as engine:
        for _ in range(limits.BAD_FRAMES_IN_A_ROW - 1):
            engine.send_bytes(b"noise")
        engine.beat()
        for _ in range(limits.BAD_FRAMES_IN_A_ROW - 1):
            engine.send_bytes(b"noise")
        assert not engine.closed_by_sidecar(0.3)
        engine.send_bytes(b"noise")
        assert engine.closed_by_sidecar()
    assert running.faults() == {"TruncatedFrame": 31, "closed_for_bad_frames": 1}


def test_records_that_make_no_sense_are_refused_and_counted(running: Running) -> None:
    with running.engine() as engine:
        engine.batch([(7, 0, 1)])
        engine.start(7, name="plain")
        engine.end(7)
        engine.watch()
        engine.open_stream()
        engine.batch([(7, 0, 1)], seq=1)
        assert engine.acked(1)
    assert running.faults() == {"refused_record": 5}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(st.binary(min_size=1, max_size=200), st.tuples(st.integers(0, 200), st.integers(0, 255))), max_size=8
    )
)
def test_fuzzed_frames_never_stop_the_thread(running: Running, changes: list[bytes | tuple[int, int]]) -> None:
    with running.engine() as engine:
        for change in changes:
            if isinstance(change, tuple):
                data = bytearray(encode(fakes.stream_open(running.known)))
                data[change[0] % len(data)] = change[1]
                engine.send_bytes(bytes(data))
            else:
                engine.send_bytes(change)
    assert running.source.alive


def test_a_peer_that_leaves_at_once(running: Running) -> None:
    for _ in range(50):
        FakeApi(running.path).close()
    with running.engine().ready() as engine:
        engine.start(7, name="plain")
        engine.batch([(7, 0, 1)])
        assert engine.acked(1)
    wait_until(lambda: running.pipeline.status().links == 0)


def test_an_engine_that_does_not_read_its_acknowledgements_holds_nobody_up(running: Running) -> None:
    with running.engine().ready() as deaf, running.engine(engine="b").ready() as other:
        for _ in range(1000):  # each is answered at once, and the kernel keeps some 280 answers
            deaf.send(fakes.stream_open(running.known))
        for one in (deaf, other):
            one.start(7, name="plain")
            one.batch([(7, 0, 1)])
        assert other.acked(1)
        wait_until(lambda: running.stream().received_seq == 1)
        time.sleep(0.2)
        assert deaf.acked(1), "it stays due until there is room"


def test_connections_are_bounded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS", 3)
    peers = [FakeApi(running.path) for _ in range(5)]
    wait_until(lambda: running.faults().get("too_many_connections") == 2)
    peers[0].close()
    wait_until(lambda: running.pipeline.status().links == 2)
    with running.engine().ready():
        pass
    for peer in peers[1:]:
        peer.close()


def test_another_users_process_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Running(str(tmp_path / "s.sock"))
    monkeypatch.setattr("saewatch.edge.listener.peer_uid", lambda _: 4242)
    one.source.start()
    with FakeApi(one.path) as api:
        assert api.closed_by_sidecar()
    one.source.stop()
    assert one.faults() == {"foreign_user": 1}


def test_a_listed_user_may_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = fakes.dictionary()
    pipeline = Pipeline(dictionaries={known.weights_digest: known})
    monkeypatch.setattr("saewatch.edge.listener.peer_uid", lambda _: 4242)
    source = SocketSource(path=str(tmp_path / "s.sock"), consumer=pipeline, allowed_users=[4242])
    source.start()
    assert stat.S_IMODE((tmp_path / "s.sock").stat().st_mode) == 0o666, "or the kernel would refuse that user"
    with FakeEngine(str(tmp_path / "s.sock"), known) as engine:
        assert engine.open_stream() == 0
    source.stop()


def test_descriptors_that_are_passed_along_are_not_taken(running: Running, tmp_path: Path) -> None:
    passed = tmp_path / "passed"
    with running.engine().ready() as engine, passed.open("w") as file:
        start = encode(RequestStart(request=7, engine_id="plain", prompt_len=1))
        for _ in range(20):
            engine.send_with_descriptor(start, file.fileno())
        engine.batch([(7, 0, 1)])
        assert engine.acked(1)
        assert [one.resolve() for one in Path("/proc/self/fd").iterdir()].count(passed.resolve()) == 1, "our own"


def test_what_was_received_is_acknowledged_at_the_end(tmp_path: Path) -> None:
    one = Running(str(tmp_path / "s.sock"))
    one.source.start()
    with one.engine().ready() as engine:
        engine.start(7, name="plain")
        engine.batch([(7, 0, 1)])
        wait_until(lambda: len(one.observed()) == 1)
        one.source.stop()
        assert engine.acked(1)


def test_it_stops_before_it_was_started(tmp_path: Path) -> None:
    one = Running(str(tmp_path / "s.sock"))
    one.source.stop()
    assert not Path(one.path).exists()


def test_a_second_sidecar_on_the_same_socket(running: Running) -> None:
    with pytest.raises(Exception, match="somebody listens"):
        SocketSource(path=running.path, consumer=running.pipeline)
    with running.engine().ready():
        pass


def test_the_kernels_buffer_takes_a_frame() -> None:
    """`limits.BACKLOG_FRAMES` is more than a closed connection can leave behind."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * limits.FRAME_BYTES)
        left.settimeout(0)
        left.send(b"x" * limits.FRAME_BYTES)
        count = 1
        try:
            while True:
                left.send(b"x")
                count += 1
        except BlockingIOError:
            assert count < limits.BACKLOG_FRAMES


def test_a_fault_of_the_consumer_costs_that_connection_only(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    receive = running.pipeline.receive

    def faulty(link: int, record: Record) -> None:
        if isinstance(record, RequestStart) and record.engine_id == "boom":
            raise KeyError("boom")
        receive(link, record)

    monkeypatch.setattr(running.pipeline, "receive", faulty)
    with running.engine().ready() as broken, running.engine(engine="b").ready() as other:
        broken.start(7, name="boom")
        assert broken.closed_by_sidecar()
        other.start(7, name="plain")
        other.batch([(7, 0, 1)])
        assert other.acked(1)
    assert running.faults() == {"consumer_fault": 1}


def test_without_a_free_descriptor_it_waits_and_goes_on(running: Running) -> None:
    with running.engine().ready() as engine, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as late:
        began = time.monotonic()
        with no_free_descriptor():
            late.connect(running.path)
            wait_until(lambda: running.faults().get("accept_failed", 0) >= 2)
            engine.start(7, name="plain")
            engine.batch([(7, 0, 1)])
            assert engine.acked(1)
            time.sleep(0.5)
        assert running.faults()["accept_failed"] < 2 + (time.monotonic() - began) / sources.TICK_S, "once a tick"
        wait_until(lambda: running.pipeline.status().links == 2)


def test_an_engine_that_lost_its_name_connects_anew_when_it_is_free(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks, tick = list[None](), running.pipeline.tick
    monkeypatch.setattr(running.pipeline, "tick", lambda: ticks.append(tick()))
    with running.engine(epoch=1).ready() as engine:
        with running.engine(epoch=2).ready():
            engine.beat()
            wait_until(lambda: running.faults() == {"refused_record": 1})
        monkeypatch.setattr(limits, "LOST_ENGINE_NS", 0)
        wait_until(lambda: not running.pipeline.engines())
        before = len(ticks)
        wait_until(lambda: len(ticks) > before + 1)
        engine.beat()
        wait_until(lambda: running.pipeline.status().links == 0)
    with running.engine(epoch=1).ready():
        wait_until(lambda: running.pipeline.engines() == ["engine-0"])
    assert running.faults() == {"refused_record": 1}
