"""One launch for any number of streams, its routes, and a slot that launches."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from saewatch.core.footprint import ROWS, footprint
from saewatch.core.tapconfig import DictionaryUse
from saewatch.engine import staging
from saewatch.engine.dictionary_file import load_bundle
from saewatch.engine.encoder import launch_of
from saewatch.engine.kernels import launch, table
from saewatch.engine.kernels.group import Work
from saewatch.engine.staging import Side, Slot
from tests.engine.kernels.stepped import CPU, a_group, columns, launched, packed, whole_numbers, with_kernels
from tests.engine.standin import BUNDLE, Blocks, a_config, an_engine, another_bundle, hidden, hung, rows_of

FEW = tuple(feature.id for feature in load_bundle(BUNDLE).catalogue.features[:9])
"""The interpreter takes its time."""


def test_several_hook_points_and_types_at_once() -> None:
    groups = [
        a_group(whole_numbers(19, 40, seed=1, dtype=torch.bfloat16), whole_numbers(20, 40, seed=2).bfloat16()),
        a_group(whole_numbers(19, 24, seed=3, dtype=torch.bfloat16), whole_numbers(37, 24, seed=4).bfloat16(), room=60),
        a_group(whole_numbers(19, 40, seed=1, dtype=torch.bfloat16), whole_numbers(9, 40, seed=5), lim=3.0),
        a_group(whole_numbers(19, 16, seed=6, dtype=torch.bfloat16), torch.zeros(0, 16).bfloat16()),
    ]
    found = launched(groups)
    for one, group in zip(found, groups, strict=True):
        assert columns(one) == columns(packed(group)[0])
    assert found[1].overflowed.any()
    assert not found[0].overflowed.any()


def test_a_step_never_waits_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(launch, "start", lambda variant, *_, warm: asked.append(variant.name) if warm else None)
    group = a_group(whole_numbers(1, 16, seed=1).bfloat16(), whole_numbers(20, 16, seed=2))
    launch.Launch([group], Work(CPU)).compile()
    needed = {table.route(rows, "bf16", "fp32").name for rows in range(1, ROWS + 1)}
    assert set(asked) == needed | {"watched.prepare-bf16", "append"}


def test_what_lies_between_the_kernels_is_what_was_told(tmp_path: Path) -> None:
    (one,) = hung(a_config(tmp_path), an_engine(), Blocks())
    use, config, manifest = one.use, a_config(tmp_path), one.bundle.manifest
    work, rows, slots = Work(CPU), 2000, 700
    group = a_group(torch.zeros(rows, 128).half(), torch.zeros(slots, 128).half(), rows=rows)
    launch.Launch([group], work)
    taken = sum(buffer.nbytes for buffer in work._buffers.values())  # noqa: SLF001 - nobody else needs them
    told = footprint(manifest, use, config, rows=rows, slots=slots)
    assert told.temporary == pytest.approx(taken, rel=0.01)
    assert told.temporary >= taken


def test_a_slot_launches_all_its_streams_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Blocks()
    paths = (BUNDLE, another_bundle(tmp_path / "o", "resid_pre.2"), BUNDLE)
    watched_here = hung(
        a_config(tmp_path, dictionaries=tuple(DictionaryUse(path=str(p)) for p in paths)), an_engine(), blocks
    )
    rows, first = rows_of(a=(0, 9), b=(3, 14)), Slot(watched_here)
    blocks.run(hidden(23))
    first.take(rows, watched_here)
    first.encode()
    expected = first.read()

    together: list[int] = []
    starting = launch.start  # counts what is enqueued

    def counted(variant: Any, *arguments: Any, warm: bool) -> None:
        together.append(variant.name == "append")
        starting(variant, *arguments, warm=warm)

    monkeypatch.setattr(launch, "start", counted)
    watched_here = [with_kernels(one) for one in watched_here]
    slot = Slot(watched_here, Side(CPU))
    for _ in range(2):
        slot.take(rows, watched_here)
        slot.encode()
        found = slot.read()
        for one, other in zip(found, expected, strict=True):
            assert len(one.row), "the fixture fires on such rows"
            assert one.row.tolist() == other.row.tolist()
            assert one.slot.tolist() == other.slot.tolist()
            assert one.value == pytest.approx(other.value, rel=1e-5)
            assert one.excluded.tolist() == other.excluded.tolist()
    assert together.count(True) == 2, "one for each step"
    assert len(together) == 6, "of three kernels"


def test_a_slot_keeps_its_launch_as_long_as_all_of_it_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, made = Blocks(), 0

    def counted(*arguments: Any) -> launch.Launch:
        nonlocal made
        made += 1
        return launch_of(*arguments)

    monkeypatch.setattr(staging, "LATE_ROWS", 0)  # from the sink's buffer itself, whose address stays
    monkeypatch.setattr(staging, "launch_of", counted)
    config = a_config(tmp_path, dictionaries=(DictionaryUse(path=str(BUNDLE), watch=FEW),))
    streams, rows = [with_kernels(one) for one in hung(config, an_engine(), blocks)], rows_of(a=(0, 9))
    slot, encoder = Slot(streams, Side(CPU)), weakref.ref(streams[0].encoder)
    blocks.run(hidden(9))
    for _ in range(2):
        slot.take(rows, streams)
        slot.encode()
        slot.read()
        slot.keep(streams)
    assert made == 1
    slot.keep([])
    del streams
    gc.collect()
    assert encoder() is None
