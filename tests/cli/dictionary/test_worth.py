from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from saewatch.cli.dictionary.worth import Asked, told, warnings
from saewatch.dictionary import calibrate
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.calibration import Calibration, HeldOut, read_calibration
from tests.dictionary.test_calibration import a_calibration, a_limit

ASKED = Asked(prevalence=0.01, requests=10_000)
MADE = a_calibration()


def with_false_alarms(*shares: Share) -> Calibration:
    tested = HeldOut(false_alarms=shares[0], recall=Share(0, 0), lengths=((0, shares[-1]),))
    return replace(MADE, limits=(a_limit(held_out=tested),))


def plain(made: Calibration, asked: Asked = ASKED) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told(made, asked, as_json=True))
    return found


def test_for_people() -> None:
    text = told(MADE, ASKED, as_json=False)
    head, calibrated, experimental = text.splitlines()[:3]
    assert head.split()[:2] == ["feature", "limit"]
    assert calibrated.startswith("threat.p1  4.25   5 of 1000  4.4 [1.2, 11.3] of 900  0.75 [0.59, 0.87]")
    assert "at alpha" in calibrated
    assert calibrated.endswith("calibrated")
    assert experimental.endswith("experimental: no benign request has a score; no alpha")
    assert "With 95 % confidence at most 10 of 1,000 requests like the benign ones are over a limit" in text
    assert "1003 benign requests of 700 templates, authors or texts" in text


def test_for_programs_every_figure_and_the_attestation_itself() -> None:
    found = plain(MADE)
    body = MADE.attestation().body
    assert found["attestation"] == json.loads(json.dumps(body))
    assert found["digest"] == MADE.attestation().digest
    one, other = found["features"]
    assert (one["feature"], one["verdict"], other["verdict"]) == ("threat.p1", "calibrated", "experimental")
    tested = MADE.limits[0].held_out
    assert tested is not None
    precision = calibrate.precision(tested, 0.01)
    assert one["held_out"]["precision"] == {"value": precision.value, "low": precision.low, "high": precision.high}
    assert one["held_out"]["alerts_per_day"]["value"] == calibrate.alerts(tested, 0.01, 10_000).value
    assert one["held_out"]["recall"]["hits"] == 30
    assert [bucket["tokens"] for bucket in one["held_out"]["lengths"]] == [0, 32]
    assert read_calibration(MADE.attestation()) == MADE


def test_a_limit_that_breaks_its_promise_on_other_requests_is_told() -> None:
    broken = with_false_alarms(Share(40, 900))
    assert plain(broken)["features"][0]["verdict"] == "over alpha"
    assert plain(with_false_alarms(Share(10, 900)))["features"][0]["verdict"] == "calibrated", "chance may do that"
    lengths = with_false_alarms(Share(10, 900), Share(40, 400))
    assert "threat.p1: of requests with 0 tokens or more 100.0" in "\n".join(warnings(lengths))


def test_what_is_not_known_is_not_a_number() -> None:
    silent = with_false_alarms(Share(0, 900))
    assert plain(silent)["features"][0]["held_out"]["recall"]["value"] is None
    assert " nan" not in told(silent, ASKED, as_json=False)
    untested = replace(MADE, held_out=None, limits=(a_limit(held_out=None),))
    assert plain(untested)["features"][0]["held_out"] is None
    assert "Precision" not in told(untested, Asked(prevalence=0.01, requests=None), as_json=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"served": replace(MADE.served, model="")}, "The model's digest is not known"),
        ({"limits": (a_limit(limit=0.0),)}, "A limit of 0 is passed by whatever fires at all: threat.p1"),
        ({}, "Read by vllm 0.32.0"),
    ],
)
def test_what_a_reader_has_to_know(changes: dict[str, Any], said: str) -> None:
    assert said in "\n".join(warnings(replace(MADE, **changes)))
