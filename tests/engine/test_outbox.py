"""The bounded queue and its socket: all or nothing, never blocking, and what arrived before an end is not lost."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from saewatch.core import limits
from saewatch.core.errors import UnreachableError
from saewatch.core.records import Ack
from saewatch.core.wire import encode
from saewatch.engine.outbox import RECEIVED_PER_TURN, Outbox
from tests.descriptors import no_free_descriptor

ACK = encode(Ack(stream=0, epoch=1, seq=1))


@contextlib.contextmanager
def connected(path: Path, bound: int = 1000) -> Iterator[tuple[Outbox, socket.socket]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        outbox = Outbox(path=str(path), bound=bound)
        assert outbox.connect()
        peer, _ = listener.accept()
        with peer:
            yield outbox, peer
        outbox.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def test_nobody_there(path: Path) -> None:
    outbox = Outbox(path=str(path), bound=1000)
    assert not outbox.connect()
    assert not outbox.connected
    assert (outbox.fileno(), outbox.receive()) == (-1, [])
    assert not outbox.put_batch([b"x"])
    assert not outbox.put_control(b"x")
    outbox.flush()


def test_without_a_free_descriptor_nobody_is_there_for_now(path: Path) -> None:
    with connected(path) as (outbox, _):
        outbox.close()
        with no_free_descriptor():
            assert not outbox.connect()
        assert (outbox.connected, outbox.connection) == (False, 1)
        assert outbox.connect()


def test_a_listener_that_never_accepts_blocks_nobody(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(0)
        several = [Outbox(path=str(path), bound=1000) for _ in range(3)]
        assert [outbox.connect() for outbox in several] == [True, False, False]
        for outbox in several:
            outbox.close()


def test_frames_arrive_whole_and_in_order(path: Path) -> None:
    with connected(path) as (outbox, peer):
        assert outbox.put_control(b"one")
        assert outbox.put_batch([b"two", b"three"])
        assert (outbox.bytes, outbox.waiting, outbox.room) == (11, True, 989)
        outbox.flush()
        assert [peer.recv(100) for _ in range(3)] == [b"one", b"two", b"three"]
        assert (outbox.bytes, outbox.waiting) == (0, False)


def test_a_batch_is_queued_as_a_whole_or_not_at_all(path: Path) -> None:
    with connected(path) as (outbox, _):
        assert outbox.put_batch([b"x" * 600])
        assert not outbox.put_batch([b"y" * 200, b"z" * 201])
        assert outbox.bytes == 600
        assert outbox.put_batch([b"y" * 200, b"z" * 200])


def test_control_records_may_exceed_the_bound_by_so_much(path: Path) -> None:
    with connected(path) as (outbox, _):
        assert outbox.put_batch([b"x" * 1000])
        assert outbox.put_control(b"c" * limits.CONTROL_BYTES)
        assert not outbox.put_control(b"c")


def test_a_frame_of_the_largest_size_goes_out_and_a_full_kernel_keeps_the_rest_waiting(path: Path) -> None:
    with connected(path, bound=100 * limits.FRAME_BYTES) as (outbox, peer):
        frame = b"x" * limits.FRAME_BYTES
        assert outbox.put_batch([frame] * 50)
        outbox.flush()
        assert outbox.waiting
        received = 0
        while received < 50:
            received += len(peer.recv(2 * limits.FRAME_BYTES)) == limits.FRAME_BYTES
            outbox.flush()
        assert (outbox.waiting, outbox.bytes) == (False, 0)


def test_the_end_of_a_connection_is_an_error_and_a_new_one_has_another_number(path: Path) -> None:
    with connected(path) as (outbox, peer):
        peer.close()
        outbox.put_control(b"x")
        with pytest.raises(UnreachableError):
            outbox.receive()
        with pytest.raises(UnreachableError):
            outbox.flush()
        first = outbox.connection
        outbox.close()
        assert (outbox.bytes, outbox.waiting, outbox.connected) == (0, False, False)
        assert outbox.connect()
        assert outbox.connection == first + 1


@pytest.mark.parametrize("unread", [False, True])
def test_what_came_before_the_end_is_given_first(path: Path, *, unread: bool) -> None:
    """With something unread in the other direction, the kernel reports a reset before it gives the data."""
    with connected(path) as (outbox, peer):
        if unread:
            outbox.put_control(b"x")
            outbox.flush()
        peer.send(ACK)
        peer.close()
        assert len(outbox.receive()) == 1
        with pytest.raises(UnreachableError):
            outbox.receive()


def test_what_is_no_frame_is_counted_and_the_next_is_read(path: Path) -> None:
    with connected(path) as (outbox, peer):
        for data in (b"nonsense", ACK[:-1], ACK):
            peer.send(data)
        assert len(outbox.receive()) == 1
        assert outbox.bad_frames == 2


def test_a_flood_from_the_sidecar_is_read_in_portions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saewatch.engine.outbox.RECEIVED_PER_TURN", 3)
    assert RECEIVED_PER_TURN > 3
    with connected(path) as (outbox, peer):
        for _ in range(5):
            peer.send(ACK)
        assert [len(outbox.receive()) for _ in range(3)] == [3, 2, 0]
