"""What a dictionary has to beat does what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saewatch.core import limits
from saewatch.dictionary.area import auroc
from saewatch.dictionary.baselines import BagOfWords, Pooled, frozen

pytestmark = pytest.mark.usefixtures("one_thread")


def test_words_that_tell_are_found_and_a_text_without_known_words_scores_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    positive, negative = ["kill the man now", "kill him now please"], ["bake the bread now", "bake him bread please"]
    made = BagOfWords(positive, negative)
    low, middle, high = made.score(["bake bread", "zebra", "kill"])
    assert low < middle < high
    assert "kill him" not in made.column, "one request alone has it"
    monkeypatch.setattr(limits, "QUALITY_WORDS", 2)
    assert set(BagOfWords(positive, negative).column) == {"now", "bake"}, "the most common, then by the alphabet"


def test_a_probe_on_means_tells_what_is_linear() -> None:
    chance = np.random.default_rng(0)
    sides = [chance.normal(size=(80, 6)) * np.array([1, 50, 1, 1, 1, 1]) for _ in range(2)]
    sides[0][:, 2] += 2
    made = Pooled(sides[0][:40], sides[1][:40])
    assert auroc(made.score(sides[0][40:]), made.score(sides[1][40:])) > 0.85


def test_random_rows_fire_as_often_as_they_are_told() -> None:
    x = torch.randn(4000, 12, generator=torch.Generator().manual_seed(0)) + 3
    rate = torch.tensor([0.01, 0.05, 0.2, 0.0])
    made = frozen(x, rate)
    torch.testing.assert_close(made.rows.norm(dim=1), torch.ones(4))
    found = (made.values(x) > 0).float().mean(0)
    torch.testing.assert_close(found[:3], rate[:3], atol=0.002, rtol=0)
    assert 0 <= float(found[3]) < 0.001
    assert torch.equal(frozen(x, rate).rows, made.rows)
    assert not torch.equal(frozen(x, rate, seed=1).rows, made.rows)
