"""The sparse encode of the whole dictionary beside the dense reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saewatch.core.manifest import InputNorm
from saewatch.engine import sparse
from saewatch.engine.dictionary_file import Dictionary
from saewatch.engine.encode import compare, encode, grey_pairs, normalise
from saewatch.engine.sparse import firings
from saewatch.engine.whole import Whole
from tests import made

pytestmark = pytest.mark.usefixtures("one_thread")


def whole_of(one: Dictionary, mode: str = "exact") -> Whole:
    whole = Whole.sized(one, decoder=False)
    whole.load(one, mode)
    return whole


def dense(one: Dictionary, x: Tensor) -> Tensor:
    found = firings(whole_of(one), *normalise(x, one.manifest.encoder.input_norm))
    assert (np.diff(found.row * one.manifest.encoder.rows + found.index) > 0).all(), "by row and index, each once"
    assert (found.value > 0).all()
    return torch.from_numpy(found.dense(len(x), one.manifest.encoder.rows))


LAYER, CONSTANT = InputNorm(kind="layer_norm", eps=1e-5), InputNorm(kind="constant_norm_rescale")
CASES: dict[str, dict[str, Any]] = {
    "relu": {"activation": "relu"},
    "jumprelu, layer norm": {"activation": "jumprelu", "norm": LAYER, "dtype": torch.bfloat16},
    "gated, constant norm": {"activation": "gated", "norm": CONSTANT, "dtype": torch.float16},
    "topk": {"activation": "topk", "k": 9},
    "topk of all": {"activation": "topk", "k": made.LATENTS, "norm": LAYER, "dtype": torch.bfloat16},
}


@pytest.mark.parametrize("block", [7, 40, 1024])
@pytest.mark.parametrize("rows", [1, 2, 60])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_reference_without_its_zeros(
    monkeypatch: pytest.MonkeyPatch, case: str, rows: int, block: int
) -> None:
    monkeypatch.setattr(sparse, "LATENTS", block)
    monkeypatch.setattr(sparse, "LATENTS_OF_ONE", block)
    monkeypatch.setattr(sparse, "VALUES", 20 * made.LATENTS)  # competing latents of 20 rows at a time
    one, x = made.dictionary(**CASES[case]), made.rows(rows)
    sheet = one.manifest.encoder
    expected = encode(x, one.W, one.limits, sheet)
    verdict = compare(dense(one, x), expected, grey_pairs(x, one.W, one.limits, sheet))
    assert verdict.good, verdict
    assert verdict.compared > 5 * rows


def test_one_row_is_the_reference_with_several_threads_too() -> None:
    one, x = made.dictionary("gated", norm=LAYER), made.rows(1)
    expected = encode(x, one.W, one.limits, one.manifest.encoder)
    torch.set_num_threads(2)
    found = dense(one, x)
    torch.set_num_threads(1)
    verdict = compare(found, expected, grey_pairs(x, one.W, one.limits, one.manifest.encoder))
    assert verdict.good, verdict
    assert verdict.compared > 5


@pytest.mark.parametrize("rows", [1, 3])
def test_ties_go_to_the_lowest_index(rows: int) -> None:
    one = made.dictionary("topk", k=9)
    one.W[: made.LATENTS] = 1.0
    one.W[3] = 2.0
    for column, value in ((one.limits.s, 1.0), (one.limits.c, 0.5), (one.limits.lim, -0.5)):
        column[: made.LATENTS] = value
    found = dense(one, torch.ones(rows, made.D_IN))[:, : made.LATENTS]
    assert [row.nonzero().flatten().tolist() for row in found] == [list(range(9))] * rows
    assert found[:, 3].tolist() == [2 * made.D_IN + 0.5] * rows


def test_winners_that_are_not_above_zero_do_not_fire() -> None:
    one = made.dictionary("topk", k=9, directions=0)
    one.W[:] = -1.0
    one.W[40] = 1.0
    one.limits.c[:] = 0.0
    found = firings(whole_of(one), torch.ones(2, made.D_IN), None)
    assert (found.row.tolist(), found.index.tolist()) == ([0, 1], [40, 40])


def test_directions_are_rows_like_any_other_and_compete_with_nobody() -> None:
    for one in (made.dictionary("jumprelu"), made.dictionary("topk", k=9)):
        found = firings(whole_of(one), made.rows(8), None)
        assert {made.LATENTS, made.LATENTS + 1} <= set(found.index.tolist())


def test_no_rows_fire_nothing() -> None:
    for one in (made.dictionary("relu"), made.dictionary("topk", k=9)):
        assert len(firings(whole_of(one), made.rows(0), None).row) == 0


def test_a_row_that_is_not_a_number_fires_nothing() -> None:
    x = made.rows(4)
    x[1] = x[3] = torch.nan
    for one in (made.dictionary("relu"), made.dictionary("topk", k=9)):
        assert set(firings(whole_of(one), x, None).row.tolist()) == {0, 2}


def test_excluded_rows_fire_nothing_and_the_others_what_they_did() -> None:
    one, x = made.dictionary(), made.rows(5)
    found, out = firings(whole_of(one), x, None), np.array([True, False, False, True, False])
    expected = found.dense(5, made.LATENTS + 2)
    assert expected[out].any()
    expected[out] = 0.0
    np.testing.assert_array_equal(found.without(out).dense(5, made.LATENTS + 2), expected)
