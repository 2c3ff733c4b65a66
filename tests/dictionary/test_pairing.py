"""The running sums, against numpy and scipy over all tokens at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from saewatch.dictionary.pairing import Pairing, Unexplained
from saewatch.engine.encode import encode
from tests import made

TOKENS, COLUMNS = 700, 6


def values(seed: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    found = torch.randn(TOKENS, COLUMNS, generator=chance).relu()
    found[:, 0] = 0.0
    return found


def paired(reference: torch.Tensor, served: torch.Tensor, part: int = 64) -> Pairing:
    found = Pairing(reference.shape[1])
    for one, other in zip(reference.split(part), served.split(part), strict=True):
        found.add(one, other)
    return found


def test_figures_are_those_of_all_tokens_at_once() -> None:
    reference = values(1)
    served = (reference * 1.1 - 0.1 * values(2)).relu()
    found = paired(reference, served).figures()
    a, b = reference.double().numpy(), served.double().numpy()
    fires, fires_served = a > 0, b > 0
    assert found.tokens == TOKENS
    assert found.reference.tolist() == fires.sum(0).tolist()
    assert found.both.tolist() == (fires & fires_served).sum(0).tolist()
    for column in range(1, COLUMNS):
        assert found.corr[column] == pytest.approx(pearsonr(a[:, column], b[:, column]).statistic, abs=1e-12)
        either = (fires | fires_served)[:, column].sum()
        assert found.jaccard[column] == pytest.approx((fires & fires_served)[:, column].sum() / either)
        assert found.rate_ratio[column] == pytest.approx(fires_served[:, column].sum() / fires[:, column].sum())
    assert (found.corr[0], found.shift[0]) == (0.0, pytest.approx(np.nan, nan_ok=True)), "it never fired"
    assert np.isnan(found.jaccard[0])


@pytest.mark.parametrize("shift", [-0.9, -0.2, -0.003, 0.0, 0.00001, 0.0007, 0.05, 0.4, 7.0])
def test_the_median_shift_is_good_to_a_sixth(shift: float) -> None:
    chance = torch.Generator().manual_seed(3)
    reference = torch.rand(501, 1, generator=chance).double() + 0.5
    spread = 1.0 + (torch.rand(501, 1, generator=chance) - 0.5).double() * 0.02
    served = reference * (1.0 + shift * spread)
    (found,) = paired(reference, served).figures().shift
    assert found == pytest.approx(shift, rel=0.17, abs=1e-4)


def test_a_column_that_is_lost_correlates_with_nothing() -> None:
    reference = values(1)
    found = paired(reference, torch.zeros_like(reference)).figures()
    assert found.corr[1:].tolist() == [0.0] * (COLUMNS - 1)
    assert found.rate_ratio[1:].tolist() == [0.0] * (COLUMNS - 1)
    assert np.isnan(found.shift).all()


@pytest.mark.parametrize("part", [1, 97, 400])
def test_fvu_is_over_the_whole_sample(part: int) -> None:
    held = made.dictionary()
    sheet = held.manifest.encoder
    x = made.rows(400) + 3.0
    acts = encode(x, held.W, held.folded("exact"), sheet)[:, : sheet.latents]
    found = Unexplained(held)
    for rows, own in zip(x.split(part), acts.split(part), strict=True):
        found.add(rows, own)
    assert held.W_dec is not None
    assert held.b_dec is not None
    error = (x - (acts @ held.W_dec + held.b_dec)).double().square().sum()
    assert found.value == pytest.approx(float(error / (x - x.mean(0)).double().square().sum()), rel=1e-5)


def test_no_fvu_without_rows_or_a_decoder() -> None:
    assert Unexplained(made.dictionary()).value is None
    without = made.dictionary()
    object.__setattr__(without, "W_dec", None)
    found = Unexplained(without)
    found.add(made.rows(4), torch.zeros(4, made.LATENTS))
    assert found.value is None
