"""Figures are those that a few lines over all rows give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saewatch.core.manifest import Exclusions
from saewatch.dictionary.coder import Coder
from saewatch.dictionary.figures import DENSE, Measurement
from tests import made

RULES = Exclusions(exclude_first=1, special=(9,), max_norm=16.0)


@pytest.fixture
def texts() -> list[tuple[list[int], torch.Tensor, int]]:
    found = []
    for seed in range(5):
        x = made.rows(30, seed=seed)
        x[7] *= 40
        found.append(([1] * 12 + [9] + [2] * 17, x, 20))
    return found


def test_figures_are_those_of_all_rows_together(texts: list[tuple[list[int], torch.Tensor, int]]) -> None:
    coder = Coder.of(made.dictionary("relu", seed=3))
    one = Measurement(coder, RULES)
    for ids, x, prompt_len in texts:
        one.add(ids, x, prompt_len)
    found = one.figures()
    position = np.tile(np.arange(30), 5)
    every = torch.cat([x for _, x, _ in texts])
    plain = (position > 0) & (position != 12)
    near = plain & (every.norm(dim=1) <= 16).numpy()
    values = coder.encode(every)[:, : made.LATENTS]
    decoded = coder.decode(values, every)
    assert decoded is not None
    for name, mask in {
        "kept": near,
        "outliers": plain,
        "prompt": near & (position < 20),
        "reply": near & (position >= 20),
    }.items():
        x, made_of = every[mask].double(), decoded[mask].double()
        expected = float((x - made_of).square().sum() / (x - x.mean(0)).square().sum())
        assert found.fvu[name] == pytest.approx(expected, rel=1e-4), name
    assert (found.tokens, found.excluded, found.outliers) == (near.sum(), 150 - near.sum(), plain.sum() - near.sum())
    fires = values[near] > 0
    counts = fires.sum(1).double()
    assert found.l0 == pytest.approx(float(counts.mean()))
    assert found.sd_l0 == pytest.approx(float(counts.std(correction=0)))
    assert found.sparsity == pytest.approx(float(fires.double().mean()))
    assert found.dead == float((~fires.any(0)).double().mean())
    assert found.dense == float((fires.double().mean(0) > DENSE).double().mean())
    cosine = torch.nn.functional.cosine_similarity(every[near], decoded[near])
    assert found.cosine == pytest.approx(float(cosine.double().mean()), rel=1e-4)
    assert sum(found.values.counts) == int(fires.sum())
    assert sum(found.norms.counts) == sum(found.l0s.counts) == near.sum()
    assert found.l0s.edges[0] <= float(counts.min()) < found.l0s.edges[-1]


def test_histograms_hold_each_value_between_its_edges() -> None:
    coder = Coder.of(made.dictionary("relu"))
    one = Measurement(coder, Exclusions())
    x = made.rows(1)
    one.add([1], x, 1)
    norms = one.figures().norms
    assert norms.counts == (1,)
    assert norms.edges[0] * 0.999 <= float(x.norm()) <= norms.edges[1] * 1.001


def test_without_tokens_or_a_decoder_nothing_is_made_up() -> None:
    found = Measurement(Coder.of(made.dictionary()), Exclusions()).figures()
    assert (found.l0, found.dead, found.fvu["kept"], found.cosine, found.mean_norm) == (None,) * 5
    dictionary = made.dictionary()
    blind = Coder(W=dictionary.W, folded=dictionary.limits, sheet=dictionary.manifest.encoder)
    one = Measurement(blind, Exclusions())
    one.add([1] * 40, made.rows(40), 40)
    assert one.figures().fvu["kept"] is None
    assert one.figures().l0 is not None
