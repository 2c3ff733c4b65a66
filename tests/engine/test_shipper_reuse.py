"""The shipper's replays, over a real socket: told before the rows behind them, counted by origin, lost like others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from saewatch.core.batch import FiringBatch, Origin, Reason
from saewatch.core.records import Beat, StreamBeat
from saewatch.engine.batching import Encoded
from saewatch.engine.books import Stream
from saewatch.engine.chain import Chain
from saewatch.engine.control import Turn
from saewatch.engine.ledger import NewRequest, Settled, Skipped, Step
from saewatch.engine.reuse import Replay, Reuse
from saewatch.engine.staging import Note
from tests.engine.shipping import TRAFFIC, Bench, Run, at_rest, check_connections, left_out, opening, watch_set
from tests.simulate.engine import Traffic
from tests.simulate.sidecar import FakeSidecar, told
from tests.waiting import wait_until

ALIKE = replace(TRAFFIC, cached=1.0, shared=1.0, block=4)
IDS = list(range(1, 21))


def prompt(run: Run, name: str, *, computed: int = 0, number: int = 1, external: bool = False) -> None:
    """A step with one request: the prompt `IDS`, of which the first ``computed`` are skipped."""
    count = len(IDS)
    new = NewRequest(engine_id=name, prompt_len=count, computed=computed, prompt_token_ids=IDS, external=external)
    run.put_step(
        Step(
            number=number,
            time_ns=number,
            new=[new],
            computed={name: count},
            emitted={name: [1]},
            order=[name],
            starts=np.array([0, count - computed], np.int32),
            positions=np.arange(computed, count, dtype=np.int32),
        )
    )


def reused(batches: list[FiringBatch], stream: int = 0) -> int:
    return sum(batch.reused_rows for batch in batches if batch.stream == stream)


def settled_books(run: Run, fed: int) -> StreamBeat:
    wait_until(lambda: run.books.fed == fed and run.books.in_flight == 0)
    assert run.books.imbalance == 0
    return run.books


@pytest.mark.parametrize("seed", range(3))
def test_what_is_skipped_is_replayed_and_told_once(bench: Bench, seed: int) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(seed=seed, streams=2, traffic=ALIKE, reuse=4)
        wait_until(lambda: sidecar.of(Beat))
        run.put()
        books = at_rest(run, sidecar)
        batches = sidecar.of(FiringBatch)
        check_connections(run, sidecar)  # every row says the right thing, a replayed one too
        for stream in (0, 1):
            assert told(sidecar.records, stream) == books.fed
            assert reused(batches, stream) == books.reused > 0
            numbers = [batch.seq for batch in batches if batch.stream == stream]
            assert numbers == list(range(1, len(numbers) + 1))
        skipped = sum(
            reason == Reason.CACHED for request in run.engine.requests.values() for reason in request.seen.values()
        )
        assert books.reused + books.missed.get("cached", 0) <= skipped, "the others were excluded again"
        assert books.told == books.fed


def test_a_replay_comes_before_the_rows_that_follow_it(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(traffic=Traffic(requests=0), reuse=4)
        wait_until(lambda: sidecar.of(Beat))
        prompt(run, "first")
        prompt(run, "second", computed=16, number=2)
        books = settled_books(run, 2 * len(IDS))
        spans = [
            (int(batch.seq), int(request), int(position), int(rows), int(origin))
            for batch in sidecar.of(FiringBatch)
            for request, position, rows, origin in zip(
                batch.request, batch.position, batch.lengths, batch.origin, strict=True
            )
        ]
        excluded = [position for position in range(20) if left_out(position) is not None]
        assert excluded == [5, 7]
        overflowed_block = range(4, 8)  # position 7 overflowed: its block is not known
        assert [span for span in spans if span[1] == 2] == [
            (2, 2, 0, 4, Origin.REUSED),
            (2, 2, 8, 8, Origin.REUSED),
            (3, 2, 16, 4, Origin.COMPUTED),
        ]
        assert (books.reused, books.encoded) == (12, 18 + 4)
        assert books.missed == {"cached": len(overflowed_block), "excluded": 1, "overflow": 1}


def test_what_was_computed_elsewhere_is_never_replayed(bench: Bench) -> None:
    """Not even where the same tokens were computed here: the KV that it goes on with is another one."""
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(traffic=Traffic(requests=0), reuse=4)
        wait_until(lambda: sidecar.of(Beat))
        prompt(run, "first")
        prompt(run, "second", computed=16, number=2, external=True)
        books = settled_books(run, 40)
        assert (books.reused, books.missed["external"], books.missed.get("cached", 0)) == (0, 16, 0)


def test_a_request_may_skip_what_another_one_has_in_the_same_step(bench: Bench) -> None:
    """vLLM's prefix cache answers for blocks that are computed in the very step."""
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(traffic=Traffic(requests=0), reuse=4)
        wait_until(lambda: sidecar.of(Beat))
        names = ["first", "second"]
        new = [
            NewRequest(engine_id=name, prompt_len=20, computed=computed, prompt_token_ids=IDS)
            for name, computed in zip(names, (0, 4), strict=True)
        ]
        run.put_step(
            Step(
                number=1,
                time_ns=1,
                new=new,
                computed=dict.fromkeys(names, 20),
                emitted={name: [1] for name in names},
                order=names,
                starts=np.array([0, 20, 36], np.int32),
                positions=np.array([*range(20), *range(4, 20)], np.int32),
            )
        )
        assert settled_books(run, 40).reused == 4


