"""One pass for many rows: what the reference says, and what the windows of cuBLAS give, to the last corner."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saewatch.core.footprint import WINDOW
from saewatch.engine.dictionary_file import Dictionary
from saewatch.engine.kernels import fused
from saewatch.engine.kernels.dictionary import Lists
from saewatch.engine.kernels.operands import Code
from saewatch.engine.kernels.window import appended as by_window
from tests import made
from tests.engine.kernels.latents import PAIRS, agrees, dense, latents_of, prepared


def code_for(rows: int, *, cap: int = 256) -> Code:
    count, lost = torch.full((2, rows), 7, dtype=torch.int32)
    return Code(index=torch.zeros(rows, cap, dtype=torch.int32), value=torch.zeros(rows, cap), count=count, lost=lost)


def fired(one: Dictionary, x: Tensor, *, competing: bool = False, cap: int = 256) -> Code:
    out = code_for(len(x), cap=cap)
    fused.appended(latents_of(one), prepared(one, x), out, competing=competing)
    return out


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "gated"])
def test_what_fires_is_what_the_reference_says(activation: str) -> None:
    one, x = made.dictionary(activation, latents=300), made.rows(5)
    out = fired(one, x)
    assert not out.lost.any()
    agrees(dense(out, 302), one, x)


@pytest.mark.parametrize(("W", "x"), PAIRS)
def test_every_pair_of_types(W: torch.dtype, x: torch.dtype) -> None:
    one, rows = made.dictionary("jumprelu", latents=140, dtype=W), made.rows(3).to(x)
    agrees(dense(fired(one, rows), 142), one, rows)


@pytest.mark.parametrize(("rows", "latents", "d_in"), [(1, 1, 8), (129, 257, 40), (2, 255, 72)])
def test_odd_shapes(rows: int, latents: int, d_in: int) -> None:
    one = made.dictionary("jumprelu", latents=latents, d_in=d_in, directions=0)
    x = made.rows(rows, d_in=d_in)
    agrees(dense(fired(one, x), latents), one, x)


def test_a_second_window_is_added_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SUMS", 1)  # the narrowest window
    one, x = made.dictionary("jumprelu", latents=WINDOW + 5, directions=0), made.rows(2)
    one.limits.lim[:] += 4.0
    out = fired(one, x)
    assert int(out.index.max()) < WINDOW + 5
    assert int(dense(out, WINDOW + 5)[:, WINDOW:].count_nonzero()) == int(
        (x @ one.W[WINDOW:].T > torch.from_numpy(one.limits.lim[WINDOW:])).sum()
    )
    agrees(dense(out, WINDOW + 5), one, x)


def test_a_window_is_as_wide_as_its_sums_may_be_many() -> None:
    assert [fused.width_for(rows) for rows in (129, 1024, 1025, 2048, 8192, 100_000)] == [
        16_384,
        16_384,
        8192,
        8192,
        2048,
        2048,
    ]


def test_what_has_no_room_is_counted_and_the_first_are_kept() -> None:
    one = made.dictionary("relu", latents=400)
    one.W[:] = 1.0
    out = fired(one, torch.ones(2, made.D_IN))
    assert out.count.tolist() == [402, 402]
    assert out.lost.tolist() == [402 - 256] * 2
    assert out.index[0].tolist() == list(range(256))


def test_a_product_that_equals_its_limit_does_not_fire() -> None:
    one = made.dictionary("relu", latents=64, directions=0)
    one.W[:], one.limits.lim[:] = 0.5, 12.0
    one.W[9] = 0.51
    assert made.D_IN == 24
    out = fired(one, torch.ones(1, made.D_IN))
    assert out.count.tolist() == [1]
    assert int(out.index[0, 0]) == 9


def test_closed_rows_and_blocks_fire_nothing() -> None:
    one, x = made.dictionary("relu"), made.rows(131)
    x[1] = torch.nan
    rows, out = prepared(one, x), code_for(131)
    rows.is_open[1] = 0
    rows.is_open[128:] = 0
    fused.appended(latents_of(one), rows, out, competing=False)
    assert out.count[[1, 128, 129, 130]].tolist() == [0] * 4
    found = dense(out, len(one.W))
    agrees(found[[0, 2, 127]], one, x[[0, 2, 127]])
    assert found[[0, 2, 127]].any(dim=1).all()


def test_a_rows_bits_do_not_depend_on_the_other_rows() -> None:
    one, x = made.dictionary("jumprelu", latents=300), made.rows(130)
    together = dense(fired(one, x), 302)
    assert torch.equal(together[128:129], dense(fired(one, x[128:129]), 302))
    assert torch.equal(together, dense(fired(one, x), 302))


@pytest.mark.parametrize("floor", [-torch.inf, 0.8])
def test_what_may_reach_a_floor_is_listed_and_little_else(floor: float) -> None:
    one, x = made.dictionary("topk", latents=300, k=4, directions=0), made.rows(3)
    latents, rows, out = latents_of(one), prepared(one, x), code_for(3)
    rows.floor.fill_(floor)
    fused.appended(latents, rows, out, competing=True)
    values = latents.s * (x.double() @ one.W.double().T) + latents.c
    reach = (values >= floor) & (x.double() @ one.W.double().T > latents.lim)
    found = dense(out, 300) > 0
    assert bool((found | ~reach).all()), "no winner is lost"
    assert int(found.sum()) <= int(reach.sum()) + 2


def test_a_massive_dimension_loses_no_winner() -> None:
    one, x = made.dictionary("topk", latents=300, k=9, dtype=torch.bfloat16), made.rows(130)
    x[:, 5] = 3000.0
    x = x.bfloat16()
    latents, rows = latents_of(one, directions=False), prepared(one, x)
    expected = Lists(cap=1024, many="window").winners(latents, rows, 9)
    winners = Lists(cap=1024, many="fused").winners(latents, rows, 9)
    assert not winners.lost.any()
    assert not expected.lost.any()
    found = [torch.zeros(130, 301).scatter_(1, each.index.long(), each.value) for each in (winners, expected)]
    agrees(found[0][:, :300], one, x)
    assert torch.equal(found[0] > 0, found[1] > 0)


def test_lists_take_the_way_that_they_are_told() -> None:
    one, x = made.dictionary("jumprelu", latents=200), made.rows(130)
    latents, rows = latents_of(one), prepared(one, x)
    expected = code_for(130)
    by_window(latents, rows, torch.empty(130, WINDOW), expected)
    for many in ("fused", "window", ""):
        code = Lists(cap=256, many=many).fired(latents, rows)
        assert torch.equal(code.count, expected.count)
        assert torch.equal(dense(code, 202) > 0, dense(expected, 202) > 0)
