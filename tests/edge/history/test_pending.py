"""Batches become blocks of a bounded size and time, and what does not fit is a loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from saewatch.core import limits
from saewatch.edge.history.pending import Pending
from saewatch.edge.history.writer import Cause
from saewatch.edge.pipeline import Dropped
from saewatch.monitor.events import Observed
from saewatch.monitor.silences import SilenceChanged
from tests import fakes
from tests.edge.history.kept import MS, T0, Kept, kept
from tests.monitor.test_silences import given


def taken(one: Kept) -> Pending:
    """Everything that came, with its groups complete."""
    pending = Pending()
    for item in one.sink.queue.take():
        pending.add(item, now_ns=one.now_ns)
    pending.close()
    return pending


def steps(one: Kept, *times_ms: int) -> None:
    """A step at each time, with four firings."""
    one.ready()
    one.start(7)
    for position, time_ms in enumerate(times_ms):
        one.batch([(7, position, 1)], [(0, slot, 5.0) for slot in range(4)], time_ns=T0 + time_ms * MS)


def test_a_block_is_short(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        steps(one, 0, 1000, 2000, 2001, 1500, 4500)
        sizes = [len(group.batches) for group in taken(one).ready]
        assert sizes == [3, 2, 1]


def test_a_block_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_BLOCK_FIRINGS", 10)
    with kept(tmp_path / "h.db") as one:
        steps(one, *range(7))
        assert [group.firings for group in taken(one).ready] == [12, 12, 4]
    monkeypatch.setattr(limits, "HISTORY_BLOCK_ROWS", 2)
    with kept(tmp_path / "i.db") as one:
        steps(one, *range(5))
        assert [group.rows for group in taken(one).ready] == [2, 2, 1]


def test_each_table_has_its_own(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db", known=[fakes.dictionary(), fakes.dictionary(seed=1)]) as one:
        one.ready()
        one.start(7)
        for stream in (1, 2, 1):
            one.batch([(7, 0, 1)], stream=stream)
        assert [len(group.batches) for group in taken(one).ready] == [2, 1]


def test_what_does_not_fit_is_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_PENDING_BYTES", 2500)
    with kept(tmp_path / "h.db") as one:
        steps(one, *range(7))
        pending = taken(one)
        (loss,) = pending.losses.values()
        written = sum(group.tokens for group in pending.ready)
        assert (loss.cause, loss.tokens, loss.firings) == (Cause.NOT_WRITTEN, 7 - written, 4 * (7 - written))
        assert (loss.first_ns, loss.last_ns) == (T0 + written * MS, T0 + 6 * MS)
        assert 0 < written < 7
        assert (pending.lost_tokens, pending.lost_firings) == (loss.tokens, loss.firings)
        while pending.ready:
            pending.done()
        item = next(item for item in again(one) if isinstance(item, Observed))
        pending.add(item, now_ns=0)
        pending.close()
        assert len(pending.ready) == 1, "there is room again"


def again(one: Kept) -> list[object]:
    one.batch([(7, 9, 1)])
    return list(one.sink.queue.take())


def test_a_dropped_stretch_reaches_to_the_next_step(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        steps(one, 0, 700)
        first, last = (item for item in one.sink.queue.take() if isinstance(item, Observed))
        pending = Pending()
        for item in (first, Dropped(3, 20, 50), last):
            pending.add(item, now_ns=1)
        (loss,) = pending.losses.values()
        assert (loss.cause, loss.tokens, loss.firings) == (Cause.QUEUE_FULL, 20, 50)
        assert (loss.first_ns, loss.last_ns) == (T0, T0 + 700 * MS)


def test_what_no_dictionary_explains_is_a_loss_of_the_sidecar_not_of_the_store(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        one.pipeline.connect(1)
        one.put(fakes.stream_open(one.known[0], weights_digest="sha256:other"))
        one.batch([(7, 0, 5)])
        pending = taken(one)
        (loss,) = pending.losses.values()
        assert (loss.cause, loss.tokens, loss.first_ns) == (Cause.UNREADABLE, 5, T0)
        assert pending.lost_tokens == 0


def test_ends_that_nobody_takes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OPEN_REQUESTS", 2)
    with kept(tmp_path / "h.db") as one:
        one.ready()
        for number in range(1, 5):
            one.start(number)
            one.end(number)
        assert [event.identity.engine_id for event in taken(one).ended] == ["plain-3", "plain-4"]


def test_silences_wait_in_bounds_and_a_policys_own_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALERTS_STORED", 2)
    pending = Pending()
    for name, by in (("a", "ada"), ("own", ""), ("b", "ada"), ("a", "ada"), ("c", "ada")):
        pending.add(SilenceChanged(silence=given(name, by=by)), now_ns=1)
    assert ([*pending.silences], pending.lost_alerts) == (["a", "c"], 1)
