"""The whole dictionary on a real GPU: the reference's answers, the same bytes each time, and inside a CUDA graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saewatch.engine.dictionary_file import Dictionary
from saewatch.engine.encode import encode, grey_pairs
from saewatch.engine.kernels import table
from saewatch.engine.whole import Given, Whole
from tests import made

pytestmark = pytest.mark.gpu

D_IN, LATENTS = 256, 3000


def dictionary(activation: str, *, k: int | None = None, seed: int = 0) -> Dictionary:
    one = made.dictionary(activation, latents=LATENTS, d_in=D_IN, dtype=torch.bfloat16, k=k, seed=seed)
    return replace(one, W=one.W.contiguous())


def loaded(one: Dictionary, device: torch.device, *, int8: bool = False) -> Whole:
    whole = Whole(rows=len(one.W), d_in=D_IN, dtype=one.W.dtype, device=device, int8=int8, fused=True)
    whole.load(one, "exact")
    return whole


def given(x: Tensor) -> Given:
    return Given(kept=torch.ones(len(x), dtype=torch.bool, device=x.device), dtype=x.dtype)


def dense(whole: Whole, x: Tensor) -> Tensor:
    code = whole.code(x.float(), None, given(x))
    assert code is not None
    assert not code.lost.any()
    there = torch.arange(code.index.shape[1], device=x.device) < code.count[:, None]
    index = torch.where(there, code.index, LATENTS).long()
    found = torch.zeros(len(x), LATENTS + 1, device=x.device)
    return found.scatter_(1, index, torch.where(there, code.value, 0.0))[:, :LATENTS].cpu()


@pytest.mark.parametrize(("activation", "k"), [("jumprelu", None), ("gated", None), ("topk", 32)])
@pytest.mark.parametrize("rows", [1, 17, 100, 300])
def test_what_fires_is_what_the_reference_says(device: torch.device, activation: str, k: int | None, rows: int) -> None:
    one, x = dictionary(activation, k=k), made.rows(rows, d_in=D_IN).bfloat16()
    if k is None:
        one.limits.lim[:] += 4.0  # at most some hundred fire
    found = dense(loaded(one, device), x.to(device))
    sheet = one.manifest.encoder
    expected = encode(x, one.W, one.limits, sheet)[:, :LATENTS]
    grey = grey_pairs(x, one.W, one.limits, sheet)[:, :LATENTS]
    assert not bool((((found > 0) != (expected > 0)) & ~grey).any())
    both = (found > 0) & (expected > 0)
    assert torch.allclose(found[both], expected[both], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("activation", "k"), [("jumprelu", None), ("topk", 32)])
@pytest.mark.parametrize("rows", [130, 1000])
def test_both_ways_of_many_rows_find_the_same(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, activation: str, k: int | None, rows: int
) -> None:
    one, x = dictionary(activation, k=k), made.rows(rows, d_in=D_IN).bfloat16()
    if k is None:
        one.limits.lim[:] += 4.0  # at most some hundred fire
    whole = loaded(one, device)
    by_window = dense(whole, x.to(device))
    monkeypatch.setattr(table, "FUSED", ((1, 1),))
    fused = dense(whole, x.to(device))
    grey = grey_pairs(x, one.W, one.limits, one.manifest.encoder)[:, :LATENTS]
    assert not bool((((fused > 0) != (by_window > 0)) & ~grey).any())
    assert torch.equal(fused, dense(whole, x.to(device))), "the same bytes each time"
    assert torch.equal(fused[:129], dense(whole, x[:129].to(device))), "whatever else is in the step"


def test_a_graph_answers_for_new_rows_and_another_dictionary_and_alike_each_time(cuda: torch.device) -> None:
    one, other = dictionary("topk", k=32), dictionary("topk", k=32, seed=5)
    whole, x = loaded(one, cuda), made.rows(16, d_in=D_IN).bfloat16().to(cuda)
    for _ in range(3):
        whole.top(x.float(), None, given(x))  # compiles
    kept = given(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        top = whole.top(x.float(), None, kept)
    for loaded_one in (one, other):
        whole.load(loaded_one, "exact")  # into the same buffers
        x.copy_(made.rows(16, seed=7, d_in=D_IN).bfloat16())
        graph.replay()
        torch.cuda.synchronize()
        first = top.index.clone(), top.value.clone()
        eager = whole.top(x.float(), None, kept)
        assert torch.equal(first[0], eager.index)
        assert torch.equal(first[1], eager.value)
        for _ in range(100):
            graph.replay()
        assert torch.equal(top.index, first[0])
        assert torch.equal(top.value, first[1])


def test_a_rows_bits_do_not_depend_on_the_number_of_rows(device: torch.device) -> None:
    one = dictionary("jumprelu")
    one.limits.lim[:] += 4.0
    whole, x = loaded(one, device), made.rows(100, d_in=D_IN).bfloat16().to(device)
    together = dense(whole, x)
    for rows in (1, 16, 64):
        assert torch.equal(dense(whole, x[:rows]), together[:rows])


@pytest.mark.parametrize(("activation", "k"), [("jumprelu", None), ("topk", 32)])
@pytest.mark.parametrize("rows", [1, 64])
def test_a_screen_in_int8_gives_the_same_bits(device: torch.device, activation: str, k: int | None, rows: int) -> None:
    one, x = dictionary(activation, k=k), made.rows(rows, d_in=D_IN).bfloat16().to(device)
    x[:, 7] += 500.0
    one.limits.lim[:LATENTS] += 500.0 * one.W[:LATENTS, 7].float().numpy() + (4.0 if k is None else 0.0)
    one = replace(one, b_dec=torch.where(torch.arange(D_IN) == 7, 500.0, 1.0))
    stored, int8 = loaded(one, device), loaded(one, device, int8=True)
    assert torch.equal(dense(int8, x), dense(stored, x))
