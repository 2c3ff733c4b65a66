"""Rows that are multiplied before anybody knows which of them count give what the other place gives, to the bit."""

from __future__ import annotations

import pytest
import torch

from saewatch.core.footprint import ROWS
from saewatch.core.manifest import InputNorm
from saewatch.engine.batching import Encoded
from saewatch.engine.kernels import inside, launch, table
from saewatch.engine.kernels.group import Group, Work
from saewatch.engine.kernels.inside import LARGEST, SLOTS, Inside
from saewatch.engine.kernels.launch import Launch
from saewatch.engine.kernels.watched import SIZES
from saewatch.engine.slab import Slab
from tests.engine.kernels.stepped import CPU, a_group, columns, read, whole_numbers

TYPES = [torch.bfloat16, torch.float16, torch.float32]
FULL = 70


def groups_of(x: torch.dtype, w: torch.dtype, *, room: int = 10_000, norm: InputNorm | None = None) -> list[Group]:
    rows = torch.randn(FULL, 40, generator=torch.Generator().manual_seed(1)).to(x)
    rows[5] = torch.inf
    first = a_group(rows, whole_numbers(20, 40, seed=2).to(w), room=room, norm=norm)
    second = a_group(rows, whole_numbers(37, 40, seed=4).to(w), lim=3.0, room=room, norm=norm)
    first.first.fill_(2)
    second.special[0], second.specials[0] = 7, 1
    return [first, second]


def both(groups: list[Group], rows: int, *, padded: int) -> tuple[list[Encoded], list[Encoded]]:
    """Of a step of ``rows`` rows: beside the graph, and inside of one that was captured for ``padded``."""
    positions, tokens = torch.arange(rows), torch.arange(rows) % 9
    Launch(groups, Work(CPU)).run(rows, positions, tokens)
    beside = [read(group.slab) for group in groups]
    one = Inside(groups)
    slabs = [Slab(rows_max=FULL, firings_max=group.slab.firings_max) for group in groups]
    packs = one.packs(slabs)
    one.fire(padded)
    for slab in slabs:
        slab.start(rows)
    one.pack(packs, rows, positions, tokens)
    return beside, [read(slab) for slab in slabs]


@pytest.mark.parametrize(("x", "w"), [(a, b) for a in TYPES for b in TYPES])
def test_both_places_give_the_same_bytes(x: torch.dtype, w: torch.dtype) -> None:
    beside, within = both(groups_of(x, w), 19, padded=24)
    assert [columns(one) for one in beside] == [columns(one) for one in within]
    assert all(len(one.row) > 20 for one in within)
    assert within[0].excluded[[0, 1, 5]].all(), "two first rows, and one that is not finite"
    assert within[1].excluded[[7, 16]].all(), "a special token"
    assert not within[1].excluded[[0, 1]].any()


def test_dictionaries_of_several_types_on_one_hook_point() -> None:
    """All are multiplied before any is packed: each pair of types has its own place for what lies between."""
    rows = whole_numbers(FULL, 40, seed=1).bfloat16()
    centred = InputNorm(kind="layer_norm", eps=1e-5)
    groups = [
        a_group(rows, whole_numbers(20, 40, seed=2).bfloat16()),
        a_group(rows, whole_numbers(37, 40, seed=4), lim=3.0),
        a_group(rows, whole_numbers(20, 40, seed=5), norm=centred),
    ]
    beside, within = both(groups, 19, padded=24)
    assert [columns(one) for one in beside] == [columns(one) for one in within]
    assert all(len(one.row) > 20 for one in within)


@pytest.mark.parametrize(("rows", "padded"), [(1, 1), (1, 8), (65, 70)])
def test_rows_that_are_nobodys_change_nothing(rows: int, padded: int) -> None:
    beside, within = both(groups_of(torch.bfloat16, torch.bfloat16), rows, padded=padded)
    assert [columns(one) for one in beside] == [columns(one) for one in within]


def test_what_does_not_fit_is_lost_alike() -> None:
    beside, within = both(groups_of(torch.bfloat16, torch.bfloat16, room=30), 20, padded=24)
    assert [columns(one) for one in beside] == [columns(one) for one in within]
    assert within[1].overflowed.any()


@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
def test_normalised_rows(kind: str) -> None:
    norm = InputNorm(kind=kind, eps=1e-5 if kind == "layer_norm" else None)
    beside, within = both(groups_of(torch.bfloat16, torch.float32, norm=norm), 20, padded=32)
    assert [columns(one) for one in beside] == [columns(one) for one in within]


def test_one_pass_after_the_other_leaves_nothing_behind() -> None:
    groups = groups_of(torch.bfloat16, torch.bfloat16)
    one, positions = Inside(groups), torch.arange(2, 30)
    packs = one.packs([group.slab for group in groups])
    found = []
    for rows in (17, 3, 17):
        one.fire(24 if rows > 8 else 8)
        for group in groups:
            group.slab.start(rows)
        one.pack(packs, rows, positions[:rows], positions[:rows])
        found.append([columns(read(group.slab)) for group in groups])
    assert found[0] == found[2] != found[1]


def test_every_size_of_step_has_tiles_of_the_same_slots() -> None:
    for x in ("bf16", "fp16", "fp32"):
        for w in ("bf16", "fp16", "fp32"):
            for rows in (1, 16, 17, LARGEST, ROWS):
                name = table.route(min(rows, LARGEST), x, w).name.split("-")[1]
                assert SIZES[name].slots == SLOTS


def test_a_pass_never_waits_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def note(variant: object, *_: object, warm: bool) -> None:
        assert warm
        asked.append(variant.name)  # type: ignore[attr-defined]  # a Variant

    for module in (launch, inside):
        monkeypatch.setattr(module, "start", note)
    one = Inside([a_group(whole_numbers(9, 16, seed=1).bfloat16(), whole_numbers(20, 16, seed=2).bfloat16())])
    one.compile()
    fires = {f"watched.fire-{size}-bf16-bf16" for size in ("decode", "batch")}
    assert set(asked) == fires | {"watched.prepare-bf16", "drop", "append"}
