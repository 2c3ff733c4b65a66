"""The census and the competing encoder through the kernels give what the blocks give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from saewatch.core import footprint
from saewatch.core.catalogue import WatchList
from saewatch.core.manifest import InputNorm
from saewatch.engine.batching import Encoded
from saewatch.engine.census import Census, CensusCounts
from saewatch.engine.dictionary_file import Dictionary
from saewatch.engine.encode import normalise
from saewatch.engine.encoder import Encoder
from saewatch.engine.sketch import DEVIATION
from saewatch.engine.slab import Slab
from saewatch.engine.whole import Given, Whole
from tests import made

CASES = [
    ("jumprelu", None, InputNorm()),
    ("topk", 9, InputNorm()),
    ("relu", None, InputNorm(kind="layer_norm", eps=1e-5)),
]


def whole_of(one: Dictionary, *, fused: bool, sketched: bool = False) -> Whole:
    sheet = one.manifest.encoder
    whole = Whole(
        rows=sheet.rows, d_in=sheet.d_in, dtype=one.W.dtype, d_out=sheet.d_out, sketched=sketched, fused=fused
    )
    whole.load(one, "exact")
    return whole


def counted(one: Dictionary, x: Tensor, *, fused: bool, sketched: bool = False) -> CensusCounts:
    whole = whole_of(one, fused=fused, sketched=sketched)
    census = Census(whole, d_in=x.shape[1], norm=one.manifest.encoder.input_norm)
    excluded = torch.zeros(len(x), dtype=torch.bool)
    excluded[3] = True
    census.add(x, excluded)
    return census.take()


@pytest.mark.parametrize(("activation", "k", "norm"), CASES)
def test_a_screen_in_int8_lists_the_same_bits(activation: str, k: int | None, norm: InputNorm) -> None:
    one, x = made.dictionary(activation, k=k, norm=norm), made.rows(9)
    one = replace(one, b_dec=torch.where(torch.arange(made.D_IN) == 5, 100.0, 1.0))
    x[:, 5] += 100.0
    sheet, codes = one.manifest.encoder, []
    for int8 in (False, True):
        whole = Whole(rows=sheet.rows, d_in=sheet.d_in, dtype=one.W.dtype, int8=int8, fused=True)
        whole.load(one, "exact")
        whole.load(one, "exact")  # a dictionary that takes its place
        code = whole.code(*normalise(x, norm), Given(kept=torch.arange(9) != 3))
        assert code is not None
        codes.append(code)
    stored, small = codes
    assert torch.equal(small.count, stored.count)
    assert int(stored.count.sum()) > 9
    for row, count in enumerate(stored.count.tolist()):
        assert torch.equal(small.index[row, :count], stored.index[row, :count])
        assert torch.equal(small.value[row, :count], stored.value[row, :count])


@pytest.mark.parametrize(("activation", "k", "norm"), CASES)
def test_lists_count_what_blocks_count(activation: str, k: int | None, norm: InputNorm) -> None:
    one, x = made.dictionary(activation, k=k, norm=norm), made.rows(9).bfloat16()
    x[3] = torch.nan
    found, expected = (counted(one, x, fused=fused) for fused in (True, False))
    assert found.tokens == expected.tokens == 8
    assert np.array_equal(found.count, expected.count)
    assert np.allclose(found.total, expected.total, rtol=1e-5)
    assert (found.l0_mean, found.l0_sd) == (expected.l0_mean, expected.l0_sd)
    assert found.squared_error == pytest.approx(expected.squared_error, rel=1e-5)
    assert found.squared_total == expected.squared_total


def test_a_sketch_stands_in_for_the_decoder() -> None:
    one, x = made.dictionary(d_in=128), made.rows(16, d_in=128)
    found, expected = (counted(one, x, fused=fused, sketched=fused) for fused in (True, False))
    assert found.squared_error != expected.squared_error
    assert found.squared_error == pytest.approx(expected.squared_error, rel=3 * DEVIATION)
    assert np.array_equal(found.count, expected.count)


def test_the_log_says_that_it_is_an_estimate(caplog: pytest.LogCaptureFixture) -> None:
    one = made.dictionary(d_in=128)
    with caplog.at_level("INFO"):
        for sketched in (False, True):
            Census(whole_of(one, fused=True, sketched=sketched), d_in=128, norm=InputNorm())
    assert [record.getMessage() for record in caplog.records] == [
        "saewatch: unexplained variance is estimated from a sketch of the decoder; relative standard deviation 8.8 %"
    ]


def test_a_token_with_more_firings_than_a_list_holds_is_left_out_and_counted() -> None:
    one, x = made.dictionary("relu", latents=footprint.KEPT + 6), made.rows(4)  # the last is excluded
    one.W[:] = x[0]  # along one row: all fire on it, and it has the others turned away
    x[1:] = -x[0]
    found = counted(one, x, fused=True)
    assert (found.tokens, found.overflowed, found.l0_mean) == (2, 1, 0.0)
    assert not found.count[: footprint.KEPT + 6].any()


def test_a_census_has_the_same_bytes_on_every_run() -> None:
    one, x = made.dictionary("relu"), made.rows(5)
    first = counted(one, x, fused=True)
    assert counted(one, x, fused=True).total.tobytes() == first.total.tobytes()


def encoded(one: Dictionary, x: Tensor, *, fused: bool) -> Encoded:
    encoder = Encoder(rows_max=len(x), d_in=made.D_IN, slots_max=20, whole=whole_of(one, fused=fused), fixed=True)
    rows = (0, 3, 7, 20, 40, 90, 96)  # the last is a direction
    encoder.load(one, WatchList(rows=rows, floors=(0.0,) * len(rows)))
    ids = torch.arange(len(x))
    return encoder.encode(x, positions=ids, token_ids=ids, slab=_slab(len(x))).encoded()


def _slab(rows: int) -> Slab:
    return Slab(rows_max=rows, firings_max=20 * rows)


def test_winners_that_are_watched_are_sent() -> None:
    one, x = made.dictionary("topk", k=9), made.rows(12).bfloat16()
    found, expected = (encoded(one, x, fused=fused) for fused in (True, False))
    assert len(found.row) > 5
    assert np.array_equal(found.row, expected.row)
    assert np.array_equal(found.slot, expected.slot)
    assert np.allclose(found.value, expected.value, rtol=1e-5)


def test_a_row_whose_winners_nobody_knows_is_left_out_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    one, x = made.dictionary("topk", k=9), made.rows(4)
    whole = whole_of(one, fused=True)
    count = one.manifest.encoder.rows
    encoder = Encoder(rows_max=4, d_in=made.D_IN, slots_max=count, whole=whole, fixed=True)
    encoder.load(one, WatchList(rows=tuple(range(count)), floors=(0.0,) * count))
    known = whole.top

    def top(*given: object) -> object:
        found = known(*given)  # type: ignore[arg-type]  # handed on as they came
        assert found.lost is not None
        found.lost[2] = True
        return found

    monkeypatch.setattr(whole, "top", top)
    ids = torch.arange(4)
    found = encoder.encode(x, positions=ids, token_ids=ids, slab=_slab(4)).encoded()
    assert found.overflowed.tolist() == [False, False, True, False]
    assert set(found.row.tolist()) == {0, 1, 3}, "nor do its directions fire"


class _Largest(TorchDispatchMode):
    """The most elements of any tensor that an operator makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 - torch's own signature
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, Tensor) and one.dtype != torch.uint8:  # the interpreter copies storages as bytes
                self.elements = max(self.elements, one.numel())
        return found


@pytest.mark.parametrize(("activation", "k", "rows"), [("jumprelu", None, 20), ("topk", 4, 20), ("topk", 4, 140)])
def test_no_tensor_of_rows_by_latents_exists(activation: str, k: int | None, rows: int) -> None:
    one = made.dictionary(activation, k=k, latents=3000, d_in=16, directions=1)
    one.limits.lim[:] += 3.0  # some fire
    whole, x = whole_of(one, fused=True), made.rows(rows, d_in=16)
    with _Largest() as largest:
        whole.code(x, None, Given(kept=torch.ones(rows, dtype=torch.bool)))
    assert 0 < largest.elements < rows * 3000
    assert largest.elements <= max(rows * footprint.KEPT, rows * 2048, 3000 * 16)


def test_a_dictionary_that_no_list_has_room_for_goes_by_blocks() -> None:
    one = made.dictionary("topk", k=300, latents=400)
    whole = whole_of(one, fused=True)
    assert whole.code(made.rows(2), None, Given(kept=torch.ones(2, dtype=torch.bool))) is None
    assert whole.top(made.rows(2), None, Given(kept=torch.ones(2, dtype=torch.bool))).lost is None
