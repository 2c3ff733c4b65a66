"""What an engine watches changes while it is connected: every firing stays with its dictionary and its feature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from saewatch.core.batch import Reason
from saewatch.core.records import StreamBeat, StreamEnd
from saewatch.edge.sinks.metrics import MetricsSink
from saewatch.monitor.events import Observed, RequestEnded, Standing
from saewatch.monitor.record import RequestRecord
from tests import fakes
from tests.edge.obeying import ObeyingEngine, watching
from tests.edge.rpc.served import Served
from tests.edge.rpc.test_history import T0, S, storing
from tests.edge.running import Running
from tests.waiting import wait_until

OLD = fakes.dictionary()
NEW = fakes.dictionary(
    (fakes.feature("greed.l1", latents=(9,), category="x.greed"), fakes.feature("threat.l1", latents=(7,))), seed=1
)
"""Slot 0 is latent 7, of a feature that has the id of one of the other dictionary's, and slot 1 latent 9."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(str(tmp_path / "s.sock"), NEW)
    one.source.start()
    yield one
    one.source.stop()
    assert one.source.failed is None
    assert one.faults() == {}


@pytest.fixture
def engine(running: Running) -> Iterator[ObeyingEngine]:
    with ObeyingEngine(running.path, OLD, NEW) as one:
        one.ready()
        wait_until(lambda: running.pipeline.engines() == ["engine-0"])
        yield one


def ask(running: Running, engine: ObeyingEngine, verb: str, **arguments: str) -> str:
    """The engine does it; the watch digest that is in force."""
    asked, _ = running.pipeline.ask("engine-0", verb, arguments)
    running.source.send(asked.link, asked.command)
    engine.obey()
    return asked.answer.result(5).watch


def fired(event: Observed) -> list[str]:
    return [event.table.features[number].id for number in event.fired.feature.tolist()]


def record(running: Running, name: str) -> RequestRecord:
    (found,) = running.pipeline.records(name)
    return found


def counted(record: RequestRecord) -> dict[str, int]:
    """Firings of each feature, over all of a record's tables."""
    found: dict[str, int] = {}
    for table, tally in record.tallies:
        sums = tally.sums()
        for key, count in zip(sums.key.tolist(), sums.count.tolist(), strict=True):
            name = f"{table.stream.opening.weights_digest[:12]} {table.features[key // 2].id}"
            found[name] = found.get(name, 0) + count
    return found


def page(running: Running) -> str:
    """The metrics of everything so far."""
    sink = MetricsSink(faults=dict, queues=list)
    sink.take(running.look())  # type: ignore[arg-type]  # what the queue gave
    registry: CollectorRegistry = sink.registry
    return generate_latest(registry).decode()


def blind_words(running: Running) -> set[str]:
    return {one.reason for item in running.look() if isinstance(item, Standing) for one in item.blind}


def test_a_swap_in_the_middle_of_a_connection(running: Running, engine: ObeyingEngine) -> None:
    engine.start(7, name="plain")
    engine.batch([(7, 0, 4)], [(0, 0, 1.0), (3, 2, 2.0)])
    asked, _ = running.pipeline.ask("engine-0", "load", {"replace": OLD.weights_digest, "weights": NEW.weights_digest})
    running.source.send(asked.link, asked.command)
    engine.obey()
    answer = asked.answer.result(5)
    assert answer.opened is not None
    assert (answer.opened.dictionary, answer.slots) == (NEW, 2)
    engine.batch([(7, 4, 2)], [(0, 0, 3.0), (1, 1, 4.0)], stream=2)
    engine.end(7, fed=6, emitted=3)
    wait_until(lambda: any(isinstance(item, RequestEnded) for item in running.look()))

    first, second = running.observed()
    assert (first.table.stream.opening.weights_digest, fired(first)) == (
        OLD.weights_digest,
        ["animals.g1", "threat.l1"],
    )
    assert (second.table.stream.opening.weights_digest, fired(second)) == (
        NEW.weights_digest,
        ["threat.l1", "greed.l1"],
    )

    one = record(running, "plain")
    assert one.end is not None
    seen = [(tally.prompt_tokens, tally.answer_tokens) for _, tally in one.tallies]
    assert seen == [(4, 0), (0, 2)], "together they are everything that was fed"
    assert sum(map(sum, seen)) == one.end.fed
    assert counted(one) == {
        f"{OLD.weights_digest[:12]} animals.g1": 1,
        f"{OLD.weights_digest[:12]} threat.l1": 1,
        f"{NEW.weights_digest[:12]} threat.l1": 1,
        f"{NEW.weights_digest[:12]} greed.l1": 1,
    }

    old, new = running.pipeline.status().streams
    assert (old.ended, old.blind, old.connected) == ("swap", "", False)
    assert (new.ended, new.blind, new.connected, new.slots) == ("", "", True, 2)
    assert [one.opening.weights_digest for one in running.pipeline.streams()["engine-0"]] == [NEW.weights_digest]
    assert "no_stream" not in blind_words(running), "it saw all the time"

    text = page(running)
    assert text.count("saewatch_dictionary_info{") == 1
    assert f'weights="{NEW.weights_digest}"' in text
    assert OLD.weights_digest not in text
    (tokens,) = (line for line in text.splitlines() if line.startswith("saewatch_tokens_total{"))
    assert tokens.endswith(" 6.0"), "one series goes on"


