"""From the figures of a comparison to a certificate: `fidelity` compares, `rules` judge, `certificate` says it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from saewatch.core import canonical
from saewatch.core.catalogue import Feature
from saewatch.dictionary.calibration import reads
from saewatch.dictionary.certificate import MEASURED, POINTS, SCOPES, Certificate, Latents, Survival
from saewatch.dictionary.fidelity import Compared, Over
from saewatch.dictionary.pairing import Figures
from saewatch.dictionary.rules import QUARANTINE, RULES


def certified(compared: Compared, features: Sequence[Feature], **known: Any) -> Certificate:
    """The certificate of a comparison; ``known`` are the members of `Certificate` that it does not tell."""
    figures = compared.figures
    survivals = [
        _survival(feature, figures, compared.units + number, compared.over[number])
        for number, feature in enumerate(features)
    ]
    return Certificate(
        scope=SCOPES[0] if compared.units else SCOPES[1],
        tokens=compared.tokens,
        excluded_apart=compared.excluded_apart,
        not_finite=compared.not_finite,
        fvu=compared.fvu,
        fvu_served=compared.fvu_served,
        latents=_latents(figures, compared.latents),
        features=tuple(survivals),
        rules=RULES,
        **known,
    )


def _survival(feature: Feature, figures: Figures, column: int, over: Over) -> Survival:
    shift = float(figures.shift[column])
    return Survival(
        feature=feature.id,
        reads=reads(feature),
        reference=int(figures.reference[column]),
        served=int(figures.served[column]),
        both=int(figures.both[column]),
        corr=float(figures.corr[column]),
        shift=None if math.isnan(shift) else shift,
        scored=over.scored,
        point95=over.point,
        point95_served=over.point_served,
        over_both=over.agreement.hits,
        over_either=over.agreement.n,
    )


def _latents(figures: Figures, count: int) -> Latents:
    live = figures.reference[:count] >= MEASURED
    columns = {name: getattr(figures, name)[:count][live] for name in ("corr", "jaccard", "rate_ratio", "shift")}
    outside = np.zeros(int(live.sum()), bool)
    for rule in (one for one in QUARANTINE if one.figure in columns):
        outside |= ~((columns[rule.figure] >= rule.least) & (columns[rule.figure] <= rule.most))
    both = int(figures.both[:count][live].sum())
    fired = int((figures.reference + figures.served)[:count][live].sum())
    columns["shift"] = np.abs(columns["shift"][~np.isnan(columns["shift"])])
    points = {
        name: canonical.decimal_text(float(np.percentile(columns[figure], percent)))
        for name, (figure, percent) in POINTS.items()
        if len(columns[figure])
    }
    return Latents(
        count=count, live=len(outside), quarantined=int(outside.sum()), both=both, either=fired - both, points=points
    )
