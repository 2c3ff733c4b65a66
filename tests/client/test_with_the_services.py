"""Both clients against the sidecar's own services: what they report is what happened."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from saewatch.client import (
    AsyncClient,
    AsyncWatch,
    Client,
    Coverage,
    Disconnected,
    Event,
    Firings,
    Gap,
    Heartbeat,
    Reconnected,
    RequestEnded,
)
from saewatch.client.plain import plain
from saewatch.core import limits
from saewatch.core.batch import Origin, Reason
from saewatch.core.errors import SaewatchError
from saewatch.core.records import RequestEnd, RequestLabel, RequestStart
from saewatch.edge.access import LocalAccess
from saewatch.edge.rpc.server import RpcServer
from tests import fakes
from tests.client.proxy import Proxy
from tests.client.watching import WAIT_S, Eager
from tests.edge.rpc.served import Served, serving
from tests.edge.rpc.test_history import T0, S, storing, two_requests

GROUPED = (
    fakes.feature("animals.g1", latents=(1, 2), category="x.animals", floor=0.5),
    fakes.feature("cats.l1", latents=(2,), category="x.cats", floor=2.0),
    fakes.feature("threat.p1", direction=0, category="vcr"),
)


def client(address: str, **options: float) -> AsyncClient:
    return AsyncClient(address, random=Eager(), **options)


def request(served: Served, number: int) -> None:
    """A labelled request."""
    served.put(RequestLabel(key=fakes.key(number), client_id=f"client-{number}", tenant="acme"))
    served.put(RequestStart(request=number, engine_id=fakes.engine_id(number), prompt_len=4))


async def take(watch: AsyncWatch, count: int) -> list[Event]:
    """Events but for coverage."""
    found: list[Event] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            event = await anext(watch)
            if not isinstance(event, Coverage | Heartbeat):
                found.append(event)
    return found


async def entered(served: Served, count: int = 1) -> None:
    """Until there are so many subscribers."""
    async with asyncio.timeout(WAIT_S):
        while served.firing.subscribers < count:
            await served.feed.bell.wait(0.01)


async def test_both_clients_see_what_was_sent() -> None:
    async with serving() as served, client(served.address) as one:
        watch = one.watch()
        with Client(served.address) as other:
            blocking = asyncio.create_task(asyncio.to_thread(lambda: list(itertools.islice(other.watch(), 4))[1:]))
            first = asyncio.create_task(take(watch, 3))
            await entered(served, 2)
            request(served, 7)
            missed = [(7, Reason.EXCLUDED, 2)]
            served.batch([(7, 0, 3), (7, 9, 1, Origin.RECOMPUTED)], [(0, 0, 1.5), (3, 3, 2.0)], missed=missed)
            served.put(RequestEnd(request=7, fed=6, emitted=1))
            served.batch([(99, 5, 2)], [(1, 2, 1.0)])
            served.pump()
            events = await first
            assert [plain(event) for event in events] == [plain(event) for event in await blocking]
        firings, ended, unknown = events
        assert isinstance(firings, Firings)
        assert [(one.feature, one.position, one.prompt, one.value) for one in firings] == [
            ("animals.g1", 0, True, 1.5),
            ("threat.p1", 9, False, 2.0),
        ]
        assert (firings.tokens, firings.recomputed, firings.missed) == (4, 1, {"excluded": 2})
        assert firings.requests[0].client_id == "client-7"
        assert isinstance(ended, RequestEnded)
        assert (ended.request, ended.fed) == (firings.requests[0], 6)
        assert isinstance(unknown, Firings)
        assert [(one.request, one.position, one.prompt) for one in unknown] == [(None, 6, None)]
        assert watch.totals.tokens == 6


async def test_a_filter_holds_on_both_sides() -> None:
    """Slots: latent 1, latent 2 of two features, direction 0."""
    async with serving(known=[fakes.dictionary(GROUPED)]) as served, client(served.address) as one:
        found: dict[str, list[tuple[str, float]]] = {}
        watches = {
            "all": one.watch(),
            "cats": one.watch(category="x.cats"),
            "animals": one.watch("animals.g1"),
            "high": one.watch(min_value=2.0),
        }
        tasks = {name: asyncio.create_task(take(watch, 1)) for name, watch in watches.items()}
        await entered(served, len(watches))
        request(served, 7)
        served.batch([(7, 0, 3)], [(0, 0, 1.0), (0, 1, 1.5), (1, 1, 3.0), (2, 2, 2.5)])
        served.pump()
        for name, task in tasks.items():
            (event,) = await task
            assert isinstance(event, Firings)
            assert event.tokens == 3, "covered, whatever the filter"
            found[name] = [(firing.feature, firing.value) for firing in event]
        assert found == {
            "all": [
                ("animals.g1", 1.0),
                ("animals.g1", 1.5),
                ("animals.g1", 3.0),
                ("cats.l1", 3.0),
                ("threat.p1", 2.5),
            ],
            "cats": [("cats.l1", 3.0)],
            "animals": [("animals.g1", 1.0), ("animals.g1", 1.5), ("animals.g1", 3.0)],
            "high": [("animals.g1", 3.0), ("cats.l1", 3.0), ("threat.p1", 2.5)],
        }


async def test_a_slow_reader_gets_gaps_of_exact_size() -> None:
    async with serving(ring_bytes=2**18) as served, client(served.address) as one, one.watch() as watch:
        first = asyncio.create_task(take(watch, 1))
        await entered(served)
        request(served, 7)
        firings = [(row, slot, 1.0) for row in range(250) for slot in range(4)]
        batches = 400
        for number in range(batches):  # 5 MB, of which gRPC takes a tenth of one ahead
            served.batch([(7, 250 * number, 250)], firings)
            served.pump()
            await asyncio.sleep(0.002)  # for the server to write
        await first
        totals = watch.totals
        async with asyncio.timeout(WAIT_S):
            while totals.tokens + totals.gap_tokens < 250 * batches:
                await anext(watch)
        assert totals.tokens + totals.gap_tokens == 250 * batches
        assert totals.firings + totals.gap_firings == 1000 * batches
        assert totals.gaps > 0
        assert totals.tokens < 250 * batches / 2, "without the bandwidth probe little is taken ahead"


async def test_a_drain_and_another_server_on_the_same_port() -> None:
    async with serving() as served, client(served.address) as one:
        watch = one.watch()
        task = asyncio.create_task(take(watch, 2))
        await entered(served)
        request(served, 7)
        served.batch([(7, 0, 3)])
        served.pump()
        served.firing.drain("an update")
        first, down = await task
        await served.firing.left(5.0)
        await served.server.stop(0)
        served.firing.drain("")  # the same feed, behind a new server
        served.batch([(7, 3, 4)])
        served.pump()
        services = (served.firing,)
        again = RpcServer(services=services, access=LocalAccess())
        await again.start("127.0.0.1", int(served.address.rpartition(":")[2]))
        rest = [event for event in await take(watch, 2) if not isinstance(event, Disconnected)]
        while not any(isinstance(event, Firings) for event in rest):
            rest += [event for event in await take(watch, 1) if not isinstance(event, Disconnected)]
        assert isinstance(first, Firings)
        assert isinstance(down, Disconnected)
        assert "a sidecar that stops: an update" in down.reason
        assert [type(event) for event in rest] == [Reconnected, Firings]
        assert (watch.totals.tokens, watch.totals.gaps) == (7, 0)
        watch.close()
        await again.stop(0)


async def test_a_connection_that_is_cut_loses_and_repeats_nothing() -> None:
    async with serving() as served:
        with Proxy(served.address) as proxy:
            async with client(proxy.address) as one, one.watch() as watch:
                task = asyncio.create_task(take(watch, 1))
                await entered(served)
                request(served, 7)
                positions: list[int] = []
                served.batch([(7, 0, 2)], [(0, 0, 1.0)])
                served.pump()
                events = await task
                number = 1
                while len(positions) < 120:
                    for event in events:
                        assert not isinstance(event, Gap)
                        if isinstance(event, Firings):
                            first = int(event.span_position[0])
                            positions += range(first, first + event.tokens)
                            served.batch([(7, 2 * number, 2)], [(0, 0, 1.0)])
                            served.pump()
                            if number % 15 == 0:
                                proxy.cut()
                            number += 1
                    events = await take(watch, 1)
        assert positions == list(range(120))
        assert (watch.totals.firings, watch.totals.reconnects) == (60, 3)


async def test_a_token_that_is_too_old_is_a_gap() -> None:
    async with serving(ring_bytes=2000) as served, client(served.address) as one:
        watch = one.watch()
        task = asyncio.create_task(take(watch, 1))
        await entered(served)
        request(served, 7)
        served.batch([(7, 0, 1)])
        served.pump()
        await task
        watch.close()
        for position in range(1, 41):
            served.batch([(7, position, 2)], [(0, 0, 1.0)])
            served.pump()
        again = one.watch(resume_token=watch.resume_token)
        (gap,) = await take(again, 1)
        assert isinstance(gap, Gap)
        assert gap.reason == "expired"
        async with asyncio.timeout(WAIT_S):
            while again.totals.tokens + again.totals.gap_tokens < 80:
                await anext(again)
        assert (again.totals.tokens + again.totals.gap_tokens, again.totals.firings + again.totals.gap_firings) == (
            80,
            40,
        )


async def test_books_and_blind_states_come_as_coverage() -> None:
    async with serving() as served, client(served.address) as one, one.watch() as watch:
        task = asyncio.create_task(anext(watch))
        await entered(served)
        served.put(fakes.beat(fed=10, encoded=7, missed={"gap": 2}, in_flight=1))
        served.put(fakes.stream_open(served.dictionary, stream=2, weights_digest="sha256:other"))
        served.pump()
        assert isinstance(await task, Coverage), "what stood when it came"
        event = await anext(watch)
        assert isinstance(event, Coverage)
        assert (event.overall, event.missed, event.streams[0].in_flight) == (0.7, {"gap": 2}, 1)
        while not event.blind:
            event = await anext(watch)
            assert isinstance(event, Coverage)
        assert event.blind[0].reason == "unknown_dictionary"
        status = await one.status()
        assert [one.reason for one in status.blind] == ["unknown_dictionary"]


async def test_the_other_calls() -> None:
    async with serving() as served, client(served.address) as one:
        request(served, 7)
        served.batch([(7, 2, 3)], [(0, 0, 1.0)])
        (record,) = await one.record("client-7")
        assert record.streams[0].features[0].feature_id == "animals.g1"
        assert [feature.id for feature in await one.features(category="vcr")] == ["threat.l1", "threat.p1"]
        assert len(await one.dictionaries()) == 1


async def test_a_full_sidecar() -> None:
    async with serving(subscribers=1) as served, client(served.address) as one, one.watch() as first:
        task = asyncio.create_task(take(first, 1))
        await entered(served)
        (down,) = await take(one.watch(), 1)
        assert isinstance(down, Disconnected)
        assert down.retry_s >= 5.0, "as its RetryInfo says"
        task.cancel()


async def test_stored_firings_come_page_by_page(tmp_path: Path) -> None:
    async with storing(tmp_path) as one, client(one.served.address) as ours:
        two_requests(one)
        pages = [page async for page in ours.query_firings(page_size=1)]
        found = [firing for page in pages for firing in page]
        assert [(firing.feature, firing.value, str(firing.request)) for firing in found] == [
            ("threat.l1", 1.5, "client-7"),
            ("animals.g1", 0.5, "client-7"),
            ("threat.l1", 2.5, "client-8"),
            ("animals.g1", 4.0, "client-7"),
        ]
        covered = [page.covered for page in pages if page.covered]
        assert sum(part.tokens_seen for part in covered) == 4
        assert [part.missed for part in covered if part.missed] == [{"excluded": 2}]
        assert {page.kept_since_ns for page in pages} == {T0}
        latest = [firing async for page in ours.query_firings(latest=True, since=T0 + S) for firing in page]
        assert latest == found[:1:-1]
        requests = [request async for page in ours.list_requests(page_size=1) for request in page]
        assert [str(request.request) for request in requests] == ["client-7", "client-8"]
        assert [(item.feature, item.firings, item.max_value) for item in requests[1].features] == [
            ("threat.l1", 1, 2.5)
        ]
        buckets = [bucket async for page in ours.count_firings("tenant", bucket_s=1.0) for bucket in page]
        assert [(bucket.group, bucket.firings, bucket.tokens_seen) for bucket in buckets if bucket.firings] == [
            ("acme", 2, 3),
            ("other", 1, 1),
        ]
        with Client(one.served.address) as other:
            assert await one.served.in_thread(lambda: list(other.query_firings(page_size=1))) == pages
            assert await one.served.in_thread(lambda: next(other.list_requests()).items) == tuple(requests)
            counted = await one.served.in_thread(lambda: [*other.count_firings("tenant", bucket_s=1.0)])
            assert [bucket for page in counted for bucket in page] == buckets


@pytest.mark.parametrize(
    ("wanted", "values"),
    [
        ({"feature": "animals.g1"}, [0.5, 4.0]),
        ({"category": ["vcr", "x.gone"]}, [1.5, 2.5]),
        ({"min_value": 0.5, "max_value": 2.5}, [1.5, 2.5]),
        ({"tenant": "other"}, [2.5]),
        ({"traffic_class": "test"}, [2.5]),
        ({"request": "client-7", "until": datetime.fromtimestamp(T0 // S + 1, UTC)}, [1.5, 0.5]),
        ({"conversation": "c7", "since": T0 + 1}, [4.0]),
        ({"model": "other"}, []),
        ({"weights": "sha256:other"}, []),
        ({"catalogue": "sha256:other"}, []),
        ({"hook_point": "resid_post.3", "min_value": 2.5}, [4.0]),
    ],
)
async def test_what_is_wanted_reaches_the_service(tmp_path: Path, wanted: Any, values: list[float]) -> None:
    async with storing(tmp_path) as one, client(one.served.address) as ours:
        two_requests(one)
        assert [firing.value async for page in ours.query_firings(**wanted) for firing in page] == values


async def test_what_the_store_lost_is_on_the_page(tmp_path: Path) -> None:
    async with storing(tmp_path) as one, client(one.served.address) as ours:
        one.start(7)
        for position in range(limits.SINK_QUEUE_BATCHES + 10):
            one.served.batch([(7, position, 1)], [(0, 2, 1.0)], time_ns=T0 + position)
        one.write()
        one.served.batch([(7, 5000, 1)], time_ns=T0 + S)
        one.write()
        page = await anext(ours.query_firings())
        assert [(loss.cause, loss.tokens, loss.firings) for loss in page.losses] == [("queue_full", 10, 10)]


async def test_where_nothing_is_stored() -> None:
    async with serving() as served, client(served.address) as one:
        with pytest.raises(SaewatchError, match="history"):
            await anext(one.query_firings())
