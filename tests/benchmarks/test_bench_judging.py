from __future__ import annotations

import json
from pathlib import Path

from benchmarks import bench_judging
from benchmarks.bench_judging import Verb, facts_of, goals
from dictionaries.bundles import SHIPPED

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "judging-cpu.json"


def test_files_share_no_template_where_verbs_refuse_it(tmp_path: Path) -> None:
    counts = bench_judging.written(SHIPPED["fixture"], tmp_path, quick=True)
    read = {name: list(map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())) for name in counts}
    assert {name: len(lines) for name, lines in read.items()} == counts
    templates = {name: {line.get("template") for line in lines} for name, lines in read.items()}
    assert not templates["chosen"] & (templates["labelled"] | templates["tested"] | templates["benign"])
    assert not templates["tested"] & templates["benign"]
    assert not any(line["concept"] for line in read["benign"])
    assert all(line["concept"] for line in read["tested"])


def test_the_goal_is_about_the_demo_only() -> None:
    assert goals(300.0, quick=True)["S16"]["met"] == "not run"
    assert [goals(s, quick=False)["S16"]["met"] for s in (200.0, 500.0, 700.0)] == ["target", "accept", "no"]
    assert facts_of([Verb("evaluate", 1.25, 0, {})], {"texts": 3}) == {"evaluate_s": 1.2, "requests_texts": 3}


def test_what_is_committed_was_run_in_full() -> None:
    result = json.loads(RESULT.read_text())
    assert not result["quick"]
    assert [row["case"] for row in result["rows"]] == ["evaluate", "calibrate"]
    assert all(row["exit"] == 0 for row in result["rows"])
    assert result["goals"]["S16"]["met"] in {"accept", "target"}
