"""What a real engine watches is changed while it serves: each token is accounted for, and what fires then is right.

After test_served: a stream that was swapped out takes its books along, and planted faults stay on their encoder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench_parity import comparison
from benchmarks.oracle import Oracle, Reading
from benchmarks.rig import bundle_of_all, mixed_load, scaled, send, text_tokens
from deploy.demo.collect import Collector
from saewatch.client import Client
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb.saewatch.v1 import common_pb2, status_pb2
from saewatch.engine.dictionary_file import load_bundle
from tests.e2e.conftest import FIXTURE, Pair, heard

pytestmark = pytest.mark.engine


@pytest.fixture
def client(pair: Pair) -> Iterator[Client]:
    with Client(pair.watched.addresses["grpc"]) as found:
        yield found


def weights(bundle: Path) -> str:
    return load_bundle(bundle).sheet.weights


def load(pair: Pair, name: str, count: int) -> list[tuple[str, dict[str, object]]]:
    return mixed_load(text_tokens(pair.watched.model), count, seed=11, prefix=f"{name}-{time.time_ns()}")


def books(state: status_pb2.GetStatusResponse) -> dict[str, status_pb2.StreamStatus]:
    """The streams of the present connection that have not ended, by dictionary."""
    return {one.stream.weights_digest: one for one in state.streams if one.connected and not one.ended}


def agrees(pair: Pair, oracle: Oracle, name: str) -> None:
    """What fires now is what the oracle says, on every position."""
    with Collector(pair.watched.addresses["grpc"]) as collector:
        answers = send(pair.watched.port, load(pair, name, 12), at_once=12)
        collector.settled()
        heard(collector, answers)
        outcome = comparison(pair.watched, oracle, collector).compare(answers)
    assert outcome.tally.compared > 3000
    assert (outcome.tally.mismatched, outcome.duplicates, outcome.missing, outcome.unknown) == (0, 0, 0, 0)


def test_switched_off_nothing_is_seen_and_everything_counted(
    pair: Pair, oracle: Oracle, collector: Collector, client: Client
) -> None:
    before = books(collector.settled())[weights(pair.watched.bundle)].books
    assert [change.good for change in client.set_watching(on=False)] == [True]
    answers = send(pair.watched.port, load(pair, "off", 6), at_once=6)
    state = books(collector.settled())[weights(pair.watched.bundle)]
    assert state.books.blind == "off"
    fed = sum(len(answer.prompt) + len(answer.tokens) - 1 for answer in answers.values())
    missed = {item.reason: item.tokens for item in state.books.missed}
    earlier = {item.reason: item.tokens for item in before.missed}
    blind, cached = (
        missed.get(reason, 0) - earlier.get(reason, 0)
        for reason in (common_pb2.MISSED_REASON_BLIND, common_pb2.MISSED_REASON_CACHED)
    )
    assert (state.books.fed - before.fed, blind + cached) == (fed, fed)
    assert [change.good for change in client.set_watching(on=True)] == [True]
    agrees(pair, oracle, "on")


def test_other_features_are_watched_under_load(
    pair: Pair, oracle: Oracle, collector: Collector, client: Client
) -> None:
    digest = weights(pair.watched.bundle)
    before = books(collector.settled())[digest].books.fed
    found: list[int] = []

    enough = threading.Event()

    def serve() -> None:
        for _ in range(8):
            answers = send(pair.watched.port, load(pair, "under", 48), at_once=8)
            found.append(sum(len(answer.prompt) + len(answer.tokens) - 1 for answer in answers.values()))
            if enough.is_set():
                return

    serving = threading.Thread(target=serve)
    serving.start()
    slots = []
    while serving.is_alive():
        for features in (("everything.g1",), ()):
            (change,) = client.set_watch_list(digest, features)
            assert change.good, change.refusal
            slots.append(change.slots)
        if len(slots) >= 4:
            enough.set()
    serving.join()
    assert len(slots) >= 4
    assert slots[0] < slots[1]
    state = books(collector.settled())[digest]
    assert (state.books.fed - before, state.books.imbalance, state.books.in_flight) == (sum(found), 0, 0)
    assert state.books.blind == ""
    agrees(pair, oracle, "listed")


def test_another_dictionary_is_loaded_and_the_first_one_again(
    pair: Pair, oracle: Oracle, collector: Collector, client: Client
) -> None:
    (other,) = pair.watched.others
    first, second = weights(pair.watched.bundle), weights(other)
    (change,) = client.load_dictionary(first, second)
    assert change.good, change.refusal
    assert change.opened.weights_digest == second
    source = other.with_name("scaled")
    agrees(pair, Oracle(FIXTURE / "model", source, Reading("model.layers.2")), "other")
    state = collector.settled()
    ended = [one for one in state.streams if one.ended == "swap"]
    assert [(one.stream.weights_digest, one.books.imbalance, one.books.in_flight) for one in ended] == [(first, 0, 0)]
    assert books(state).keys() == {second}
    (change,) = client.load_dictionary(second, first)
    assert change.good, change.refusal
    agrees(pair, oracle, "again")


def test_a_promotion_reaches_the_engine_under_load_and_a_rollback_takes_it_back(
    pair: Pair, oracle: Oracle, collector: Collector, client: Client, tmp_path: Path
) -> None:
    """With a bundle that nobody told the sidecar of: it reads it from the store."""
    rig = pair.watched
    source = scaled(FIXTURE / "source", tmp_path / "source", 1.1)
    third = bundle_of_all(source, FIXTURE / "model", tmp_path / "third")
    old, new = (rig.dictionary("add", str(bundle))["bundle"] for bundle in (rig.bundle, third))
    slot, ask = "fixture/resid_post.2", ["--reason", "a test", "--apply", "--address", rig.addresses["grpc"]]
    before = {one.stream.number: one.books.fed for one in collector.settled().streams}
    found: list[int] = []

    def serve() -> None:
        answers = send(rig.port, load(pair, "promoted", 48), at_once=8)
        found.append(sum(len(answer.prompt) + len(answer.tokens) - 1 for answer in answers.values()))

    serving = threading.Thread(target=serve)
    serving.start()
    first = rig.dictionary("promote", slot, "--bundle", old, "--ref", "stable", "--expect", "none", *ask)
    assert [one["applied"] for one in first["applied"]["changes"]] == ["APPLIED_ALREADY"], first
    there = rig.dictionary("promote", slot, "--bundle", new, "--ref", "stable", "--expect", old, *ask)
    assert [one["applied"] for one in there["applied"]["changes"]] == ["APPLIED_LOADED"], there
    back = rig.dictionary("rollback", slot, *ask)
    assert (back["to"], back["applied"]["good"]) == (old, True)
    again = rig.dictionary("apply", slot, "--address", rig.addresses["grpc"])
    assert [one["applied"] for one in again["changes"]] == ["APPLIED_ALREADY"]
    serving.join()
    state = collector.settled()
    assert len(state.streams) == len(before) + 2
    assert not any(one.books.imbalance or one.books.in_flight for one in state.streams)
    fed = sum(one.books.fed - before.get(one.stream.number, 0) for one in state.streams)
    assert fed == found[0], "each token counts in one stream"
    agrees(pair, oracle, "rolled-back")
    there = rig.dictionary("promote", slot, "--bundle", new, "--ref", "stable", "--expect", old, *ask)
    assert there["applied"]["good"]
    agrees(pair, Oracle(FIXTURE / "model", source, Reading("model.layers.2")), "promoted")
    assert rig.dictionary("rollback", slot, *ask)["applied"]["good"]


def test_what_does_not_fit_is_refused_and_nothing_changes(pair: Pair, collector: Collector, client: Client) -> None:
    digest = weights(pair.watched.bundle)
    (other,) = pair.watched.others
    with pytest.raises(SaewatchError, match=r"/nowhere/bundle\.json: found No such file"):
        client.load_dictionary(digest, weights(other), path="/nowhere")
    assert books(collector.settled()).keys() == {digest}
