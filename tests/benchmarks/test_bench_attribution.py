from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_attribution, drift_causes
from benchmarks.drift_causes import NOISE, QUICK, SCENARIOS, Panel
from benchmarks.drift_world import world
from saewatch.monitor.drift.panel import CHANGED, CLEAN, COLLAPSED, judged

SMALL = replace(QUICK, name="small-causes", features=150, blocks_a_day=8)
OF = world(3, 400)
PANEL = Panel(OF, prompts=32)


def test_the_short_form_runs_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_causes, "QUICK", SMALL)
    words = ["--quick", "--cache", str(tmp_path / "weeks"), "--json", str(tmp_path / "r.json")]
    assert bench_attribution.main([*words, "--cells", "panel,dictionary,topic-unread"]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["facts"]["dictionary_correct"] == 2
    assert result["facts"]["attribution_total"] == 4
    assert result["facts"]["panel_null_flagged"] == 0
    monkeypatch.setattr(bench_attribution, "CELLS", {"dictionary": lambda *_: pytest.fail("it was there")})
    assert bench_attribution.main([*words, "--resume"]) == 0


def test_an_unknown_cell_is_refused(tmp_path: Path) -> None:
    assert bench_attribution.main(["--cells", "everything", "--cache", str(tmp_path)]) == 1


def test_the_panel_of_a_world_reacts_to_a_change_of_rates_and_to_nothing_else() -> None:
    chance = np.random.default_rng(1)
    assert judged(PANEL.golden, PANEL.replay(chance)).state == CLEAN
    tuned, elsewhere = drift_causes.tuned(OF, chance), drift_causes.elsewhere(OF, chance)
    assert judged(PANEL.golden, PANEL.replay(chance, rates=tuned)).state == CHANGED
    assert judged(PANEL.golden, PANEL.replay(chance, rates=elsewhere)).state == COLLAPSED
    assert judged(PANEL.golden, PANEL.replay(chance, noise=6 * NOISE)).state == CHANGED


def rows(told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    engine = {"cell": "engine", "trials": told, "baseline_blocks": 1, "baseline_requests": 1, "baseline_s": 1.0}
    return [engine, {"cell": "nothing", "scenario": "nothing", "trials": 2, "right": 1, "wrong": 1}]


def test_a_wrong_cause_counts_whenever_it_was_told_and_cannot_tell_is_none() -> None:
    told = [
        {"told": "model", "right": "model", "all": ["cannot_tell", "model"]},
        {"told": "model", "right": "model", "all": ["model", "traffic"]},
        {"told": "cannot_tell", "right": "traffic", "all": ["cannot_tell"]},
        {"told": "none", "right": "none", "all": []},
        {"told": "cannot_tell", "right": "none", "all": ["cannot_tell"]},
    ]
    found = bench_attribution._facts(rows(told))  # noqa: SLF001 - what the result is made of
    assert (found["engine_correct"], found["engine_total"], found["engine_wrong"]) == (3, 5, 2)
    assert (found["attribution_correct"], found["attribution_total"]) == (4, 7)


def test_every_scenario_has_a_right_cause_that_is_not_among_the_short_ones() -> None:
    assert len(SCENARIOS) == 10
    assert all(one.right not in one.short for one in SCENARIOS.values())
