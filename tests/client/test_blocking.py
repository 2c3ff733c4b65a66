"""`Client`, against a fake sidecar on a real port."""

from __future__ import annotations

import itertools

import grpc
import pytest

from saewatch.client import Client, Disconnected, Firings, Gap, Heartbeat, Reconnected, RequestEnded
from saewatch.client.fake import FakeServer
from saewatch.core.errors import SaewatchError, UnreachableError
from tests.client.proxy import Proxy
from tests.client.watching import Eager, Reader
from tests.waiting import wait_until


def client(server: FakeServer | Proxy, **options: float) -> Client:
    return Client(server.address, random=Eager(), **options)


def test_five_lines(saewatch_server: FakeServer) -> None:
    saewatch_server.fires("violence.p1", value=2.5, request="r1", position=3)
    for event in Client(saewatch_server.address).watch(category="vcr"):
        assert "1 tokens seen: r1 prompt 3 violence.p1 2.50" in str(event)
        break


def test_what_comes_in_order(saewatch_server: FakeServer) -> None:
    saewatch_server.tokens(4, missed={"cached": 2}, firings=[(1, "medical.p1", 1.0)])
    saewatch_server.coverage(blind="no_beat")
    saewatch_server.ends("r1", emitted=3)
    saewatch_server.gap("overload", tokens=5, firings=1)
    with client(saewatch_server) as one, one.watch() as watch:
        events = list(itertools.islice(watch, 4))
    assert [type(event).__name__ for event in events] == ["Firings", "Coverage", "RequestEnded", "Gap"]
    assert watch.resume_token == events[-1].resume_token
    assert (watch.totals.tokens, watch.totals.missed, watch.totals.gap_tokens) == (4, {"cached": 2}, 5)
    assert isinstance(events[2], RequestEnded)
    assert (events[2].fed, events[2].emitted) == (6, 3)


