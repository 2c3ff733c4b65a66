"""Areas, their intervals and differences."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from saewatch.dictionary import area
from saewatch.dictionary.area import Resamples, chance_above, drawn, holm, resampled


def test_auroc_is_that_of_scikit_learn_with_ties() -> None:
    chance = np.random.default_rng(0)
    positive, negative = (chance.integers(0, 9, n).astype(np.float64) for n in (40, 70))
    positive = np.asarray(positive + 2, np.float64)
    labels = np.concatenate([np.ones(40), np.zeros(70)])
    expected = roc_auc_score(labels, np.concatenate([positive, negative]))
    assert area.auroc(positive, negative) == pytest.approx(expected)


def test_a_resample_is_the_area_of_the_rows_as_often_as_they_were_drawn() -> None:
    """Oracle: the rows repeated."""
    chance = np.random.default_rng(1)
    positive, negative = chance.integers(0, 5, 12).astype(float), chance.integers(0, 5, 20).astype(float)
    draws = (drawn(chance, [f"{i // 3}" for i in range(12)], 30), drawn(chance, [f"{i}" for i in range(20)], 30))
    found = resampled(positive, negative, draws)
    for sample in range(30):
        sides = [np.repeat(rows, one[sample]) for rows, one in zip((positive, negative), draws, strict=True)]
        assert found[sample] == pytest.approx(area.auroc(*sides))


def test_requests_of_one_template_are_drawn_together() -> None:
    counts = drawn(np.random.default_rng(2), ["a", "b", "a", "c"], 200)
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, [0, 1, 3]].sum(1) == 3).all()


def test_few_templates_give_a_wider_interval_than_many() -> None:
    chance = np.random.default_rng(3)
    shared = np.repeat(chance.normal(size=10) + 1, 20)
    negative = chance.normal(size=200)
    widths = []
    for names in ([f"{i // 20}" for i in range(200)], [f"{i}" for i in range(200)]):
        found = area.area(shared, negative, (names, [f"n{i}" for i in range(200)]))
        widths.append(found.high - found.low)
    assert widths[0] > 2 * widths[1]


def test_the_same_set_is_drawn_alike_and_another_is_not() -> None:
    names = [f"{i}" for i in range(50)]
    one, other = Resamples(20), Resamples(20)
    assert (one.of("a", names) == other.of("a", names)).all()
    assert (one.of("a", names) != one.of("b", names)).any()


def test_holm_is_stricter_with_more_and_names_nothing_behind_a_failure() -> None:
    assert holm({"a": 0.02}) == ["a"]
    assert holm({"a": 0.02, "b": 0.9}) == []
    assert holm({"a": 0.001, "b": 0.02, "c": 0.9}) == ["a"]


def test_a_chance_is_a_share_of_resamples_and_behind_them_a_tail() -> None:
    samples = np.linspace(-1, 0, 1001)
    assert chance_above(samples, -0.1) == pytest.approx(0.1, abs=0.01)
    far = chance_above(np.random.default_rng(0).normal(-0.5, 0.02, 2000), -0.02)
    assert 0 <= far < 1e-20
    assert chance_above(np.full(50, -0.5), -0.02) == 0
