from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_calibration
from benchmarks.bench_calibration import Pool, drawn, facts_of, goals, made
from saewatch.dictionary.promise import Promise

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "calibration-cpu.json"


def test_made_scores_have_ties_and_rare_firings() -> None:
    pool = made(2000)
    assert pool.scores.shape == (len(pool.names), 2000)
    assert (pool.scores[pool.names.index("pareto, on 0.005")] == 0).mean() > 0.99
    assert len(np.unique(pool.scores[pool.names.index("normal, in steps")])) < 30


def test_a_promise_is_kept_and_the_conformal_rank_does_not_keep_it() -> None:
    rows = list(drawn(made(3000), 400))
    assert [row["n"] for row in rows] == [300], "other cells leave too little to measure on"
    assert rows[0]["over_share_mean"] < 0.06
    assert rows[0]["over_share_conformal"] > 0.3
    assert rows[0]["refused_below"]


def test_a_rank_that_is_too_large_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Promise.rank
    monkeypatch.setattr(Promise, "rank", lambda promise, n: right(promise, n) + 1)
    pool = Pool("one", np.random.default_rng(3).normal(size=(2, 4000)), ("a", "b"))
    facts = facts_of(list(drawn(pool, 1000)), 1000)
    assert facts["over_share_worst"] > bench_calibration.ACCEPT
    assert goals(facts)["S12"]["met"] == "no"


def row(**changes: Any) -> dict[str, Any]:
    plain = {"pool": "made", "scores": 20, "rest": 900, "n": 100, "over_share_worst": 0.05, "refused_below": True}
    return {**plain, "over_share_conformal": 0.4, **changes}


def test_facts_are_those_of_the_worst_score() -> None:
    rows = [row(), row(over_share_worst=0.065), row(pool="fixture", over_share_worst=0.055, scores=39)]
    facts = facts_of(rows, 1000)
    assert (facts["over_share_worst"], facts["fixture_over_share_worst"]) == (0.065, 0.055)
    assert (facts["calibrations"], facts["fixture_requests"]) == (79_000, 1000)
    assert [one["met"] for one in goals(facts).values()] == ["accept", "target"]
    assert goals(facts_of([row(over_share_worst=0.08)], 1000))["S12"]["met"] == "no"
    assert goals(facts_of([row(refused_below=False)], 1000))["S12b"]["met"] == "no"
    assert goals(facts_of([row()], 100))["S12"]["met"] == "not run", "too few draws say nothing"


def test_the_committed_result_keeps_the_goal() -> None:
    result = json.loads(RESULT.read_text())
    assert result["facts"]["draws"] >= 1000
    assert {one["met"] for one in result["goals"].values()} <= {"accept", "target"}
    assert min(result["facts"][f"{name}_requests"] for name in ("made", "fixture")) >= 4000
