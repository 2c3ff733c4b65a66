"""What is changed in a fake sidecar, by both clients: what its subscribers and its status show is what is in force."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import grpc
import pytest

from saewatch.client import AsyncClient, Client, Coverage, Firings
from saewatch.client.fake import FakeServer
from saewatch.client.fake.made import WEIGHTS, MadeDictionary
from saewatch.core.catalogue import Feature
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb import tap_pb2, tap_pb2_grpc

GREED = Feature(id="greed.l1", label="Greed", category="x.greed", severity="low", floor=0.0, latents=(9,))
OTHER = MadeDictionary([GREED], weights="sha256:" + "3" * 64, catalogue="sha256:" + "4" * 64)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(others=[OTHER]) as one:
        yield one


def test_off_and_on(server: FakeServer) -> None:
    with Client(server.address) as client:
        (change,) = client.set_watching(on=False)
        assert (change.engine, change.good) == ("fake-engine", True)
        assert [one.reason for one in client.status().blind] == ["off"]
        assert not client.self_test()[0].good
        server.fires("violence.p1")
        client.set_watching("fake-engine", on=True)
        server.fires("violence.p1")
        assert list(client.status().blind) == []
        off, missed, on, seen = islice(client.watch(), 4)
        assert isinstance(off, Coverage)
        assert isinstance(on, Coverage)
        assert ([one.reason for one in off.blind], on.blind) == (["off"], ())
        assert isinstance(missed, Firings)
        assert isinstance(seen, Firings)
        assert (missed.tokens, missed.missed, len(list(missed))) == (0, {"blind": 1}, 0)
        assert [one.feature for one in seen] == ["violence.p1"]


def test_other_features(server: FakeServer) -> None:
    with Client(server.address) as client:
        server.fires("greeting.g1", value=2.0)
        (change,) = client.set_watch_list(WEIGHTS, ["violence.p1"])
        assert (change.good, change.slots, change.weights_digest) == (True, 1, WEIGHTS)
        server.fires("greeting.g1", value=2.0)
        server.fires("violence.p1")
        (change,) = client.set_watch_list(WEIGHTS)
        assert change.slots == 4
        server.fires("violence.p1")
        events = [event for event in islice(client.watch(), 4) if isinstance(event, Firings)]
        assert [[one.feature for one in event] for event in events] == [
            ["greeting.g1", "hesitation.l1"],
            [],
            ["violence.p1"],
            ["violence.p1"],
        ]
        assert [event.table.number for event in events] == [1, 2, 2, 3]
        assert {event.table.stream.number for event in events} == {1}
        (record,) = client.record("r1")
        assert [part.prompt_tokens for part in record.streams] == [1, 2, 1]


async def test_another_dictionary(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        assert [one.weights_digest for one in await client.dictionaries()] == [WEIGHTS, OTHER.weights]
        server.fires("violence.p1")
        (change,) = await client.load_dictionary(WEIGHTS, OTHER.weights)
        assert (change.opened.number, change.opened.weights_digest, change.slots) == (2, OTHER.weights, 1)
        server.fires("greed.l1")
        old, new = (await client.status()).streams
        assert (old.ended, old.stream.weights_digest, old.books.fed) == ("swap", WEIGHTS, 1)
        assert (new.ended, new.stream.weights_digest, new.books.fed) == ("", OTHER.weights, 1)
        found = [firing async for page in client.query_firings() for firing in page]
        assert [(one.feature, one.weights_digest) for one in found] == [
            ("violence.p1", WEIGHTS),
            ("greed.l1", OTHER.weights),
        ]
        (record,) = await client.record("r1")
        assert [part.features[0].feature_id for part in record.streams] == ["violence.p1", "greed.l1"]
        await client.set_watching(on=False)
        await client.set_watch_list(OTHER.weights, ["greed.l1"])


def test_a_bundle_is_applied_and_applied_again(server: FakeServer) -> None:
    with Client(server.address) as client:
        (planned,) = client.apply_bundle(OTHER.weights, validate_only=True)
        assert (planned.applied, server.made.weights) == (tap_pb2.APPLIED_LOADED, WEIGHTS)
        (done,) = client.apply_bundle(OTHER.weights)
        assert (done.applied, done.weights_digest, server.made.weights) == (
            tap_pb2.APPLIED_LOADED,
            OTHER.weights,
            OTHER.weights,
        )
        (again,) = client.apply_bundle(OTHER.weights)
        assert again.applied == tap_pb2.APPLIED_ALREADY
        assert client.compare_shadow() == []
        with pytest.raises(SaewatchError, match="bundle_digest: found 'x'"):
            client.apply_bundle("x")
        with pytest.raises(SaewatchError, match="role: found 'ROLE_SHADOW'"):
            client.apply_bundle(WEIGHTS, "shadow")


def test_what_it_refuses(server: FakeServer) -> None:
    with Client(server.address) as client:
        calls: list[tuple[Callable[[], object], str]] = [
            (lambda: client.set_watching("b", on=True), "engine: found 'b'"),
            (lambda: client.set_watch_list("x"), "weights_digest: found 'x'"),
            (lambda: client.set_watch_list(WEIGHTS, ["greed.l1"]), "feature_ids: found 'greed.l1', expected one of"),
            (lambda: client.load_dictionary("x", OTHER.weights), "replaces_digest: found 'x'"),
            (lambda: client.load_dictionary(WEIGHTS, "x"), "weights_digest: found 'x'"),
            (lambda: client.load_dictionary(WEIGHTS, WEIGHTS), "expected another one"),
        ]
        for call, said in calls:
            with pytest.raises(SaewatchError, match=said):
                call()
        assert (server.off, server.of.table, server.made.weights) == (False, 1, WEIGHTS)


def test_an_empty_request_switches_nothing_off(server: FakeServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = tap_pb2_grpc.TapServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="on: found nothing"):
            stub.SetWatching(tap_pb2.SetWatchingRequest())
    assert not server.off
