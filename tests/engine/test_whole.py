"""The whole dictionary in blocks: the same answers whatever the blocks, and never more than one block at a time."""

from __future__ import annotations

import mmap

import pytest
import torch
from torch import Tensor

from saewatch.core.errors import MisfitError
from saewatch.engine import whole as module
from saewatch.engine.encode import encode
from saewatch.engine.whole import Whole, check_room
from tests import made


def dense(whole: Whole, x: Tensor) -> Tensor:
    found = torch.zeros(len(x), whole.W.shape[0])
    for first, values in whole.blocks(x, None):
        found[:, first : first + values.shape[1]] = values
    return found


@pytest.mark.parametrize(("activation", "k"), [("jumprelu", None), ("topk", 9)])
@pytest.mark.parametrize("block", [8, 40, 8192])
def test_blocks_make_up_the_dictionary(
    monkeypatch: pytest.MonkeyPatch, activation: str, k: int | None, block: int
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    one, x = made.dictionary(activation, k=k), made.rows(60)
    whole = Whole.sized(one, decoder=False)
    whole.load(one, "exact")
    expected = encode(x, one.W, one.limits, one.manifest.encoder)
    found = dense(whole, x)
    assert torch.equal(found > 0, expected > 0)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("block", [8, 8192])
def test_ties_go_to_the_lowest_index_in_any_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    one = made.dictionary("topk", k=9)
    one.W[: made.LATENTS] = 1.0
    one.limits.c[: made.LATENTS] = 0.5
    one.limits.s[: made.LATENTS] = 1.0
    whole = Whole.sized(one, decoder=False)
    whole.load(one, "exact")
    found = whole.top(torch.ones(3, made.D_IN), None)
    assert found.index.sort().values.tolist() == [list(range(9))] * 3
    assert set(found.value.flatten().tolist()) == {made.D_IN + 0.5}


def test_winners_below_zero_keep_their_values_and_do_not_fire() -> None:
    one = made.dictionary("topk", k=9)
    one.W[: made.LATENTS] = -torch.arange(1.0, made.LATENTS + 1)[:, None] / made.D_IN
    one.limits.c[: made.LATENTS] = 0.0
    one.limits.s[: made.LATENTS] = 1.0
    whole = Whole.sized(one, decoder=False)
    whole.load(one, "exact")
    values = whole.top(torch.ones(1, made.D_IN), None).value
    assert torch.allclose(values.sort().values, -torch.arange(9.0, 0.0, -1))
    assert all(
        not block[:, : made.LATENTS].any()
        for first, block in whole.blocks(torch.ones(1, made.D_IN), None)
        if first < made.LATENTS
    )


def test_no_block_is_wider_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)
    one = made.dictionary()
    whole = Whole.sized(one, decoder=False)
    whole.load(one, "exact")
    widths = [values.shape[1] for _, values in whole.blocks(made.rows(5), None)]
    assert max(widths) == 16
    assert sum(widths) == made.LATENTS + 2


def test_a_smaller_dictionary_replaces_a_larger_one_in_place() -> None:
    large, small = made.dictionary(), made.dictionary(latents=32, seed=4)
    whole = Whole.sized(large, decoder=True)
    whole.load(large, "exact")
    before = whole.W.data_ptr(), whole.W_dec.data_ptr()
    whole.load(small, "exact")
    assert before == (whole.W.data_ptr(), whole.W_dec.data_ptr())
    assert sum(values.shape[1] for _, values in whole.blocks(made.rows(5), None)) == 34
    with pytest.raises(MisfitError, match=r"dictionary.W: found \[98, 24\], expected at most 34 rows of width 24"):
        Whole.sized(small, decoder=False).load(large, "exact")


def test_the_buffer_takes_the_wider_of_two_types() -> None:
    one = made.dictionary(dtype=torch.float16)  # its decoder is float32
    assert Whole.sized(one, decoder=False).W.dtype == torch.float16
    whole = Whole.sized(one, decoder=True)
    whole.load(one, "exact")
    assert whole.W_dec.dtype == torch.float32
    assert whole.decodes


@pytest.mark.parametrize(
    ("tensor", "buffer", "good"),
    [
        (torch.float16, torch.float32, True),
        (torch.bfloat16, torch.float32, True),
        (torch.float16, torch.bfloat16, False),
        (torch.float32, torch.float16, False),
    ],
)
def test_nothing_is_rounded_on_its_way_into_a_buffer(tensor: torch.dtype, buffer: torch.dtype, good: bool) -> None:
    if good:
        check_room("W", torch.ones(2, 2, dtype=tensor), torch.ones(2, 2, dtype=buffer))
        return
    with pytest.raises(MisfitError, match="expected a type within"):
        check_room("W", torch.ones(2, 2, dtype=tensor), torch.ones(2, 2, dtype=buffer))


@pytest.mark.parametrize("system", ["has huge pages", "has none", "has never heard of them"])
def test_the_buffer_is_made_on_any_system(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if system == "has none":
        monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)  # advice that the kernel refuses
    elif system == "has never heard of them":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    for dtype in (torch.float32, torch.bfloat16):
        buffer = Whole(rows=5, d_in=3, dtype=dtype).W
        assert (buffer.shape, buffer.dtype, buffer.is_contiguous(), buffer.any().item()) == ((5, 3), dtype, True, False)
        buffer[4, 2] = 2.0
        assert buffer.sum() == 2.0
    assert Whole(rows=0, d_in=3).W.shape == (0, 3)
