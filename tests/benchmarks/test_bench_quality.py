from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_quality
from benchmarks.bench_quality import bad, facts_of, goals, judged, read, refused
from tests.dictionary import trapped

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "quality-cpu.json"

pytestmark = pytest.mark.usefixtures("one_thread")


def test_bad_candidates_are_refused_by_the_metric_that_they_break() -> None:
    seen = read("fixture", 6)
    made = {name: trapped.planted(seen.of, make()) for name, make in bad(seen.of, seen.sample.x).items()}
    failed = {name: refused(of, seen) for name, of in made.items()}
    for name in ("half of the decoder negated", "encoder rows permuted", "never trained"):
        assert "fvu" in failed[name], name
    assert "fvu.regression" in failed["30 % noise on the encoder"]
    assert "l0.regression" in failed["thresholds doubled"]
    assert failed["1 % noise on the encoder"] == []
    assert next(judged(seen))["ours"] == "passed"


def row(**changes: Any) -> dict[str, Any]:
    return {"dictionary": "made", "kind": "trap", "ours": "fvu", "right": True, **changes}


def test_a_wrong_name_and_a_bad_one_that_passes_are_counted() -> None:
    rows = [row(), row(right=False), row(kind="bad", ours="passed"), row(kind="good", ours="passed")]
    facts = facts_of(rows)
    assert (facts["traps"], facts["traps_named"], facts["bad"], facts["bad_refused"]) == (2, 1, 1, 0)
    judgement = goals(facts)
    assert (judgement["S4"]["met"], judgement["S13"]["met"]) == ("no", "no")


def test_the_committed_result_meets_its_goals() -> None:
    found = json.loads(RESULT.read_text())
    assert found["name"] == "quality"
    assert {one["met"] for one in found["goals"].values()} <= {"accept", "target"}
    assert found["goals"].keys() == bench_quality.goals(found["facts"]).keys()
