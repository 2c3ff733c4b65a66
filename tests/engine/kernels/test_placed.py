"""A tap whose rows are multiplied inside the graph reports what one beside it reports, and follows a change."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saewatch.core.footprint import Footprint, footprint
from saewatch.core.tapconfig import DictionaryUse
from saewatch.engine import tap as tapped
from saewatch.engine import watched
from saewatch.engine.dictionary_file import load_bundle
from saewatch.engine.inside import Graphed, InsideSlot
from saewatch.engine.staging import Side, Slot
from tests.engine.changing import Running, running_tap
from tests.engine.kernels.stepped import CPU, columns, with_kernels
from tests.engine.standin import BUNDLE, Blocks, a_config, an_engine, another_bundle, hidden, hung, rows_of
from tests.waiting import wait_until

WEIGHTS = load_bundle(BUNDLE).sheet.weights
FEW = tuple(feature.id for feature in load_bundle(BUNDLE).catalogue.features[:9])
"""Of the fixture's features: the interpreter takes its time."""


def test_a_slot_gives_what_a_slot_beside_the_graph_gives(tmp_path: Path) -> None:
    blocks = Blocks()
    paths = (BUNDLE, another_bundle(tmp_path / "o", "resid_pre.2"), BUNDLE)
    uses = tuple(DictionaryUse(path=str(path), watch=FEW) for path in paths)
    streams = [with_kernels(one) for one in hung(a_config(tmp_path, dictionaries=uses), an_engine(), blocks)]
    beside, graphed = Slot(streams, Side(CPU)), Graphed(streams)
    inside, rows = InsideSlot(graphed, streams), rows_of(a=(0, 9), b=(3, 6))
    blocks.run(hidden(15))
    for slot in (beside, inside):
        slot.take(rows, streams)
        slot.encode()
    for one in streams:
        one.sink.buffer.fill_(float("nan"))
    found, expected = inside.read(), beside.read()
    assert [columns(one) for one in found] == [columns(one) for one in expected]
    assert all(len(one.row) for one in found), "the fixture fires on such rows"
    assert inside.positions().tolist() == [*range(9), *range(3, 9)]
    graphed.prove()


def test_the_graphs_buffers_keep_no_dictionary_that_was_replaced(tmp_path: Path) -> None:
    config = a_config(tmp_path, dictionaries=(DictionaryUse(path=str(BUNDLE), watch=FEW),))
    (one,) = [with_kernels(one) for one in hung(config, an_engine(), Blocks())]
    graphed = Graphed([one])
    other = one.encoder.rewatched(one.encoder.watch_list)
    graphed.hold([replace(one, encoder=other)])
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None


@contextmanager
def running(folder: Path, monkeypatch: pytest.MonkeyPatch, placement: str) -> Iterator[Running]:
    """With the kernels, in the interpreter."""
    opened = watched.open_watched

    def with_those(*arguments: Any) -> list[watched.Watched]:
        return [with_kernels(one) for one in opened(*arguments)]

    monkeypatch.setattr(watched, "footprint", _with_the_kernels)
    monkeypatch.setattr(tapped, "open_watched", with_those)
    monkeypatch.setattr(watched, "reference_of", lambda *_: None)  # the proof has tests of its own, and takes long here
    folder.mkdir()
    with running_tap(folder, placement=placement, dictionaries=(DictionaryUse(path=str(BUNDLE), watch=FEW),)) as one:
        yield one
    monkeypatch.undo()


def _with_the_kernels(*arguments: Any, **named: Any) -> Footprint:
    return footprint(*arguments, **{**named, "fused": True})


def reported(folder: Path, monkeypatch: pytest.MonkeyPatch, placement: str) -> list[Any]:
    """Of three steps: as at the start, with two features, and with all again. The interpreter takes one thread."""
    with running(folder, monkeypatch, placement) as one:
        for number, chosen in enumerate((None, FEW[:2], FEW)):
            if chosen is not None:
                assert one.asked("watch", weights=WEIGHTS, watch=json.dumps(chosen)).good
            one.step(5)
            wait_until(lambda wanted=number + 1: len(one.batches()) == wanted)  # type: ignore[misc]  # bound here
        (end,) = one.closed().values()
        assert (end.final.fed, end.final.imbalance, end.final.blind) == (15, 0, "")
        return [(each.watch, each.slot.tolist(), each.value.tolist()) for each in one.batches()]


def test_a_tap_follows_a_change_between_two_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = reported(tmp_path / "g", monkeypatch, "graph")
    assert inside == reported(tmp_path / "s", monkeypatch, "side")
    assert [watch for watch, *_ in inside] == [1, 2, 3]
    assert all(slots for _, slots, _ in inside)
    assert max(inside[1][1]) < max(inside[0][1])


def test_more_than_the_graph_has_room_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = another_bundle(tmp_path / "o", features=len(FEW))
    with running(tmp_path / "g", monkeypatch, "graph") as one:
        found = one.asked("load", replace=WEIGHTS, path=str(other))
        assert not found.good, "made without kernels here"
        assert "dictionary.type" in found.message
        one.step(4)
        (end,) = one.closed().values()
        assert (end.final.fed, end.final.imbalance) == (4, 0)
