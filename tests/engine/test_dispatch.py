"""What fits no frame is cut, what does not fit the queue is counted, and no loss goes untold."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from saewatch.core import limits
from saewatch.core.batch import Census, FiringBatch
from saewatch.core.records import Beat
from saewatch.engine import books
from saewatch.engine.ledger import NewRequest, Step
from saewatch.engine.staging import Note
from tests.engine.shipping import Bench, long_step
from tests.simulate.sidecar import FakeSidecar, told
from tests.waiting import wait_until


def test_a_batch_that_fits_no_frame_arrives_in_pieces(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        for number in (1, 2):
            step, encoded = long_step(3000, 20, number)
            run.shipper.put(Note(step=step, read=functools.partial(list, [encoded])))
        wait_until(lambda: run.books.encoded == 6000)
        batches = sidecar.of(FiringBatch)
        assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))
        assert len(batches) > 4
        assert sum(batch.firings for batch in batches) == run.books.firings == 120_000
        assert told(sidecar.records, 0) == run.books.fed == 6000
        assert run.books.imbalance == 0


def test_a_row_that_no_frame_takes_is_an_overflow(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        step, encoded = long_step(1, 14_000)
        run.shipper.put(Note(step=step, read=lambda: [encoded]))
        wait_until(lambda: told(sidecar.records, 0) == 1)
        assert (run.books.missed, run.books.imbalance) == ({"overflow": 1}, 0)
        assert run.shipper.faults == 0


def test_a_sidecar_that_reads_and_never_acknowledges_is_sent_no_more_after_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "UNACKNOWLEDGED", 10)
    with FakeSidecar(bench.path, acks=False) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        run.put()
        wait_until(lambda: run.books.fed == run.fed)
        assert run.streams[0].books.unacknowledged <= 10
        assert run.books.missed["queue_full"] > 0
        assert run.books.imbalance == 0


def test_losses_that_a_failed_batch_would_have_told_are_told_by_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> FiringBatch:
        raise RuntimeError("no batch")

    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        with monkeypatch.context() as broken:
            broken.setattr(books, "build", fails)
            new = NewRequest(engine_id="a", prompt_len=4, computed=0)
            run.shipper.put(Note(step=Step(number=1, time_ns=1, new=[new], computed={"a": 4})))
            wait_until(lambda: run.shipper.faults > 0)
            assert told(sidecar.records, 0) == 0
        wait_until(lambda: told(sidecar.records, 0) == 4)


def census(stream: int, latents: int, first: int, count: int) -> Census:
    return Census(
        stream=stream,
        time_ns=1,
        tokens=4,
        latents=latents,
        first=first,
        l0_mean=1.0,
        squared_error=0.0,
        squared_total=1.0,
        total=np.ones(count),
        count=np.ones(count, np.uint64),
    )


def test_a_census_is_passed_on(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        run.shipper.put(Note(step=Step(number=1, time_ns=1), census=[census(0, 2, 0, 2)]))
        wait_until(lambda: sidecar.of(Census))


def test_a_census_that_does_not_fit_is_dropped_whole_and_the_connection_and_the_others_stay(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(bound=limits.FRAME_BYTES, streams=2)
        wait_until(lambda: sidecar.of(Beat))
        parts = [census(0, 20_000, first, 4000) for first in range(0, 20_000, 4000)]
        run.shipper.put(Note(step=Step(number=1, time_ns=1), census=[*parts, census(1, 2, 0, 2)]))
        wait_until(lambda: sidecar.of(Census))
        beats = len(sidecar.of(Beat))
        wait_until(lambda: len(sidecar.of(Beat)) > beats + 2)
        assert (run.shipper.dispatch.census_dropped, run.shipper.faults, len(sidecar.connections)) == (1, 0, 1)
        assert [part.stream for part in sidecar.of(Census)] == [1]


def test_a_census_that_breaks_its_rules_is_dropped_and_blinds_nobody(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """As one does whose sums were read while they changed: more tokens of a latent than were sampled."""
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(streams=2)
        wait_until(lambda: sidecar.of(Beat))
        bad = replace(census(0, 4, 2, 2), count=np.full(2, 5, np.uint64))
        for number in (1, 2):
            run.shipper.put(
                Note(step=Step(number=number, time_ns=1), census=[census(0, 4, 0, 2), bad, census(1, 2, 0, 2)])
            )
        wait_until(lambda: len(sidecar.of(Census)) == 2)
        assert [part.stream for part in sidecar.of(Census)] == [1, 1], "of each stream all frames or none"
        assert (run.shipper.dispatch.census_dropped, run.shipper.faults, run.books.blind) == (2, 0, "")
        assert caplog.text.count("a census breaks its own rules") == 1
