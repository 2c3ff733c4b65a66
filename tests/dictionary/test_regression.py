"""A dictionary beside the one in force."""

from __future__ import annotations

import numpy as np
import pytest

from saewatch.dictionary import regression
from tests.dictionary.test_discern import POSITIVE, R, good_scores, judged, requests

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_same_scores_differ_by_nothing_at_all() -> None:
    chance = np.random.default_rng(0)
    of, scores = requests(chance), good_scores(chance)
    each, mean, samples = regression.differences(judged(of, scores), judged(of, scores))
    assert mean is not None
    assert (mean.low, mean.value, mean.high) == (0, 0, 0)
    assert regression.worse(samples, list(each)) == ()


def test_what_became_worse_is_named_and_its_concept_lost() -> None:
    chance = np.random.default_rng(1)
    of = requests(chance)
    scores = chance.normal(size=R) + 4.0 * (np.arange(R) < POSITIVE)
    noisy = scores + 3 * chance.normal(size=R)
    now, before = judged(of, noisy), judged(of, scores)
    each, mean, samples = regression.differences(now, before)
    assert mean is not None
    assert mean.high < -0.02
    assert regression.worse(samples, ["threat.l1"]) == ("threat.l1",)
    assert regression.worse(samples, ["fraud.l1"]) == ()
    assert regression.gone(now, before, samples) == ("threat",)
    assert regression.gone(before, now, samples) == ()
    assert each["threat.l1"].value == pytest.approx(now.told[0].auroc.value - before.told[0].auroc.value)  # type: ignore[union-attr]  # both were measured


def test_a_request_that_one_of_them_has_no_score_for_counts_in_neither() -> None:
    one, other = regression.together(np.array([1.0, np.nan, 3.0]), np.array([1.0, 2.0, np.nan]))
    assert np.isnan(one).tolist() == np.isnan(other).tolist() == [False, True, True]
