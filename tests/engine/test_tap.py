"""The tap between an engine and its shipper: slots run out, are given back, and a disabled tap still counts."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from saewatch.core.batch import FiringBatch
from saewatch.core.errors import ConfigError, RecordError
from saewatch.core.records import Beat, StreamEnd, StreamOpen
from saewatch.core.tapconfig import DictionaryUse
from saewatch.engine import watched
from saewatch.engine.books import Stream
from saewatch.engine.census import Census, CensusCounts
from saewatch.engine.inside import Pack
from saewatch.engine.ledger import NewRequest
from saewatch.engine.ranks import Ranks
from saewatch.engine.staging import Slot
from saewatch.engine.tap import Tap
from tests.engine.standin import BUNDLE, Blocks, a_config, a_step, an_engine, hidden, hung, rows_of
from tests.simulate.sidecar import FakeSidecar
from tests.waiting import wait_until


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.fixture
def tap(tmp_path: Path, blocks: Blocks) -> Iterator[Tap]:
    found = Tap.open(a_config(tmp_path, slots=2), an_engine(), blocks)
    blocks.run(hidden(1))
    found.prove()
    yield found
    found.close()


def one_step(tap: Tap, blocks: Blocks, name: str, count: int = 10) -> None:
    rows = rows_of(**{name: (0, count)})
    blocks.run(hidden(count))
    tap.snapshot(lambda: rows)
    tap.step(**a_step(rows))


def shipped(tap: Tap, tokens: int) -> None:
    """Whatever was fed so far is in the books, and its slot is free."""
    wait_until(lambda: tap.books[0].fed == tokens)


def test_what_could_never_be_told_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="engine"):
        Tap.open(a_config(tmp_path), an_engine(instance="x" * 5000), Blocks())


def test_products_in_less_than_float32_are_refused_at_start(tmp_path: Path) -> None:
    """torch's own paths take what this says; the kernels do not."""
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ConfigError, match="float32_matmul_precision: found high, expected highest"):
            Tap.open(a_config(tmp_path), an_engine(), Blocks())
    finally:
        torch.set_float32_matmul_precision("highest")


def test_only_one_rank_has_a_place_in_the_graph(tmp_path: Path) -> None:
    engine = an_engine(ranks=Ranks(parallel=True))
    with pytest.raises(ConfigError, match=r"saewatch\.placement: found graph with several ranks, expected side"):
        Tap.open(a_config(tmp_path, placement="graph"), engine, Blocks())


