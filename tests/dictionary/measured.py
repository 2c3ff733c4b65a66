"""Measurements of a good dictionary, for tests that make one of them bad."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from saewatch.dictionary.area import Area
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.bounds import Compared, Measured
from saewatch.dictionary.discern import Discerned, Told
from saewatch.dictionary.figures import Figures, Histogram

HISTOGRAM = Histogram((1.0, 2.0, 4.0), (3, 5))


def figures(**changes: Any) -> Figures:
    plain: dict[str, Any] = {"tokens": 200_000, "excluded": 10, "outliers": 2, "latents": 100, "l0": 30.0, "sd_l0": 9.0}
    plain |= {"dead": 0.01, "dense": 0.02, "cosine": 0.95, "mean_norm": 7.0}
    fvu = {"kept": 0.15, "outliers": 0.3, "prompt": 0.14, "reply": 0.18} | changes.pop("fvu", {})
    histograms: dict[str, Any] = dict.fromkeys(("values", "norms", "l0s"), HISTOGRAM)
    return Figures(**plain | changes, fvu=fvu, **histograms)


def told(name: str = "threat.l1", **changes: Any) -> Told:
    plain = Told(
        feature=name,
        concept=name.partition(".")[0],
        positives=100,
        negatives=300,
        templates=40,
        unscored=0,
        auroc=Area(0.95, 0.92, 0.97),
        baselines={"words": Area(0.8, 0.7, 0.9), "probe": None, "random": Area(0.7, 0.6, 0.8)},
        lift=Area(0.25, 0.1, 0.3),
        limit=1.5,
        recall=Share(80, 100),
        false_alarms=Share(3, 300),
        precision=Share(80, 83),
    )
    return replace(plain, **changes)


def discerned(*rows: Told) -> Discerned:
    rows = rows or (told(),)
    samples = {one.feature: np.linspace(0.92, 0.97, 50) for one in rows}
    lifts = {one.feature: np.linspace(one.lift.low, one.lift.high, 50) for one in rows if one.lift}
    return Discerned(told=rows, samples=samples, lifts=lifts)


def compared(**changes: Any) -> Compared:
    digests: dict[str, Any] = {
        name: f"sha256:{letter * 64}" for name, letter in (("bundle", "b"), ("weights", "c"), ("catalogue", "d"))
    }
    plain = Compared(name="old", **digests, figures=figures(), ce=0.98, discerned=discerned())
    same: dict[str, Any] = {"differences": {"threat.l1": Area(0.0, -0.01, 0.01)}, "mean": Area(0.0, -0.01, 0.01)}
    return replace(plain, **same | changes)


def good(**changes: Any) -> Measured:
    plain = Measured(
        figures=figures(),
        kind="sae",
        competes=False,
        stated={"fvu": 0.15, "l0": 30.0, "sd_l0": 9.0},
        ce=0.98,
        far=0.0,
        discerned=discerned(),
        against=compared(),
        alerting=("threat.l1",),
    )
    return replace(plain, **changes)
