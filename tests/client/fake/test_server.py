"""The port of a fake sidecar, and what happens to its connections."""

from __future__ import annotations

import pytest

from saewatch.client import Client
from saewatch.client.fake import FakeServer
from saewatch.client.fake import server as module
from saewatch.client.fake.made import FEATURES
from saewatch.core.errors import UnreachableError


def test_it_keeps_its_port() -> None:
    with FakeServer() as server:
        address = server.address
        assert not address.endswith(":0")
        for again in (server.cut, server.restart, server.start):
            again()
            assert server.address == address
            with Client(address) as client:
                assert client.status().version
        server.stop()
        with Client(address) as client, pytest.raises(UnreachableError):
            client.status()


def test_a_port_that_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as server, pytest.raises(UnreachableError, match="an address that is free"):
        FakeServer(server.address)
    assert capfd.readouterr() == ("", ""), "gRPC says nothing of its own"


def test_a_host_that_is_not_here() -> None:
    for address in ("nowhere.invalid:0", "192.0.2.1:0"):
        with pytest.raises(UnreachableError, match=address):
            FakeServer(address)


def test_a_port_that_another_program_took_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PORT_WAIT_S", 0.2)
    with FakeServer() as server:
        server.stop()
        with FakeServer(server.address), pytest.raises(UnreachableError, match=server.address):
            server.start()


def test_a_dictionary_of_ones_own() -> None:
    with FakeServer(features=FEATURES[:1]) as server, Client(server.address) as client:
        assert [one.id for one in client.features()] == ["greeting.g1"]


def test_a_restart_gives_new_numbers() -> None:
    with FakeServer() as server, Client(server.address) as client:
        assert client.status().streams[0].stream.number == 1
        server.restart()
        assert client.status().streams[0].stream.number == 2