def test_a_slot_that_a_fault_keeps_lives_on(tap: Tap, blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU its kernels are enqueued, and its memory would be given to whoever asks next."""
    seen: list[weakref.ref[Slot]] = []

    def breaks(slot: Slot) -> None:
        seen.append(weakref.ref(slot))
        raise RuntimeError

    monkeypatch.setattr(Slot, "encode", breaks)
    with pytest.raises(RuntimeError):
        one_step(tap, blocks, "a")
    tap.disable("fault")
    gc.collect()
    assert seen[0]() is not None


def test_a_census_is_read_where_its_slot_encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that is a stream, and to read beside it would be to read while it adds."""
    here: list[str] = []

    @contextlib.contextmanager
    def beside(_: Slot) -> Iterator[None]:
        here.append("beside")
        yield
        here.append("back")

    take = Census.take

    def taken(census: Census) -> CensusCounts:
        here.append("taken")
        return take(census)

    monkeypatch.setattr(watched, "CENSUS_EVERY_NS", 0)
    monkeypatch.setattr(Slot, "beside", beside)
    monkeypatch.setattr(Census, "take", taken)
    blocks = Blocks()
    tap = Tap.open(a_config(tmp_path, dictionaries=(DictionaryUse(path=str(BUNDLE), census=1.0),)), an_engine(), blocks)
    for name in ("a", "b"):
        one_step(tap, blocks, name)
    assert here == ["beside", "back", "beside", "taken", "back"], "a step begins a period, the next one is due"
    tap.close()


def test_firings_arrive_and_the_books_agree(tap: Tap, blocks: Blocks, tmp_path: Path) -> None:
    with FakeSidecar(tmp_path / "s") as sidecar:
        tap.start()
        wait_until(lambda: bool(sidecar.of(Beat)))
        for number, name in enumerate(("a", "b", "c"), start=1):
            one_step(tap, blocks, name)
            shipped(tap, 10 * number)
        tap.close()
        wait_until(lambda: bool(sidecar.of(StreamEnd)))
    batches = sidecar.of(FiringBatch)
    assert sum(batch.rows for batch in batches) == 27, "ten each, the first left out"
    assert sum(batch.firings for batch in batches) > 0
    (end,) = sidecar.of(StreamEnd)
    assert (end.final.fed, end.final.imbalance) == (30, 0)
    assert end.final.missed["excluded"] == 3


def test_without_a_free_slot_tokens_are_counted_and_nothing_waits(tap: Tap, blocks: Blocks) -> None:
    for name in ("a", "b", "c", "d"):  # the shipper has not started: nobody gives a slot back
        one_step(tap, blocks, name)
    tap.start()
    shipped(tap, 40)
    one_step(tap, blocks, "e")
    tap.close()
    (books,) = tap.books
    assert books.missed["no_slot"] == 20
    assert (books.fed, books.imbalance) == (50, 0)


def test_a_disabled_tap_counts_on(tap: Tap, blocks: Blocks) -> None:
    tap.start()
    one_step(tap, blocks, "a")
    tap.disable("fault")
    one_step(tap, blocks, "b")
    tap.close()
    (books,) = tap.books
    assert (books.blind, books.fed, books.imbalance) == ("fault", 20, 0)
    assert books.missed["blind"] == 10


class Full:
    """The buffers of a model's graph, that take nothing else."""

    slots = (1,)

    def packs(self, _slabs: object) -> list[Pack]:
        return []

    def hold(self, _watched: object) -> None:
        raise RuntimeError("planted")


def test_a_step_that_fails_before_its_pass_lacks_no_slot(tmp_path: Path, blocks: Blocks) -> None:
    config, engine = a_config(tmp_path), an_engine()
    opened = hung(config, engine, blocks)
    streams = [Stream(opening=one.opening, watch=one.watch_sets()) for one in opened]
    tap = Tap(config, engine, streams, opened, Full())  # type: ignore[arg-type]  # a fault that no kernel has
    tap.start()
    with pytest.raises(RuntimeError, match="planted"):
        tap.enter()
    tap.fail(RuntimeError("planted"))
    one_step(tap, blocks, "a")
    tap.close()
    (books,) = tap.books
    assert (books.blind, books.fed, books.missed) == ("fault", 10, {"blind": 10})


def test_a_blind_tap_counts_and_says_so(tmp_path: Path) -> None:
    with FakeSidecar(tmp_path / "s") as sidecar:
        tap = Tap.blind(a_config(tmp_path), an_engine(), "misfit_error")
        tap.start()
        wait_until(lambda: bool(sidecar.of(Beat)))
        rows = rows_of(a=(0, 10))
        tap.snapshot(lambda: rows)
        tap.step(**a_step(rows))
        tap.close()
    assert sidecar.of(StreamOpen)[0].blind == "misfit_error"
    assert sidecar.of(Beat)[0].streams[0].blind == "misfit_error"
    (books,) = tap.books
    assert books.missed == {"blind": 10}


def skipping(tap: Tap, blocks: Blocks, name: str, *, computed: int) -> None:
    """A step with a prompt of ten tokens, of which the first ``computed`` are skipped."""
    rows, ids, before = rows_of(**{name: (computed, 10 - computed)}), [500] * 10, tap.books[0].fed
    facts = a_step(rows)
    new = NewRequest(engine_id=name, prompt_len=10, computed=computed, prompt_token_ids=ids)
    blocks.run(hidden(10)[computed:])
    tap.snapshot(lambda: rows)
    tap.step(**{**facts, "new": [new], "computed": {name: 10}})
    shipped(tap, before + 10)


@pytest.mark.parametrize(
    ("block", "reuse_bytes", "reused"), [(4, 2**20, 7), (0, 2**20, 0), (4, 0, 0)], ids=["kept", "no cache", "off"]
)
def test_what_a_prompt_skips_is_replayed_where_it_is_kept(
    tmp_path: Path, blocks: Blocks, block: int, reuse_bytes: int, reused: int
) -> None:
    tap = Tap.open(a_config(tmp_path, reuse_bytes=reuse_bytes), an_engine(block=block), blocks)
    blocks.run(hidden(1))
    tap.prove()
    with FakeSidecar(tmp_path / "s") as sidecar:
        tap.start()
        wait_until(lambda: bool(sidecar.of(Beat)))
        skipping(tap, blocks, "a", computed=0)
        skipping(tap, blocks, "b", computed=8)
        tap.close()
    (books,) = tap.books
    assert (books.fed, books.reused, books.missed.get("cached", 0), books.imbalance) == (
        20,
        reused,
        0 if reused else 8,
        0,
    )
