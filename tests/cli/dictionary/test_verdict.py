"""What a terminal is told."""

from __future__ import annotations

import json

from saewatch.cli.dictionary.verdict import document, told
from saewatch.dictionary.traps import Diagnosis
from tests.dictionary.evaluated import evaluated
from tests.dictionary.measured import figures, good


def test_the_first_line_is_the_verdict_and_the_second_what_went_wrong() -> None:
    looks = Diagnosis(trap="pre_bias_lost", says="a lost pre-bias", evidence="undone, FVU is 0.1")
    lines = told(evaluated(good(figures=figures(dense=0.3)), looks_like=looks)).splitlines()
    assert lines[0] == "gate FAILED: dense, dense.regression, compared with sha256:bbbbbbbbbbbb"
    assert lines[1] == "looks like a lost pre-bias: undone, FVU is 0.1"
    assert told(evaluated(good(against=None))).startswith("gate PASSED, compared with no other\n")


def test_a_feature_has_a_line_with_its_n_its_interval_and_who_wins() -> None:
    (line,) = [one for one in told(evaluated(good())).splitlines() if one.startswith("threat.l1")]
    cells = ["threat.l1", "100+300", "0.95", "[0.92,", "0.97]", "0.80", "-", "0.70"]
    assert line.split() == [*cells, "0.80", "[0.71,", "0.87]", "the", "feature"]


def test_the_document_is_json_and_names_the_attestation() -> None:
    made = evaluated(good())
    found = json.loads(json.dumps(document(made)))
    assert found["digest"] == made.attestation().digest
    assert found["gate"]["verdict"] == "passed"
    assert found["features"][0]["auroc"] == {"value": 0.95, "low": 0.92, "high": 0.97}


def test_what_would_command_a_terminal_is_not_printed() -> None:
    assert "\x1b" not in told(evaluated(good(), notes=("\x1b[2Jhello",)))
