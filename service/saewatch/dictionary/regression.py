"""A dictionary beside the one in force, on the same requests: which features became worse, surely.

Both are drawn with the same templates, so that a difference is one of the same requests. A feature is called worse
where even the upper end of its difference is under the bound; over several features that may alert, by Holm's
correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saewatch.core.batch import F64
from saewatch.dictionary.area import Area, chance_above, holm, interval
from saewatch.dictionary.bounds import LESS
from saewatch.dictionary.discern import GOOD, Discerned


def together(scores: F64, others: F64) -> tuple[F64, F64]:
    """Scores ``[features, R]`` of both, with none where the other has none: then both are drawn alike."""
    neither = np.isnan(scores) | np.isnan(others)
    return np.where(neither, np.nan, scores), np.where(neither, np.nan, others)


def differences(now: Discerned, before: Discerned) -> tuple[Mapping[str, Area], Area | None, Mapping[str, F64]]:
    """By feature of one id, in the mean, and the resamples of each."""
    values = [{one.feature: one.auroc.value for one in both.told if one.auroc} for both in (now, before)]
    shared = sorted(now.samples.keys() & before.samples.keys())
    samples = {name: now.samples[name] - before.samples[name] for name in shared}
    plain = {name: values[0][name] - values[1][name] for name in shared}
    each = {name: interval(plain[name], samples[name]) for name in shared}
    if not shared:
        return each, None, samples
    return each, interval(float(np.mean(list(plain.values()))), np.mean(list(samples.values()), axis=0)), samples


def worse(samples: Mapping[str, F64], alerting: Sequence[str]) -> tuple[str, ...]:
    """Features among ``alerting`` that lost more than the bound."""
    chances = {name: chance_above(samples[name], LESS) for name in alerting if name in samples}
    return tuple(sorted(holm(chances)))


def gone(now: Discerned, before: Discerned, samples: Mapping[str, F64]) -> tuple[str, ...]:
    """Concepts that the one in force covers and this one does not, nor does it come as near."""
    lost = []
    for concept, best in before.covered.items():
        left = now.covered.get(concept)
        held = [one.feature for one in before.told if one.concept == concept and one.auroc]
        alike = any(name in samples and np.quantile(samples[name], 0.975) >= 0 for name in held)
        if best >= GOOD and (left is None or left < GOOD) and not (left is not None and alike):
            lost.append(concept)
    return tuple(sorted(lost))
