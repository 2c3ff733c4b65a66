from __future__ import annotations

import json

import pytest

from saewatch.cli.dictionary.survived import ENOUGH, told
from tests.dictionary.test_calibration import PROBE
from tests.dictionary.test_certificate import a_certificate, latents, survival

BROKEN = survival("threat.g1", corr=0.4, both=20, over_both=1)
RARE = survival("rare.p1", reference=3, served=3, both=3)


def test_the_worst_stands_first() -> None:
    text = told(a_certificate(survival(), RARE, BROKEN), {}, as_json=False)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["feature", "threat.g1", "rare.p1", PROBE.id]
    assert lines[1].endswith("quarantined: may not back an alert: corr, jaccard, agreement")
    assert "it fired on 3 tokens of the reference, 30 are needed" in lines[2]
    assert "0.92 [0.85, 0.97]" in lines[3]
    assert "18 of 22" in lines[3]
    assert "PASSED: vllm 0.0 beside transformers 5, float32, 400 texts, 25000 tokens" in text
    assert "features: 1 quarantined, 1 unmeasured, 1 good" in text
    assert "FVU 0.1200, served 0.1300" in text


def test_a_refusal_says_why() -> None:
    text = told(a_certificate(latents=latents(40)), {}, as_json=False)
    assert "REFUSED" in text
    assert "quarantined 0.5, at most 0.25 is asked for: too much of the dictionary broke" in text
    assert "No feature of it may back an alert." in text


def test_what_a_reader_has_to_know() -> None:
    made = a_certificate(tokens=ENOUGH - 1, scope="watched")
    text = told(made, {"it was not seen completely": 7}, as_json=False)
    assert "7 texts were left out: it was not seen completely." in text
    assert f"{ENOUGH} are recommended" in text
    assert "other latents and FVU were not compared" in text
    assert "3 tokens were excluded on one side only" in text
    assert "Limits are not part of this" in text


@pytest.mark.parametrize("quarantined", [0, 40])
def test_for_programs(quarantined: int) -> None:
    made = a_certificate(survival(), BROKEN, latents=latents(quarantined))
    found = json.loads(told(made, {}, as_json=True))
    assert found["digest"] == made.attestation().digest
    assert found["verdict"] == ("refused" if quarantined else "passed")
    assert found["without_alert"] == ([PROBE.id, "threat.g1"] if quarantined else ["threat.g1"])
    (broken, good) = found["features"]
    assert [one["figure"] for one in broken["why"]] == ["corr", "jaccard", "agreement"]
    assert good["jaccard"] == pytest.approx(95 / 103)
    assert good["agreement_interval"][0] < good["agreement"] < good["agreement_interval"][1]
    assert found["latents"]["live"] == 80
