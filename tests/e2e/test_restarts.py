"""Two real engines beside one sidecar, and what each of the three tells when one of them is started again.

In order: both serve; the sidecar goes ten times while they do; one engine is killed and started again; it is started
once more under the name of the other one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from benchmarks.bench_parity import comparison
from benchmarks.oracle import Oracle
from benchmarks.rig import MODEL_NAME, Rig, bundle_of_all, mixed_load, send, text_tokens
from deploy.demo.chat import Answer, ChatError, complete
from deploy.demo.collect import Collector
from deploy.demo.servers import free_port, group_members
from saewatch.client import Client, Coverage, RequestEnded
from saewatch.edge.pb.saewatch.v1 import common_pb2, status_pb2
from tests.e2e.conftest import FIXTURE, FLOAT32
from tests.subscriber import Subscriber
from tests.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.full, pytest.mark.timeout(900)]

RESTARTS = 5 * (signal.SIGKILL, signal.SIGTERM)
BOOKS = ("fed", "seen", "in_flight")
LOST = ("MISSED_REASON_GAP", "MISSED_REASON_QUEUE_FULL")
"""Reasons of what a sidecar that is not there costs."""
NOT_LOST = ("MISSED_REASON_EXCLUDED", "MISSED_REASON_CACHED")


@dataclass(slots=True)
class Two:
    """Two engines and the sidecar of both, which is east's."""

    east: Rig
    west: Rig

    def boot(self, rig: Rig, name: str) -> None:
        """Starts an engine under ``name``; `Rig.wait` until it is healthy."""
        socket = str(self.east.socket)
        rig.start_engine(tap=self.east.tap(instance=name), extra=FLOAT32, env={"SAEWATCH_SOCKET": socket})

    @property
    def rigs(self) -> Mapping[str, Rig]:
        """By the engines' names."""
        return {"east": self.east, "west": self.west}

    def status(self) -> status_pb2.GetStatusResponse:
        """The sidecar's state."""
        with Client(self.east.addresses["grpc"]) as client:
            return client.status()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    bundle = bundle_of_all(FIXTURE / "source", FIXTURE / "model", tmp_path_factory.mktemp("two") / "bundle")
    east, west = (Rig(tmp_path_factory.mktemp(name), FIXTURE / "model", bundle) for name in ("e", "w"))
    both = Two(east, west)
    try:
        east.grpc = f"127.0.0.1:{free_port()}"
        east.start_sidecar()
        for name, rig in both.rigs.items():
            both.boot(rig, name)
        for rig in both.rigs.values():
            rig.wait()
        yield both
    finally:
        west.stop()
        east.stop()


class Apart(Collector):
    """Keeps requests apart by their engine too: a key is ``ENGINE/ID``."""

    def key(self, request: common_pb2.Request) -> tuple[str, int]:
        name, child = super().key(request)
        return f"{request.engine}/{name}", child


@pytest.fixture
def collector(two: Two) -> Iterator[Apart]:
    with Apart(two.east.addresses["grpc"]) as found:
        yield found


@pytest.fixture
def subscriber(two: Two) -> Iterator[Subscriber]:
    one = Subscriber(two.east.addresses["grpc"])
    assert one.ready.wait(30)
    yield one
    one.leave()


def fed(answers: Sequence[Answer]) -> int:
    return sum(len(answer.prompt) + len(answer.tokens) - 1 for answer in answers)


def open_streams(state: status_pb2.GetStatusResponse) -> dict[str, status_pb2.StreamStatus]:
    """By their engine's name."""
    return {one.stream.engine: one for one in state.streams if one.connected and not one.ended}


def blind(state: status_pb2.GetStatusResponse) -> set[str]:
    return {one.reason for one in state.blind}