def test_a_connection_that_is_cut_loses_and_repeats_nothing(saewatch_server: FakeServer) -> None:
    with Proxy(saewatch_server.address) as proxy, client(proxy) as one:
        reader = Reader(one.watch())
        for position in range(100):
            saewatch_server.tokens(1)
            if position % 20 == 10:
                reader.wait(Reconnected if position > 20 else Firings, max(position // 20, 1))
                proxy.cut()
        reader.wait(Reconnected, 5)
        wait_until(lambda: len(reader.positions) >= 100)
        reader.end()
    assert reader.positions == list(range(100))
    assert not reader.of(Gap)
    assert reader.watch.totals.reconnects == 5


def test_the_service_stops_and_comes_back_on_the_same_port(saewatch_server: FakeServer) -> None:
    with client(saewatch_server) as one:
        reader = Reader(one.watch())
        saewatch_server.tokens(3)
        reader.wait(Firings)
        saewatch_server.stop()
        saewatch_server.tokens(4)
        reader.wait(Disconnected, 3)
        saewatch_server.start()
        reader.wait(Firings, 2)
        reader.end()
    assert reader.positions == list(range(7))
    assert [one.attempt for one in reader.of(Disconnected)][:3] == [1, 2, 3]


def test_a_drain_is_told_and_followed(saewatch_server: FakeServer) -> None:
    with client(saewatch_server) as one:
        reader = Reader(one.watch())
        saewatch_server.tokens(3)
        reader.wait(Firings)
        saewatch_server.drain("an update")
        saewatch_server.tokens(2)
        reader.wait(Firings, 2)
        reader.end()
    assert reader.kinds == ["Firings", "Disconnected", "Reconnected", "Firings"]
    assert "a sidecar that stops: an update" in reader.of(Disconnected)[0].reason
    assert reader.positions == list(range(5))


def test_a_restart_is_a_gap_of_exact_size(saewatch_server: FakeServer) -> None:
    with client(saewatch_server) as one:
        reader = Reader(one.watch())
        saewatch_server.tokens(3)
        reader.wait(Firings)
        saewatch_server.stop()
        saewatch_server.tokens(4, missed={"gap": 1}, firings=[(0, "violence.p1", 1.0)])
        saewatch_server.restart()
        saewatch_server.tokens(2, firings=[(0, "medical.p1", 1.0)])
        reader.wait(Firings, 2)
        reader.end()
    (gap,) = reader.of(Gap)
    assert (gap.reason, gap.tokens, gap.firings) == ("restarted", 5, 1)
    assert gap.stream is not None
    assert gap.stream.number == 2
    totals = reader.watch.totals
    assert (totals.tokens + totals.gap_tokens, totals.firings + totals.gap_firings) == (3 + 5 + 2, 2)
    assert [one.feature for one in reader.of(Firings)[1]] == ["medical.p1"], "by the new run's table"


def test_heartbeats_keep_it_alive_and_are_shown_to_whom_wants_them() -> None:
    with FakeServer(heartbeat_s=0.1) as server, client(server, silence_s=1.0) as one:
        with one.watch(heartbeats=True) as watch:
            events = list(itertools.islice(watch, 15))
        assert all(isinstance(event, Heartbeat) for event in events)


def test_it_gives_up_when_it_was_told_to() -> None:
    with Client("127.0.0.1:1") as one:
        watch = one.watch(give_up_after_s=0.5)
        assert isinstance(next(watch), Disconnected)
        with pytest.raises(UnreachableError, match=r"no connection in 0\.5 s"):
            list(watch)


def test_a_filter_that_names_what_there_is_not(saewatch_server: FakeServer) -> None:
    with client(saewatch_server) as one, pytest.raises(SaewatchError) as caught:
        next(one.watch(category=["vcr", "vcx"]))
    assert (caught.value.subject, caught.value.found) == ("filter.categories[1]", "'vcx'")
    with client(saewatch_server) as one, pytest.raises(SaewatchError, match="resume_token"):
        next(one.watch(resume_token="nonsense"))


def test_a_full_sidecar_is_asked_again(saewatch_server: FakeServer) -> None:
    full = grpc.StatusCode.RESOURCE_EXHAUSTED
    saewatch_server.refuse(full, subject="subscribers", found=64, expected="at most 64", retry_s=0.4)
    saewatch_server.tokens(1)
    with client(saewatch_server) as one:
        down, back, firings = itertools.islice(one.watch(), 3)
    assert isinstance(down, Disconnected)
    assert down.retry_s >= 0.4
    assert "subscribers: found 64" in down.reason
    assert isinstance(back, Reconnected)
    assert isinstance(firings, Firings)


def test_a_token_goes_on_where_another_watch_ended(saewatch_server: FakeServer) -> None:
    for _ in range(4):
        saewatch_server.tokens(1)
    with client(saewatch_server) as one:
        with one.watch() as first:
            seen = list(itertools.islice(first, 2))
        rest = list(itertools.islice(one.watch(resume_token=first.resume_token), 2))
        again = list(itertools.islice(one.watch(resume_token=seen[0].resume_token), 1))
    assert [event.span_position[0] for event in [*seen, *rest, *again] if isinstance(event, Firings)] == [0, 1, 2, 3, 1]


def test_calls_with_one_answer(saewatch_server: FakeServer) -> None:
    saewatch_server.tokens(6, firings=[(1, "violence.p1", 2.0), (5, "violence.p1", 3.0)], missed={"cached": 1})
    saewatch_server.ends("r1")
    with client(saewatch_server) as one:
        assert "fake" in one.status().version
        (dictionary,) = one.dictionaries()
        assert dictionary.features == 4
        assert [feature.id for feature in one.features(category="vcr")] == ["violence.p1"]
        assert len(one.features(dictionary.weights_digest)) == 4
        (record,) = one.record("r1")
        (stream,) = record.streams
        assert (stream.prompt_tokens, stream.answer_tokens, record.fed) == (4, 2, 7)
        assert (stream.features[0].prompt.count, stream.features[0].answer.max_value) == (1, 3.0)
        (test,) = one.self_test()
        assert test.good
        saewatch_server.coverage(blind="self_test_failed")
        assert not one.self_test()[0].good
        with pytest.raises(SaewatchError, match=r"request_id: found nobody"):
            one.record("nobody")
        with pytest.raises(SaewatchError, match="engine: found 'b'"):
            one.self_test("b")
    with Client("127.0.0.1:1") as nobody, pytest.raises(UnreachableError, match="saewatch serve"):
        nobody.status()
