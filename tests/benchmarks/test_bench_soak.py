from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench_soak import compared, facts_of, goals, main
from benchmarks.soakload import Answer

SAMPLES = [[count, 500.0 + count / 1000] for count in range(50, 5001, 50)]
ENGINE = {"hits": 30, "queries": 100, "preemptions": 7, "aborted": 3, "steps": 900, "served_s": 1.8, "rss_mb": SAMPLES}


def test_facts_are_those_of_the_watched_engine_beside_the_others_hit_rate() -> None:
    facts = facts_of(ENGINE, {**ENGINE, "hits": 25, "preemptions": 9})
    assert facts["prefix_hit_rate_watched"] == 0.3
    assert facts["prefix_hit_rate_difference"] == pytest.approx(0.05)
    assert facts["preemptions"] == 7
    assert facts["step_ms"] == facts["step_ms_unwatched"] == pytest.approx(2.0)
    assert facts["rss_mb_per_1k_requests"] == pytest.approx(1.0)


def test_without_requests_after_the_warm_up_memory_is_not_judged() -> None:
    short = {**ENGINE, "rss_mb": SAMPLES[:20]}
    facts = facts_of(short, short)
    assert "rss_mb_per_1k_requests" not in facts
    assert goals(facts)["K3"]["met"] == "not run"


def test_an_answer_that_only_one_engine_gave_is_a_mismatch() -> None:
    one = {"0": Answer(3, [1, 2], left=False), "1": Answer(3, [1], left=True)}
    assert compared(one, dict(one)) == {"requests": 2, "output_mismatches": 0}
    assert compared(one, {"0": one["0"]})["output_mismatches"] == 1
    assert compared(one, {**one, "0": Answer(3, [1, 9], left=False)})["output_mismatches"] == 1
    assert compared(one, {**one, "1": Answer(3, [1], left=False)})["output_mismatches"] == 1


@pytest.mark.parametrize(
    ("fact", "value", "unmet"),
    [
        ("equality_violations", 1, "K1"),
        ("output_mismatches", 1, "K2"),
        ("rss_mb_per_1k_requests", 1.1, "K3"),
        ("prefix_hit_rate_difference", 0.01, "K4"),
        ("swaps_refused", 1, "K5"),
    ],
)
def test_goals_are_judged(fact: str, value: float, unmet: str) -> None:
    sound = {"equality_violations": 0, "output_mismatches": 0, "swaps_refused": 0, "rss_mb_per_1k_requests": 0.1}
    facts: dict[str, Any] = {**sound, "prefix_hit_rate_difference": 0.0}
    assert {one["met"] for one in goals(facts).values()} == {"target"}
    assert [name for name, one in goals({**facts, fact: value}).items() if one["met"] == "no"] == [unmet]


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.parametrize("scheduling", [[], ["--async"]], ids=["runner V1", "asynchronous on runner V2"])
def test_a_short_soak_on_the_real_engine(tmp_path: Path, scheduling: list[str]) -> None:
    out = tmp_path / "soak.json"
    assert main(["--quick", *scheduling, "--json", str(out)]) == 0
    facts = json.loads(out.read_text())["facts"]
    assert facts["requests"] == 300
    assert (facts["equality_violations"], facts["output_mismatches"], facts["prefix_hit_rate_difference"]) == (0, 0, 0)
    assert min(facts[name] for name in ("preemptions", "aborted", "recomputed", "beats", "reused")) > 0
    assert min(facts[name] for name in ("swaps", "watch_changes", "switches", "missed_blind")) > 0
    assert facts["swaps_refused"] == 0
