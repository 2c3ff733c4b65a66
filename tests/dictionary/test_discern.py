"""Features beside their baselines, on made requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saewatch.core.batch import F64
from saewatch.core.catalogue import Feature
from saewatch.dictionary.area import auroc
from saewatch.dictionary.discern import Discerned, Requests, Scope, discern

pytestmark = pytest.mark.usefixtures("one_thread")

POSITIVE, R = 60, 240
FEATURES = tuple(
    Feature(id=name, label="made", category="vcr", severity="low", floor=0.0, **what)
    for name, what in (("threat.l1", {"latents": (3,)}), ("threat.p1", {"direction": 0}))
)


def requests(chance: np.random.Generator, *, telling: str = "") -> Requests:
    """A quarter carries the concept; half of all is for fitting; ``telling``: which baseline can tell them."""
    carries = np.arange(R) < POSITIVE
    means, random = chance.normal(size=(R, 5)), np.abs(chance.normal(size=(R, 30)))
    if telling == "probe":
        means[carries] += 3
    if telling == "random":
        random[carries, 4] += 5
    words = ["kill him" if telling == "words" and one else "some words" for one in carries]
    texts = [f"{text} {chance.integers(5)}" for text in words]
    return Requests(
        concepts=[frozenset({"threat"}) if one else frozenset() for one in carries],
        clusters=[f"t{i // 2}" for i in range(R)],
        kinds=["" if i < POSITIVE else "hard" if i % 3 else "topic" for i in range(R)],
        rephrased=np.array([i in (1, 5, 9, 13) for i in range(R)]),
        fitting=np.array([(i // 2) % 2 == 0 for i in range(R)]),
        scopes={"all": Scope(texts=texts, means=means, random=random)},
    )


def judged(of: Requests, scores: F64, limit: float | None = None) -> Discerned:
    both = np.stack([scores, scores])
    lengths = np.full((2, R), 20.0)
    lengths[:, ::4] = 40
    return discern(FEATURES, both, lengths, of, {} if limit is None else {"threat.l1": limit})


def good_scores(chance: np.random.Generator) -> F64:
    return chance.normal(size=R) + 2.0 * (np.arange(R) < POSITIVE)


@pytest.mark.parametrize("wins", ["words", "probe", "random"])
def test_whoever_tells_best_wins(wins: str) -> None:
    chance = np.random.default_rng(0)
    found = judged(requests(chance, telling=wins), chance.normal(size=R))
    latent, direction = found.told
    assert latent.wins == wins
    assert latent.auroc is not None
    assert latent.auroc.low < 0.5 < latent.auroc.high
    best = latent.baselines[wins]
    assert best is not None
    assert best.low > 0.9
    assert direction.baselines["random"] is None, "a direction is no choice among latents"
    assert direction.lift is None


def test_a_good_feature_wins_and_is_judged_on_what_nothing_was_fitted_on() -> None:
    chance = np.random.default_rng(1)
    of, scores = requests(chance), good_scores(chance)
    latent = judged(of, scores, limit=1.5).told[0]
    rows = [i for i in range(R) if not of.fitting[i]]
    positive = [i for i in rows if i < POSITIVE and not of.rephrased[i]]
    negative = [i for i in rows if i >= POSITIVE]
    assert latent.auroc is not None
    assert latent.auroc.value == auroc(scores[positive], scores[negative])
    assert latent.auroc.low < latent.auroc.value < latent.auroc.high
    assert (latent.positives, latent.negatives, latent.wins) == (len(positive), len(negative), "feature")
    assert latent.lift is not None
    assert latent.lift.low > 0
    assert latent.recall is not None
    assert (latent.recall.hits, latent.recall.n) == (int((scores[positive] > 1.5).sum()), len(positive))
    assert latent.precision is not None
    assert latent.precision.n == int((scores[positive + negative] > 1.5).sum())


def test_slices_are_by_length_kind_and_wording() -> None:
    chance = np.random.default_rng(2)
    of, scores = requests(chance), good_scores(chance)
    of = replace(of, fitting=np.array([i % 16 == 2 for i in range(R)]))
    slices = {one.name: one for one in judged(of, scores, limit=1.5).told[0].slices}
    assert slices.keys() == {"0 to 31 tokens", "32 to 127 tokens", "paraphrases", "against hard", "against topic"}
    assert slices["paraphrases"].positives == 4
    assert slices["paraphrases"].recall is not None
    assert slices["paraphrases"].recall.hits == sum(scores[i] > 1.5 for i in (1, 5, 9, 13))
    hard = [i for i in range(POSITIVE, R) if i % 3 and not of.fitting[i]]
    assert slices["against hard"].negatives == len(hard)
    total = sum(slices[name].positives for name in ("0 to 31 tokens", "32 to 127 tokens"))
    assert total == slices["against topic"].positives


def test_without_requests_a_feature_is_not_measured() -> None:
    chance = np.random.default_rng(3)
    of = replace(requests(chance), concepts=[frozenset()] * R)
    found = judged(of, chance.normal(size=R))
    assert found.told[0].auroc is None
    assert (found.told[0].wins, found.covered, found.lift) == ("", {}, None)
    unscored = judged(requests(chance), np.full(R, np.nan)).told[0]
    assert (unscored.auroc, unscored.unscored) == (None, R // 2)
