from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_drift, drift_goals, drift_peers
from benchmarks.bench_drift import poisson
from benchmarks.drift_made import wanted
from benchmarks.drift_weeks import EFFECTS, QUICK, Weeks, chosen
from benchmarks.drift_world import Change, week, world

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "drift-cpu.json"
SMALL = replace(QUICK, name="small", features=200, blocks_a_day=8, null=(1202,))


def test_the_short_form_runs_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_drift, "QUICK", SMALL)
    words = ["--quick", "--cache", str(tmp_path / "weeks"), "--json", str(tmp_path / "r.json")]
    assert bench_drift.main([*words, "--cells", "silence,weeks,pairs,null,drift,short,dial,cold,peers"]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["facts"]["null_windows"] == 56
    assert result["facts"]["false_alarms"] == 0
    assert result["facts"]["budget"] == 2
    assert result["facts"]["silent"] == 0
    assert result["facts"]["pair_false_buckets"] == 0
    assert result["facts"]["pair_in_5_percent_found"] > 0
    rows = {row["cell"]: row for row in result["rows"]}
    assert rows["weeks"]["weeks"] == len(wanted(Weeks(SMALL, tmp_path), tmp_path)) == 9
    assert all(row["seconds"] > 0 for row in (rows["weeks"], rows["pairs"]))
    assert {one["method"] for one in result["rows"][-1]["table"]} >= {"ADWIN, delta 0.002", "ours, unit request"}
    monkeypatch.setattr(bench_drift, "CELLS", {**bench_drift.CELLS, "null": lambda _: pytest.fail("it was there")})
    assert bench_drift.main([*words, "--cells", "null", "--resume"]) == 0


def test_alarms_at_several_budgets_are_those_of_a_pass_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = bench_drift.Ground(Weeks(SMALL, tmp_path), tmp_path, quick=True)
    assert not shared.null.features
    own = bench_drift.Ground(shared.weeks, tmp_path, quick=True)
    own.fitted = shared.fitted
    monkeypatch.setattr(bench_drift, "BUDGET", 1e7)
    assert own.null.features, "alarms spend evidence"
    monkeypatch.setattr(bench_drift, "DIAL", (0.1, 1e5, 1e6))
    found = bench_drift.dial(own)
    assert found == bench_drift.dial(shared)
    assert 0 < found["alarms_30_days_at_100000"] < found["alarms_30_days_at_1e+06"]
    assert (own.null.highest != shared.null.highest).any()


def test_an_unknown_cell_is_refused(tmp_path: Path) -> None:
    assert bench_drift.main(["--cells", "nothing", "--cache", str(tmp_path)]) == 1


def test_a_week_of_a_seed_is_always_the_same_and_of_another_not() -> None:
    of = world(1, 60)
    first, again, other = (week(of, seed, days=1, blocks_a_day=4) for seed in (7, 7, 8))
    assert (first.n == again.n).all()
    assert (first.z == again.z).all()
    assert (first.n != other.n).any()


def test_rates_lengths_and_sessions_are_as_they_were_studied() -> None:
    of = world(1, 2000)
    made = week(of, 7, days=1, blocks_a_day=24)
    assert made.requests.mean() / made.sessions.mean() == pytest.approx(2.8, abs=0.5)
    assert made.encoded.sum() / made.requests.sum() == pytest.approx(250, rel=0.3)
    near = np.abs(np.log10(of.rate / 1e-3)) < 0.1
    assert (made.n[:, near].sum(axis=0) / made.requests.sum()).mean() == pytest.approx(0.07, abs=0.02)
    assert (made.w >= made.n).all()


def test_a_change_does_what_it_says() -> None:
    of = world(1, 300)
    rate = np.where(np.arange(300) % 2, 0.0, 3.0)
    plain = week(of, 7, days=1, blocks_a_day=12)
    moved = week(of, 7, days=1, blocks_a_day=12, change=Change(rate=rate, shape=np.maximum(rate, 1e-9)))
    assert moved.n[:, 1::2].sum() == 0
    assert moved.n[:, ::2].sum() / plain.n[:, ::2].sum() == pytest.approx(2.7, abs=0.5)


def test_effects_are_done_to_ordinary_features_of_their_rate_once(tmp_path: Path) -> None:
    weeks = Weeks(QUICK, tmp_path)
    picked = [int(one) for some in chosen(weeks.world, QUICK).values() for one in some]
    assert len(picked) == len(set(picked))
    assert not weeks.world.volatile[picked].any()
    assert len(EFFECTS) == 17


def test_adwin_cuts_where_a_rate_jumps() -> None:
    chance = np.random.default_rng(0)
    rates = np.clip(chance.normal(0.2, 0.02, (640, 2)), 0, 1)
    rates[320:, 1] += 0.2
    flags = drift_peers.adwin(rates)
    assert not flags[:, 0].any()
    assert 320 < int(flags[:, 1].argmax()) < 420


def test_the_interval_of_a_count_is_that_of_a_poisson_mean() -> None:
    assert poisson(0) == pytest.approx((0.0, 3.69), abs=0.05)
    assert poisson(5) == pytest.approx((1.62, 11.67), abs=0.1)


def test_a_goal_that_is_missed_is_said_to_be() -> None:
    row = {"cell": "null", "false_alarms": 3, "false_alarms_ordinary": 0, "suspects": 0, "overall_alarms": 0}
    goals = drift_goals.goals([row])
    assert (goals["D1"]["met"], goals["D1b"]["met"], goals["D12"]["met"]) == ("no", "target", "not run")


def test_the_whole_takes_what_every_cell_took_and_the_weeks_when_they_were_made() -> None:
    assert tuple(bench_drift.CELLS) == drift_goals.CELLS
    rows: dict[str, dict[str, float | None]] = {cell: {"seconds": 60.0} for cell in bench_drift.CELLS}
    judged = drift_goals.whole({**rows, "weeks": {"seconds": 600.0}})
    assert (judged["value"], judged["met"]) == (20.0, "accept")
    for cell, seconds in (("weeks", {"seconds": None}), ("peers", dict[str, float | None]())):
        assert drift_goals.whole({**rows, cell: seconds})["met"] == "not run"
    assert drift_goals.whole({})["met"] == "not run"


def test_the_committed_result_is_of_full_size_and_within_its_budget() -> None:
    result = json.loads(RESULT.read_text())
    assert not result["quick"]
    assert result["facts"]["null_windows"] >= 10_000
    assert result["facts"]["false_alarms"] <= result["facts"]["budget"] == 2
    assert result["correctness"]["mismatched"] == 0
