"""What a certificate says, keeps and refuses to be read as."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from typing import Any

import pytest

from saewatch.core import canonical
from saewatch.core.attestation import Attestation
from saewatch.core.errors import ManifestError
from saewatch.dictionary.calibration import Data, Served, reads
from saewatch.dictionary.certificate import (
    GOOD,
    MEASURED,
    MEASURED_TEXTS,
    PASSED,
    QUARANTINED,
    REFUSED,
    UNMEASURED,
    Certificate,
    Latents,
    Survival,
    read_certificate,
)
from saewatch.dictionary.rules import RULES
from tests import fakes
from tests.dictionary.test_calibration import KNOWN, PROBE, digest

OPENING = replace(fakes.stream_open(KNOWN), model_digest=digest("model"), model_proof="weights")


def survival(feature: str = PROBE.id, **changes: Any) -> Survival:
    """A feature that survived."""
    found: dict[str, Any] = {"reference": 100, "served": 98, "both": 95, "corr": 0.99, "shift": -0.01, "scored": 400}
    found |= {"point95": 2.5, "point95_served": 2.4, "over_both": 18, "over_either": 22, "reads": reads(PROBE)}
    return Survival(feature=feature, **found | changes)


def a_certificate(*features: Survival, **changes: Any) -> Certificate:
    """Of `OPENING`, passed."""
    latents = Latents(count=96, live=80, quarantined=2, both=900, either=1000, points={"corr_median": "0.99"})
    known: dict[str, Any] = {
        "weights": OPENING.weights_digest,
        "scope": "dictionary",
        "reference": Served.of(OPENING, "transformers 5, float32"),
        "served": Served.of(OPENING),
        "versions": {"saewatch": "1", "torch": "2"},
        "kv_cache": "",
        "date": dt.date(2026, 3, 1),
        "texts": Data(digest=digest("texts"), requests=400, distinct=400),
        "tokens": 25_000,
        "excluded_apart": 3,
        "not_finite": 0,
        "fvu": 0.12,
        "fvu_served": 0.13,
        "latents": latents,
        "features": features or (survival(),),
        "rules": RULES,
    }
    return Certificate(**known | changes)


def test_it_comes_back_as_it_was_written() -> None:
    made = a_certificate(survival(), survival("threat.g1", shift=None, both=0, served=0, corr=0.0))
    assert read_certificate(made.attestation()) == made
    assert made.verdict == PASSED


@pytest.mark.parametrize(
    ("changes", "verdict", "figures"),
    [
        ({}, GOOD, []),
        ({"corr": 0.89}, QUARANTINED, ["corr"]),
        ({"both": 80}, QUARANTINED, ["jaccard"]),
        ({"served": 126, "both": 100}, QUARANTINED, ["rate_ratio"]),
        ({"served": 74, "both": 74}, QUARANTINED, ["rate_ratio"]),
        ({"over_both": 13}, QUARANTINED, ["agreement"]),
        ({"corr": 0.1, "both": 10, "over_both": 0}, QUARANTINED, ["corr", "jaccard", "agreement"]),
        (
            {"reference": MEASURED - 1, "both": 20, "served": 20, "corr": 0.1},
            UNMEASURED,
            ["corr", "jaccard", "rate_ratio"],
        ),
        ({"over_either": MEASURED_TEXTS - 1, "over_both": 2}, UNMEASURED, []),
        ({"over_either": MEASURED_TEXTS - 1, "over_both": 2, "corr": 0.1}, QUARANTINED, ["corr"]),
        ({"scored": 0, "over_either": 0, "over_both": 0}, UNMEASURED, []),
    ],
)
def test_what_becomes_of_a_feature(changes: dict[str, Any], verdict: str, figures: list[str]) -> None:
    one = survival(**changes)
    made = a_certificate(one)
    assert made.judged(one) == verdict
    assert [rule.figure for rule in made.broken(one)] == figures
    assert made.without_alert == (() if verdict == GOOD else (PROBE.id,))


def latents(quarantined: int, live: int = 80) -> Latents:
    return replace(a_certificate().latents, quarantined=quarantined, live=live)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"latents": latents(20)}, []),
        ({"latents": latents(21)}, ["quarantined"]),
        ({"latents": latents(0, live=0)}, ["measured"]),
        ({"fvu_served": 0.18}, []),
        ({"fvu_served": 0.181}, ["fvu_ratio"]),
        ({"fvu": None, "fvu_served": None}, []),
        ({"not_finite": 1}, ["not_finite"]),
    ],
)
def test_what_refuses_the_whole(changes: dict[str, Any], why: list[str]) -> None:
    made = a_certificate(**changes)
    assert [rule.figure for rule in made.why] == why
    assert made.verdict == (REFUSED if why else PASSED)
    assert made.without_alert == ((PROBE.id,) if why else ()), "no feature of a refused one backs an alert"


def test_where_latents_were_not_seen_features_are_counted() -> None:
    features = [survival("a.p1", corr=0.1), survival("b.p1"), survival("c.p1"), survival("d.p1", reference=0, both=0)]
    unseen = Latents(count=0, live=0, quarantined=0, both=0, either=0, points={})
    made = a_certificate(*features, latents=unseen, scope="watched", fvu=None, fvu_served=None)
    assert made.figures["quarantined"] == pytest.approx(1 / 3)
    assert [rule.figure for rule in made.why] == ["quarantined"]


def test_it_is_about_what_a_feature_reads() -> None:
    made = a_certificate()
    assert made.survival_of(replace(PROBE, label="another")) == made.features[0]
    assert made.survival_of(replace(PROBE, floor=PROBE.floor + 1.0)) is None


def stored(**changes: Any) -> Attestation:
    body = json.loads(canonical.dump(a_certificate().attestation().body))
    return Attestation(kind="certificate", weights=OPENING.weights_digest, body=body | changes)


def lying(**changes: Any) -> dict[str, Any]:
    body: Any = stored().body
    return {"features": [body["features"][0] | changes]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": "refused"}, "verdict: found refused, expected passed"),
        (lying(verdict="quarantined"), "verdict: found quarantined, expected good"),
        (lying(corr="0.5"), "verdict: found good, expected quarantined"),
        (lying(both=99), "both"),
        (lying(corr="NaN"), "corr"),
        (lying(over_both=23), "over_both"),
        ({"scope": "half"}, "scope"),
        ({"tokens": -1}, "tokens"),
        ({"date": "2026-02-30"}, "certificate: date"),
        ({"colour": "red"}, "an unknown member"),
        ({"features": [stored().body["features"][0]] * 2}, "twice"),  # type: ignore[index]  # of a list of objects
    ],
)
def test_one_that_lies_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        read_certificate(stored(**changes))