def test_a_stream_that_ends_without_another_one_is_blind_at_the_next_look(
    running: Running, engine: ObeyingEngine
) -> None:
    engine.end_stream(1, "swap")
    wait_until(lambda: "no_stream" in blind_words(running))


def test_other_features_under_load_are_never_mixed(running: Running, engine: ObeyingEngine) -> None:
    """Slots 0 to 3 are latents 1, 2, 3 and direction 0; then slot 0 is latent 3 and slot 1 direction 0; and so on."""
    before = ["animals.g1", "animals.g1", "threat.l1", "threat.p1"]
    after = ["threat.l1", "threat.p1"]
    expected: list[list[str]] = []
    engine.start(7, name="plain", prompt_len=0)
    position = 0
    for round_number in range(6):
        names = before if round_number % 2 == 0 else after
        if round_number:
            engine.rewatch(["threat.l1", "threat.p1"] if names is after else [])
        for _ in range(40):
            firings = [(0, slot, 1.0) for slot in range(len(names))]
            engine.batch([(7, position, 1)], firings, watch=engine.watch_number)
            expected.append(names)
            position += 1
    engine.end(7, fed=position, emitted=position + 1)
    wait_until(lambda: any(isinstance(item, RequestEnded) for item in running.look()))
    observed = running.observed()
    assert [fired(event) for event in observed] == expected
    assert all(event.table.watch == event.batch.watch for event in observed)
    one = record(running, "plain")
    assert sum(tally.answer_tokens for _, tally in one.tallies) == position == 240
    assert {name.split()[1]: count for name, count in counted(one).items()} == {
        "animals.g1": 2 * 120,
        "threat.l1": 240,
        "threat.p1": 240,
    }
    text = page(running)
    assert 'saewatch_firings_total{category="vcr",engine="0",feature="threat.l1",model_name="demo-model"} 240.0' in text
    requests = [line for line in text.splitlines() if line.startswith("saewatch_firing_requests_total{")]
    assert [line.split()[-1] for line in requests] == ["1.0"] * 3, "one request, whatever the watch set"
    assert running.stream().slots == 2


def test_a_watch_list_that_was_asked_for(running: Running, engine: ObeyingEngine) -> None:
    digest = ask(running, engine, "watch", weights=OLD.weights_digest, watch='["threat.p1"]')
    assert digest == OLD.catalogue.watch_list(OLD.manifest, ["threat.p1"]).digest
    engine.start(7, name="plain")
    engine.batch([(7, 0, 1)], [(0, 0, 2.0)], watch=2)
    wait_until(lambda: len(running.observed()) == 1)
    assert fired(running.observed()[0]) == ["threat.p1"]
    assert running.observed()[0].table.digest == digest


