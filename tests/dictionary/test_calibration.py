from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from saewatch.core import canonical
from saewatch.core.attestation import Attestation, read_attestation
from saewatch.core.errors import ManifestError
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.calibration import (
    Calibration,
    Data,
    Experimental,
    HeldOut,
    Limit,
    Served,
    read_calibration,
    reads,
)
from saewatch.dictionary.promise import Promise
from tests import fakes

KNOWN = fakes.dictionary()
GROUP, LATENT, PROBE = KNOWN.catalogue.features


def digest(text: str) -> str:
    return canonical.digest(text.encode())


def a_limit(**changes: Any) -> Limit:
    plain: dict[str, Any] = {
        "feature": PROBE.id,
        "reads": reads(PROBE),
        "aggregation": "max",
        "scope": "all",
        "n": 1000,
        "unscored": 3,
        "j": 5,
        "limit": 4.25,
        "point95": 1.5,
        "over95": 50,
        "held_out": HeldOut(
            false_alarms=Share(4, 900), recall=Share(30, 40), lengths=((0, Share(1, 400)), (32, Share(3, 500)))
        ),
    }
    return Limit(**{**plain, **changes})


def a_calibration(**changes: Any) -> Calibration:
    plain: dict[str, Any] = {
        "weights": KNOWN.weights_digest,
        "promise": Promise(alpha=0.01, delta=0.05),
        "served": Served(
            model=digest("model"),
            proof="weights",
            quantisation="",
            mode="exact",
            excluded={"exclude_first": "1"},
            reader="vllm 0.32.0",
        ),
        "date": dt.date(2026, 3, 1),
        "scores": digest("scores"),
        "benign": Data(digest=digest("benign"), requests=1003, distinct=700),
        "held_out": Data(digest=digest("held out"), requests=940, distinct=940),
        "limits": (a_limit(),),
        "experimental": (
            Experimental(feature=LATENT.id, n=0, unscored=1003, why="no benign request has a score", supported=1.0),
        ),
    }
    return Calibration(**{**plain, **changes})


@pytest.mark.parametrize("made", [a_calibration(), a_calibration(held_out=None, limits=(a_limit(held_out=None),))])
def test_what_was_written_is_read_again(made: Calibration) -> None:
    data = made.attestation().data()
    assert read_calibration(read_attestation(data, subject="a", weights=made.weights)) == made


def test_a_new_label_keeps_the_limit_and_whatever_else_the_score_depends_on_does_not() -> None:
    made = a_calibration()
    assert made.limit_of(replace(PROBE, label="other words", severity="low", category="x.other")) == made.limits[0]
    for changes in ({"floor": 0.5}, {"aggregation": "top3"}, {"scope": "prompt"}, {"direction": 1}):
        assert made.limit_of(replace(PROBE, **changes)) is None
    assert reads(GROUP) != reads(replace(GROUP, head=(1.0, 2.0)))
    assert made.limit_of(LATENT) is None


WRONG: list[tuple[Mapping[str, Any], str]] = [
    ({"alpha": "1.0"}, "calibration: alpha"),
    ({"alpha": "0.010"}, "calibration: alpha"),
    ({"family": 0}, "calibration: family"),
    ({"date": "2026-02-30"}, "calibration: date"),
    ({"date": "today"}, "calibration: date"),
    ({"scores": "sha256:1"}, "calibration: scores"),
    ({"more": 1}, "calibration: more"),
    ({"served.mode": "fast"}, r"served\.mode"),
    ({"served.model": "smollm"}, r"served\.model"),
    ({"benign.distinct": 1004}, r"benign\.distinct"),
    ({"limits.0.j": 6}, r"limits\[0\]\.j: found 6, expected at most 5 of 1000"),
    ({"limits.0.j": 0}, r"limits\[0\]\.j"),
    ({"limits.0.n": 900}, r"limits\[0\]\.j"),
    ({"limits.0.aggregation": "5of3"}, r"limits\[0\]\.aggregation"),
    ({"limits.0.scope": "answer"}, r"limits\[0\]\.scope"),
    ({"limits.0.limit": "nan"}, r"limits\[0\]\.limit"),
    ({"limits.0.over95": 1001}, r"limits\[0\]\.over95"),
    ({"limits.0.held_out.recall.hits": 41}, r"recall\.hits"),
    ({"limits.0.id": "threat.l1"}, "threat.l1: found twice"),
    ({"experimental.0.supported": "1.5"}, "supported"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG)
def test_a_body_that_is_wrong_is_refused_by_member(changes: Mapping[str, Any], said: str) -> None:
    body: Any = canonical.parse(canonical.dump(a_calibration().attestation().body), subject="body")
    for path, value in changes.items():
        *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place = body
        for part in way:
            place = place[part]
        place[last] = value
    with pytest.raises(ManifestError, match=said):
        read_calibration(Attestation(kind="calibration", weights=KNOWN.weights_digest, body=body))


def test_a_stream_without_an_engine_says_what_read_it() -> None:
    opening = fakes.stream_open(KNOWN)
    assert Served.of(replace(opening, versions={"vllm": "0.32.0"})).reader == "vllm 0.32.0"
    assert Served.of(opening, "transformers 5.0, float32").reader == "transformers 5.0, float32"
