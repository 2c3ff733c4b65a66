from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_monitor
from benchmarks.bench_monitor import CELLS, RULES, Cell, Engine, agrees, facts_of, goals, measured, policy
from saewatch.monitor.policy.rule import Group, Leaf, leaves

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def test_every_statistic_and_condition_is_measured() -> None:
    rules = policy().rules
    assert len(rules) == RULES
    kinds = {leaf.statistic.spelt for rule in rules for leaf in leaves(rule.when) if leaf.statistic}
    assert kinds == {*bench_monitor.STATISTICS}
    groups = [rule.when for rule in rules if isinstance(rule.when, Group)]
    assert {one.kind for one in groups} == {"all", "sequence", "any", "at_least"}
    assert any(isinstance(part, Group) and part.kind == "not" for one in groups for part in one.of)
    assert any(isinstance(rule.when, Leaf) for rule in rules)


def test_steps_are_as_a_cell_says() -> None:
    engine, cell = Engine(), Cell("", 16, 4)
    engine.begin(range(1, 4), prompt_len=1)
    event = engine.step(range(1, 4), 8, cell)
    assert (event.batch.rows, event.batch.firings) == (12, 12 * 16)
    assert event.batch.position.tolist() == [8, 8, 8]
    event.batch.check()
    assert np.bincount(event.batch.row).tolist() == [16] * 12


def test_another_cut_gives_the_same_alerts_and_there_are_some() -> None:
    compared, mismatched = agrees()
    assert compared > 100
    assert mismatched == 0


def test_a_cell_says_what_it_judged() -> None:
    row = measured(Cell("tried", 16, 1), 3)
    assert row["ours"] > 0
    assert 0.15 < row["touched_share"] < 0.3
    assert row["tokens_per_cpu_s"] == row["ours"] / 16


def test_facts_and_goals() -> None:
    rows = [
        {"case": cell.name, "ours": 6e6, "touched_share": 0.22, "changes": 3, "tokens_per_cpu_s": 1.0} for cell in CELLS
    ]
    facts = facts_of(rows)
    assert facts["firings_per_cpu_s"] == 6e6
    assert goals(facts)["rules"]["met"] == "accept"
    assert goals({**facts, "firings_per_cpu_s": 4e6})["rules"]["met"] == "no"
    assert goals(facts)["memory"]["met"] == "not run"
    whole = {**facts, "memory_requests": 10_000_000, "memory_growth_mib": 2.0}
    assert goals(whole)["memory"]["met"] == "no"
    assert goals({**whole, "memory_growth_mib": 0.2})["memory"]["met"] == "target"
    assert goals({**whole, "memory_requests": 9_000_000})["memory"]["met"] == "not run", "too few say nothing"


def test_short_requests_pass_through_all_that_is_kept() -> None:
    engine = Engine(scale=6.0)
    for first in range(1, 4 * 512, 512):
        bench_monitor.come_and_go(engine, range(first, first + 512))
    kept = engine.alerts.all()
    assert {one.state for one in kept} >= {"resolved"}
    assert all(one.evidence for one in kept)
    assert engine.alerts.unjudged == 0
    assert len(engine.monitor.records("q1025")) == 1, "the last ones are kept"


def test_memory_is_looked_at_after_the_first_ones() -> None:
    found = bench_monitor.memory(1024, 2048)
    assert [at for at, _ in found["marks"]] == [1024, 1536, 2048, 2560, 3072]
    assert found["n"] == 2048
    assert found["ours"] == max(mib for _, mib in found["marks"]) - found["mib"]
    assert bench_monitor.memory(1024, 2048, budget_s=0.0)["ours"] is None


def test_cells_are_kept_while_the_code_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--quick", "--cells", "decode_1", "--json", str(tmp_path / "r.json")]
    assert bench_monitor.main(words) == 0
    monkeypatch.setattr(bench_monitor, "measured", lambda *_: pytest.fail("it was there"))
    assert bench_monitor.main([*words, "--resume"]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert [row["cell"] for row in result["rows"]] == ["decode_1"]
    assert {one["cell"] for one in result["not_run"]} == {"decode_64", "decode_16", "prefill_64", "memory"}
    assert bench_monitor.main(["--cells", "nothing"]) == 1


def test_a_committed_result_is_of_full_size() -> None:
    for path in RESULTS.glob("monitor-*.json"):
        result = json.loads(path.read_text())
        assert not result["quick"]
        assert result["correctness"]["mismatched"] == 0 < result["correctness"]["compared"]
        assert result["facts"]["firings_per_cpu_s"] >= bench_monitor.ACCEPT
        assert result["facts"]["touched_share"] >= 0.2
        assert (result["facts"]["rules"], result["facts"]["features"]) == (200, 2000)
        assert result["goals"]["memory"]["met"] in {"target", "accept"}