def test_a_tap_that_is_off_says_so_and_sees_again(running: Running, engine: ObeyingEngine) -> None:
    engine.start(7, name="plain")
    ask(running, engine, "off")
    wait_until(lambda: running.stream().blind == "off")
    engine.batch([], missed=[(7, Reason.BLIND, 4)])
    wait_until(lambda: len(running.observed()) == 1)
    text = page(running)
    assert 'saewatch_blind{engine="0",model_name="demo-model",reason="off",scope="tap"} 1.0' in text
    assert 'outcome="missed",reason="blind",role="stable"} 4.0' in text
    ask(running, engine, "on")
    wait_until(lambda: running.stream().blind == "")
    assert 'reason="off",scope="tap"} 0.0' in page(running)


def test_a_swap_that_nobody_heard_of(running: Running, engine: ObeyingEngine) -> None:
    """The engine changes its dictionary while it is not connected: its books do not name the old stream any more."""
    engine.batch([], seq=1)
    engine.close()
    wait_until(lambda: not running.stream().connected)
    with ObeyingEngine(running.path, NEW) as again:
        again.number = 2
        again.open_stream(2)
        again.watch(2)
        again.tell()
        wait_until(lambda: len(running.pipeline.status().streams) == 2)
        wait_until(lambda: running.stream(0).ended == "replaced")
        assert running.stream(1).ended == ""
        wait_until(lambda: running.pipeline.status().blind == ())


# --- who asks and who listens -----------------------------------------------------------------------------------------
def swap(served: Served) -> None:
    """The engine's stream 1 ends, and stream 2 has the other dictionary."""
    served.put(StreamEnd(stream=1, reason="swap", final=StreamBeat(stream=1, seq=served.seq)))
    served.put(fakes.stream_open(NEW, stream=2), fakes.watch_set(NEW, stream=2), fakes.beat(stream=2))
    served.seq = 0


async def test_subscribers_and_queries_across_a_swap(tmp_path: Path) -> None:
    async with storing(tmp_path, known=[OLD, NEW]) as one:
        served = one.served
        watch = await served.watch()
        one.start(7)
        served.batch([(7, 0, 2)], [(0, 2, 1.5)], time_ns=T0)
        swap(served)
        served.batch([(7, 2, 2)], [(1, 0, 2.5)], stream=2, time_ns=T0 + S)
        served.pump()
        first, batch, second, other = [*await watch.until("batch"), *await watch.until("batch")]
        assert first.table.stream.weights_digest == OLD.weights_digest
        assert second.table.stream.weights_digest == NEW.weights_digest
        assert (batch.batch.table, other.batch.table) == (first.table.number, second.table.number)
        assert [feature.feature.id for feature in second.table.features] == ["greed.l1", "threat.l1"]
        served.put(fakes.beat(stream=2, fed=4, encoded=4))
        served.pump()
        coverage = (await watch.until("coverage"))[-1].coverage
        assert [books.stream for books in coverage.streams] == [second.table.stream.number]
        assert list(coverage.blind) == []
        assert len(served.feed.account.places) == 1, "a resume token names the stream that goes on"

        one.write()
        found = (await one.firings()).firings
        assert [(item.feature_id, item.value, item.weights_digest) for item in found] == [
            ("threat.l1", 1.5, OLD.weights_digest),
            ("threat.l1", 2.5, NEW.weights_digest),
        ]
        (request,) = (await one.requests()).requests
        assert request.request.client_id == "client-7"
        (record,) = (await served.record("client-7")).records
        assert [(part.prompt_tokens, part.answer_tokens) for part in record.streams] == [(2, 0), (0, 2)]


async def test_subscribers_across_a_watch_set(tmp_path: Path) -> None:
    async with storing(tmp_path, known=[OLD]) as one:
        served = one.served
        watch = await served.watch()
        one.start(7)
        served.batch([(7, 0, 1)], [(0, 0, 1.0)], time_ns=T0)
        served.put(fakes.watch_set(watching(OLD, ["threat.p1"]), watch=2))
        served.batch([(7, 1, 1)], [(0, 0, 2.0)], watch=2, time_ns=T0 + 1)
        served.pump()
        first, _, second, _ = [*await watch.until("batch"), *await watch.until("batch")]
        assert [feature.feature.id for feature in first.table.features] == ["animals.g1", "threat.l1", "threat.p1"]
        assert [feature.feature.id for feature in second.table.features] == ["threat.p1"]
        assert first.table.stream == second.table.stream
        one.write()
        assert [item.feature_id for item in (await one.firings()).firings] == ["animals.g1", "threat.p1"]
