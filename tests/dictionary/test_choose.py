"""Latents are chosen that tell two groups of requests apart."""

from __future__ import annotations

import numpy as np
import pytest

from saewatch.dictionary.choose import choose

pytestmark = pytest.mark.usefixtures("one_thread")


def test_those_that_tell_are_chosen_and_no_more_than_asked_for() -> None:
    chance = np.random.default_rng(0)
    positive, negative = (np.abs(chance.normal(size=(count, 200))) for count in (60, 90))
    positive[:30, 7] += 4
    positive[30:, 11] += 4
    positive[:45, 3] += 4
    group = choose(positive, negative, 3)
    assert group.single == 3
    assert {3, 7, 11} == set(group.latents)
    assert (group.score(positive).mean(), group.single_score(positive).tolist()) > (
        group.score(negative).mean(),
        [],
    )
    assert len(choose(positive, negative).latents) <= 20
