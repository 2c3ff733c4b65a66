"""The int8 screen misses nothing, whatever it is shown, and what is decided after it is the same to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from saewatch.engine.kernels import full
from saewatch.engine.kernels.dictionary import Lists
from saewatch.engine.kernels.operands import Latents, norms, rows_of
from saewatch.engine.kernels.screen import MARGIN, Quantised, admitted, massive
from tests import made
from tests.engine.kernels.latents import dense, latents_of, prepared


def quantised(latents: Latents, apart: Sequence[int] = ()) -> Quantised:
    found = Quantised.sized(len(latents), latents.W.shape[1])
    found.load(latents.W, typical(latents.W.shape[1], apart))
    return found


def typical(d: int, massive: Sequence[int]) -> Tensor:
    row = torch.ones(d)
    row[list(massive)] = -1e3
    return row


def screened(latents: Latents, x: Tensor, apart: Sequence[int] = ()) -> Tensor:
    """What is admitted, ``[T, F]`` bool."""
    words = -(-len(latents) // full.TILE) * 4
    bits = torch.full((len(x), words), -1, dtype=torch.int32)
    admitted(quantised(latents, apart), latents, rows_of(x, None), bits)
    return ((bits[:, :, None] >> torch.arange(32)) & 1).flatten(1)[:, : len(latents)].bool()


def limited(W: Tensor, lim: Tensor) -> Latents:
    one = torch.ones(len(W))
    return Latents(W=W, lim=lim, s=one, c=torch.zeros(len(W)), norm=norms(W))


def rows(kind: str, d: int) -> Tensor:
    x = made.rows(12, d_in=d)
    if kind == "massive":
        x[:, 3], x[::2, 7] = 2000.0, -900.0
    if kind == "tiny":
        x *= 1e-20
    if kind == "one hot":
        x = torch.eye(d)[:12] * 3.0
    return x


@pytest.mark.parametrize("kind", ["random", "massive", "tiny", "one hot"])
@pytest.mark.parametrize("d", [50, 320])
@pytest.mark.parametrize("apart", [(), (3, 7), range(49, 33, -1)], ids=["none", "massive", "most"])
def test_no_pair_above_its_limit_is_missed_even_by_one_ulp(apart: Sequence[int], d: int, kind: str) -> None:
    x, W = rows(kind, d), torch.randn(400, d, generator=torch.Generator().manual_seed(2)) / d**0.5
    W[::50] *= 1e-3
    W[5] = 0.0
    u = x.double() @ W.double().T
    for place in (0, 11):  # a limit just below what one of the rows gives: its pairs are all to be admitted
        below = u[place].float()
        lim = torch.nextafter(torch.where(below.double() >= u[place], torch.nextafter(below, -below.abs() - 1), below),
                              torch.full_like(below, -torch.inf))  # fmt: skip
        found = screened(limited(W, lim), x, apart)
        assert not bool((~found & (u > lim.double())).any())


def test_little_is_admitted_that_does_not_fire() -> None:
    d = 512
    x, W = made.rows(40, d_in=d), torch.randn(400, d, generator=torch.Generator().manual_seed(2)) / d**0.5
    latents = limited(W, torch.full((400,), 4.0))
    fires = (x @ W.T > 4.0).sum()
    assert int(fires) > 100
    assert int(screened(latents, x).sum()) < 2 * int(fires)


def test_massive_dimensions_that_are_kept_apart_do_not_widen_the_margin() -> None:
    d, places = 512, torch.tensor([40, 3, 500])
    x, W = made.rows(40, d_in=d), torch.randn(400, d, generator=torch.Generator().manual_seed(2)) / d**0.5
    x[:, places] += torch.tensor([300.0, -900.0, 60.0])  # in all rows the same, as in language models
    latents = limited(W, (W[:, places] @ torch.tensor([300.0, -900.0, 60.0])) + 4.0)
    fires = x.double() @ W.double().T > latents.lim
    together, apart = (screened(latents, x, columns) for columns in ((), places.tolist()))
    assert int(fires.sum()) > 100
    assert int(together.sum()) > 10 * int(fires.sum())
    assert int(apart.sum()) < 2 * int(fires.sum())
    assert not bool((fires & ~apart).any())


def test_which_dimensions_are_massive() -> None:
    row = torch.randn(4096, generator=torch.Generator().manual_seed(1))
    assert massive(row).tolist() == []
    row[100:130] = -torch.arange(10.0, 40.0)
    assert massive(row).tolist() == list(range(129, 113, -1)), "the largest, and no more than there is room for"
    assert massive(torch.zeros(5)).tolist() == []
    assert massive(torch.tensor([0.0, 0.0, 1.0])).tolist() == [2]


def test_another_dictionary_with_fewer_apart_takes_the_place_of_one() -> None:
    d = 64
    x, W = made.rows(12, d_in=d), torch.randn(200, d, generator=torch.Generator().manual_seed(2))
    small = Quantised.sized(200, d)
    small.load(W[:, torch.randperm(d, generator=torch.Generator().manual_seed(3))], typical(d, range(16)))
    small.load(W, typical(d, [5]))
    alone = quantised(limited(W, torch.zeros(200)), [5])
    assert torch.equal(small.q, alone.q)
    assert torch.equal(small.kept, alone.kept)
    bits = torch.zeros(2, 12, 8, dtype=torch.int32)
    for one, found in zip((small, alone), bits, strict=True):
        admitted(one, limited(W, torch.full((200,), 9.0)), rows_of(x, None), found)
    assert torch.equal(*bits)
    assert bool(bits.any())


def test_the_margin_holds_for_the_worst_rows() -> None:
    """Rows that lie along the rounding errors themselves: the product is as far from its estimate as it can be."""
    d = 256
    W = torch.randn(64, d, generator=torch.Generator().manual_seed(3))
    small = Quantised.sized(64, d)
    small.load(W)
    x = (W - small.step[:, None] * small.q[:, :d].float())[:40] * 100.0
    u = (x.double() @ W.double().T).diagonal()
    lim = torch.full((64,), torch.inf)
    lim[:40] = torch.nextafter(u.float(), torch.full_like(u.float(), -torch.inf))
    found = screened(limited(W, lim), x)
    assert found.diagonal().all()
    assert MARGIN < 2.0**-14


@pytest.mark.parametrize("activation", ["jumprelu", "gated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_those_of_the_other_screen_to_the_last_bit(activation: str, dtype: torch.dtype) -> None:
    one, x = made.dictionary(activation, latents=300, dtype=dtype), made.rows(5).bfloat16()
    latents, plain = latents_of(one), Lists(cap=256)
    other = Lists(cap=256, quantised=quantised(latents, [3, 0]))
    expected = dense(plain.fired(latents, prepared(one, x)), 302)
    assert torch.equal(dense(other.fired(latents, prepared(one, x)), 302), expected)
    assert torch.equal(dense(other.fired(latents, prepared(one, x[2:3])), 302), expected[2:3])


def test_winners_too() -> None:
    one, x = made.dictionary("topk", latents=300, k=9), made.rows(3)
    latents = latents_of(one, directions=False)
    lists = [Lists(cap=256, quantised=small) for small in (None, quantised(latents))]
    first, second = (one_list.winners(latents, prepared(one, x), 9) for one_list in lists)
    assert torch.equal(first.index.sort().values, second.index.sort().values)
    assert torch.equal(first.value.sort().values, second.value.sort().values)