def test_a_replay_that_nobody_acknowledged_is_a_gap(bench: Bench) -> None:
    with FakeSidecar(bench.path, acks=False) as first:
        run = bench.open(traffic=Traffic(requests=0), reuse=4)
        wait_until(lambda: first.of(Beat))
        prompt(run, "first")
        prompt(run, "second", computed=16, number=2)
        wait_until(lambda: reused(first.of(FiringBatch)) == 12)
    with FakeSidecar(bench.path):
        books = settled_books(run, 40)
    assert (books.reused, books.encoded, books.missed["gap"]) == (0, 0, 18 + 12 + 4)


def test_a_blind_stream_replays_nothing(bench: Bench) -> None:
    """Where a step was dropped, the tokens that the ledger knows may not be those that were fed."""
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(traffic=Traffic(requests=0), reuse=4)
        wait_until(lambda: sidecar.of(Beat))
        prompt(run, "first")
        settled_books(run, 20)
        run.shipper.blind("shipper_behind")
        prompt(run, "second", computed=16, number=2)
        assert settled_books(run, 40).missed["cached"] == 16


class Broken(Reuse):
    """Fails where it is told to."""

    def __init__(self, *, at: str) -> None:
        super().__init__(block=4, bound=2**20)
        self.at = at

    def record(self, settled: Settled, encoded: Encoded, chains: Mapping[int, Chain]) -> None:
        if self.at == "record":
            raise ValueError(self.at)
        super().record(settled, encoded, chains)

    def replay(self, span: Skipped, chain: Chain | None) -> Replay | None:
        if self.at == "replay":
            raise ValueError(self.at)
        found = super().replay(span, chain)
        assert found is not None
        if self.at == "batch":  # firings that are out of order
            found = found[0], replace(found[1], row=found[1].row[::-1].copy())
        return found


@pytest.mark.parametrize("at", ["record", "replay", "batch"])
def test_a_fault_of_ours_blinds_the_stream_and_the_books_stay_right(bench: Bench, at: str) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(traffic=Traffic(requests=0), reuse=4)
        run.streams[0].reuse = Broken(at=at)
        wait_until(lambda: sidecar.of(Beat))
        prompt(run, "first")
        prompt(run, "second", computed=16, number=2)
        books = settled_books(run, 40)
        assert (books.blind, books.reused, run.shipper.faults) == ("shipper_fault", 0, 1)
        assert books.encoded == 18 + 4
        lost: Counter[str] = Counter(books.missed)
        assert lost["cached"] + lost["blind"] + lost["excluded"] + lost["overflow"] == 18


def test_a_stream_that_ends_keeps_nothing_of_what_fired(bench: Bench) -> None:
    """Without a sidecar it waits for one with its books alone."""
    turned = threading.Event()
    run = bench.open(traffic=ALIKE, reuse=4)
    prompt(run, "first")
    wait_until(lambda: run.released == run.captured)
    run.shipper.turn(Turn(number=1, streams=[Stream(opening=opening(1), watch=[watch_set(1)])], turned=turned.set))
    run.shipper.put(Note(step=Step(number=2, time_ns=2, finished=["first"]), watching=1))
    assert turned.wait(10)
    assert (run.streams[0].reuse, run.streams[0].pool) == (None, None)
    assert (run.books.fed, run.books.imbalance) == (20, 0)
