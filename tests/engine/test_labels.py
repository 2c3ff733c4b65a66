"""The socket of labels: what it costs when nobody reads, and that it comes back."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from pathlib import Path

import pytest

from saewatch.core.wire import decode
from saewatch.engine.labels import LabelSender
from saewatch.engine.middleware import label_of
from tests.descriptors import no_free_descriptor


def test_a_sidecar_that_does_not_read_costs_labels_and_no_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        sender, label = LabelSender(str(tmp_path / "socket")), label_of([(b"x-request-id", b"i" * 200)], trusted=False)
        thread = threading.Thread(target=lambda: deque(map(sender.send, [label] * 5000)), daemon=True)
        thread.start()
        thread.join(10)
        sender.close()
        assert not thread.is_alive()
        assert 0 < sender.dropped < 5000


async def test_a_sidecar_that_reads_late_gets_all_of_a_burst_in_order(tmp_path: Path) -> None:
    """More than the kernel takes: its buffer is full after some 280 of them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        sender = LabelSender(str(tmp_path / "socket"))
        labels = [label_of([(b"x-request-id", f"client-{number}".encode())], trusted=False) for number in range(2000)]
        for label in labels:
            sender.send(label)
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            loop = asyncio.get_running_loop()
            read = [decode(await asyncio.wait_for(loop.sock_recv(connection, 10_000), 10)) for _ in labels]
            assert read == labels
            sender.send(labels[0])
            assert decode(await asyncio.wait_for(loop.sock_recv(connection, 10_000), 10)) == labels[0]
        assert sender.dropped == 0
        sender.close()


async def test_what_waits_for_a_sidecar_that_goes_is_counted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        sender, label = LabelSender(str(tmp_path / "socket")), label_of([], trusted=False)
        for _ in range(1000):
            sender.send(label)
        listener.accept()[0].close()
        (tmp_path / "socket").unlink()
        for _ in range(100):
            await asyncio.sleep(0.01)
        assert 0 < sender.dropped < 1000, "the kernel had taken the others"
        sender.send(label)
        sender.close()


def test_labels_go_out_again_when_the_sidecar_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saewatch.engine.labels.RECONNECT_EVERY_S", 0.0)
    sender, label = LabelSender(str(tmp_path / "socket")), label_of([], trusted=False)
    for _ in range(2):
        (tmp_path / "socket").unlink(missing_ok=True)
        sender.send(label)
        dropped = sender.dropped
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(tmp_path / "socket"))
            listener.listen()
            sender.send(label)
            connection, _ = listener.accept()
            with connection:
                assert decode(connection.recv(10_000)) == label
        assert sender.dropped == dropped
    sender.close()
    assert sender.dropped == 2


def test_without_a_free_descriptor_the_sidecar_is_away_and_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saewatch.engine.labels.RECONNECT_EVERY_S", 0.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        sender, label = LabelSender(str(tmp_path / "socket")), label_of([], trusted=False)
        with no_free_descriptor():
            sender.send(label)
            sender.send(label)
        assert sender.dropped == 2
        sender.send(label)
        connection, _ = listener.accept()
        with connection:
            assert decode(connection.recv(10_000)) == label
        sender.close()
    assert sender.dropped == 2


def test_a_fault_of_ours_costs_labels_is_said_once_and_reaches_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> bytes:
        raise ZeroDivisionError("nobody foresaw it")

    monkeypatch.setattr("saewatch.engine.labels.encode", broken)
    sender, label = LabelSender(str(tmp_path / "socket")), label_of([], trusted=False)
    for _ in range(3):
        sender.send(label)
    assert sender.dropped == 3
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "labels" in caplog.text


def test_without_a_socket_configured_nothing_is_sent_and_nothing_counts_as_dropped() -> None:
    sender = LabelSender("")
    sender.send(label_of([], trusted=False))
    assert sender.dropped == 0