def at_both(
    two: Two, loads: Mapping[str, Sequence[tuple[str, dict[str, Any]]]], *, at_once: int = 12
) -> dict[str, dict[str, Answer]]:
    """Answers of both engines, which serve at the same time."""
    answers: dict[str, dict[str, Answer]] = {}

    def serve(name: str) -> None:
        answers[name] = send(two.rigs[name].port, loads[name], at_once=at_once)

    threads = [threading.Thread(target=serve, args=(name,)) for name in loads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def agrees(two: Two, oracle: Oracle, collector: Collector, answers: Mapping[str, Mapping[str, Answer]]) -> None:
    """What was received of each engine's requests is what the oracle says, on every position."""
    named = {f"{engine}/{name}": answer for engine, of in answers.items() for name, answer in of.items()}
    outcome = comparison(two.east, oracle, collector).compare(named)
    assert outcome.tally.compared > 3000
    assert (outcome.tally.mismatched, outcome.duplicates, outcome.missing, outcome.unknown) == (0, 0, 0, 0)


def test_two_engines_beside_one_sidecar_are_kept_apart(two: Two, oracle: Oracle, collector: Apart) -> None:
    tokens, prefix = text_tokens(two.east.model), f"same-{time.time_ns()}"
    loads = {name: mixed_load(tokens, 32, seed=seed, prefix=prefix) for seed, name in enumerate(two.rigs)}
    before = open_streams(collector.settled())
    answers = at_both(two, loads)
    state = collector.settled()
    time.sleep(0.5)
    streams = open_streams(state)
    assert streams.keys() == {"east", "west"}
    assert len({one.stream.number for one in streams.values()}) == 2
    for name, of in answers.items():
        books = streams[name].books
        assert books.fed - before[name].books.fed == fed(list(of.values()))
        assert (books.imbalance, books.in_flight, books.blind) == (0, 0, "")
        assert {key[0] for key in collector.seen if key[0].startswith(name)} == {f"{name}/{one}" for one in of}
    assert not state.blind
    agrees(two, oracle, collector, answers)
    with Client(two.east.addresses["grpc"]) as client:
        records = {record.request.engine: record for record in client.record(f"{prefix}-3")}
    assert {name: record.fed for name, record in records.items()} == {
        name: fed([of[f"{prefix}-3"]]) for name, of in answers.items()
    }


@dataclass(slots=True)
class Serving:
    """Greedy requests at both engines, some at a time, one after the other, until it is left."""

    two: Two
    bodies: Sequence[dict[str, Any]]
    answers: list[tuple[int, Answer]] = field(default_factory=list)  # with the body's number
    failed: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _left: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        ports = [rig.port for rig in self.two.rigs.values() for _ in range(3)]
        self._threads = [threading.Thread(target=self._run, args=(port,)) for port in ports]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for thread in self._threads:
            thread.join()

    def _run(self, port: int) -> None:
        while not self._left.is_set():
            number = next(self._numbers)
            body = number % len(self.bodies)
            try:
                self.answers.append((body, complete(port, self.bodies[body], f"serving-{number}")))
            except ChatError as error:
                self.failed.append(str(error))


def totals(state: status_pb2.GetStatusResponse) -> Counter[str]:
    """The books of both engines in one, and what is missed by reason."""
    found = Counter[str]()
    for one in open_streams(state).values():
        books = one.books
        found.update(fed=books.fed, seen=books.encoded + books.reused, in_flight=books.in_flight)
        found.update({common_pb2.MissedReason.Name(item.reason): item.tokens for item in books.missed})
    return found


def restart(rig: Rig, number: signal.Signals, *, absent_s: float) -> None:
    assert rig.sidecar is not None
    rig.sidecar.process.send_signal(number)
    rig.sidecar.process.wait(30)
    time.sleep(absent_s)
    rig.start_sidecar()


def test_a_sidecar_that_is_restarted_ten_times_under_load(two: Two, oracle: Oracle, subscriber: Subscriber) -> None:
    base = totals(two.status())["fed"]
    tokens = text_tokens(two.east.model)
    bodies = [{**body, "temperature": 0.0} for _, body in mixed_load(tokens, 40, seed=21, prefix="")]
    expected = [complete(two.east.port, body, f"undisturbed-{number}") for number, body in enumerate(bodies)]
    chance = random.Random(0)
    with Serving(two, bodies) as serving:
        for number in chance.sample(RESTARTS, len(RESTARTS)):
            time.sleep(chance.uniform(0.2, 2.0))
            restart(two.east, number, absent_s=chance.uniform(0.0, 1.0))
        time.sleep(1.0)
    assert not serving.failed
    assert len(serving.answers) > 100
    assert [body for body, answer in serving.answers if answer.tokens != expected[body].tokens] == []
    with Apart(two.east.addresses["grpc"]) as collector:
        state = collector.settled(timeout_s=30)
        found = totals(state)
        assert all((one.books.imbalance, one.books.blind) == (0, "") for one in open_streams(state).values())
        assert found["fed"] - base == fed([*expected, *(answer for _, answer in serving.answers)])
        assert found["in_flight"] == 0
        assert found.keys() <= {*BOOKS, *LOST, *NOT_LOST}
        assert found[LOST[0]] > 0
        wait_until(lambda: subscriber.accounted >= found["fed"] - base)
        time.sleep(1.0)
        assert subscriber.accounted == found["fed"] - base, (subscriber.watch.totals, subscriber.gaps)
        assert subscriber.watch.totals.reconnects > 0
        assert not subscriber.watch.totals.gaps_unknown
        fresh = {name: mixed_load(tokens, 16, seed=seed, prefix=name) for seed, name in enumerate(two.rigs, 40)}
        answers = at_both(two, fresh)
        after = totals(collector.settled())
        time.sleep(0.5)
        assert after["fed"] - found["fed"] == sum(fed(list(of.values())) for of in answers.values())
        assert [after[reason] - found[reason] for reason in LOST] == [0, 0]
        agrees(two, oracle, collector, answers)


def kill(rig: Rig) -> None:
    """All processes of an engine, without a word."""
    assert rig.engine is not None
    for pid in group_members(rig.engine.process.pid):
        os.kill(pid, signal.SIGKILL)
    rig.engine.process.wait(30)


def test_an_engine_that_is_killed_and_started_again_is_a_new_epoch(
    two: Two, oracle: Oracle, subscriber: Subscriber
) -> None:
    before = open_streams(two.status())
    body = {"model": MODEL_NAME, "prompt": [40, 41, 42], "max_tokens": 900, "ignore_eos": True}

    def ask() -> None:
        with contextlib.suppress(ChatError):  # it breaks off, in whichever way
            complete(two.west.port, body, "doomed")

    doomed = threading.Thread(target=ask)
    doomed.start()
    wait_until(lambda: two.status().open_requests > 0)
    kill(two.west)
    doomed.join()
    wait_until(lambda: blind(two.status()) == {"no_beat"})
    two.boot(two.west, "west")
    two.west.wait()
    wait_until(lambda: not blind(two.status()))
    state = two.status()
    after = open_streams(state)
    assert (after["east"].stream, after.keys()) == (before["east"].stream, before.keys())
    assert after["west"].stream.epoch > before["west"].stream.epoch
    assert after["west"].stream.number > before["west"].stream.number
    assert after["west"].books.fed == after["west"].received_rows == 0, "books of its own"
    ended = {one.stream.number: one.ended for one in state.streams if one.ended}
    assert ended[before["west"].stream.number] == "replaced"
    with Apart(two.east.addresses["grpc"]) as collector:
        tokens = text_tokens(two.west.model)
        answers = at_both(two, {name: mixed_load(tokens, 16, seed=50, prefix=name) for name in two.rigs})
        books = open_streams(collector.settled())["west"].books
        time.sleep(0.5)
        assert (books.fed, books.imbalance, books.in_flight) == (fed(list(answers["west"].values())), 0, 0)
        agrees(two, oracle, collector, answers)
    assert subscriber.rows["west", after["west"].stream.epoch] == books.encoded + books.reused
    told = [{one.reason for one in event.blind} for event in subscriber.told if isinstance(event, Coverage)]
    assert {"no_beat"} in told, "a subscriber that stays is told"
    assert told[-1] == set()
    lost = [event.request.client_id for event in subscriber.told if isinstance(event, RequestEnded) and event.lost]
    assert lost == ["doomed"]
    assert not subscriber.gaps


def test_of_two_engines_with_one_name_the_later_one_is_heard_and_then_the_other_one_again(
    two: Two, oracle: Oracle
) -> None:
    before = open_streams(two.status())["east"]
    first = before.stream
    assert two.west.engine is not None
    assert two.west.engine.stop() == 0
    state = two.status()
    assert [one.ended for one in state.streams if one.stream.engine == "west"][-1] == "shutdown"
    two.boot(two.west, "east")
    two.west.wait()
    wait_until(lambda: blind(two.status()) == {"replaced"})
    assert open_streams(two.status())["east"].stream.epoch > first.epoch
    tokens = text_tokens(two.east.model)
    with Apart(two.east.addresses["grpc"]) as collector:
        both = at_both(two, {name: mixed_load(tokens, 12, seed=60, prefix=name) for name in two.rigs})
        collector.settled()
        time.sleep(0.5)
        agrees(two, oracle, collector, {"east": both["west"]})
        assert not any((f"east/{name}", 0) in collector.seen for name in both["east"])
        assert two.west.engine.stop() == 0
        wait_until(lambda: not blind(two.status()))
        again = open_streams(two.status())["east"]
        assert again.stream.epoch == first.epoch
        answers = send(two.east.port, mixed_load(tokens, 12, seed=61, prefix="again"), at_once=12)
        books = open_streams(collector.settled())["east"].books
        time.sleep(0.5)
        agrees(two, oracle, collector, {"east": answers})
    assert (books.imbalance, books.in_flight, books.blind) == (0, 0, "")
    missed = sum(item.tokens for item in books.missed) - sum(item.tokens for item in before.books.missed)
    assert missed >= fed(list(both["east"].values())), "what nobody heard"
