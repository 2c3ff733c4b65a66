from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_align
from benchmarks.aligning import CELLS, Ground, losses, prepared, same_bits
from benchmarks.bench_align import facts_of, goals

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "align-fixture-cpu.json"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ground() -> Ground:
    return prepared(quick=True)


def test_a_permuted_copy_is_found_whole_and_loses_nothing(ground: Ground) -> None:
    found = bench_align.row("permuted", ground)
    assert (found["accepted_share"], found["misplaced"]) == (1.0, 0)
    assert found["live"] > 800
    assert found["features_accepted"] == found["features_same"] == 16
    assert found["lost_max"] == 0.0
    assert {one["method"] for one in found["features"]} == {"aligned", "same"}
    assert all(0 < one["old"] <= 1 and one["loss_low"] <= one["loss"] <= one["loss_high"] for one in found["features"])


def test_another_seed_gives_nothing_and_carried_rows_keep_their_bits(ground: Ground) -> None:
    found = bench_align.row("other_seed", ground)
    assert (found["accepted"], found["features_accepted"], found["lost_max"]) == (0, 0, 0.0)
    assert (found["features_carried"], found["carried_bit_equal"]) == (32, 1.0)
    assert found["nearest_lost_max"] > 0.1, "to take the nearest one costs much, so that the bounds matter"


def test_a_feature_in_the_wrong_place_is_seen_to_lose(ground: Ground) -> None:
    before = ground.before
    backwards = replace(before, scores=-before.scores)
    (figures,) = losses(ground, backwards, [("threat.g1", "threat.g1")])
    assert figures["loss"] == pytest.approx(2 * figures["old"] - 1, abs=1e-3)
    assert figures["loss_low"] > 0.1


def test_one_bit_is_seen(ground: Ground) -> None:
    before, moved = ground.before, [("threat.p1", "threat.p1"), ("threat.l1", "threat.l1")]
    firings, own = before.firings, np.flatnonzero(before.firings.feature == before.ids["threat.p1"])
    value = firings.value.copy()
    value[own[0]] = np.nextafter(value[own[0]], np.float32(np.inf))
    assert same_bits(before, replace(before, firings=replace(firings, value=value)), moved) == [False, True]
    assert same_bits(before, before, moved) == [True, True]


def row(case: str, **changes: Any) -> dict[str, Any]:
    plain = {"accepted_share": 1.0, "live": 9, "features_accepted": 3, "features_carried": 2, "features_lost": 1}
    plain |= {"lost_max": 0.0, "nearest_lost_max": 0.4, "n": 50_000, "labelled": 100, "features_of": 6}
    return {"case": case, **plain, "carried_bit_equal": 1.0, **changes}


def test_what_misses_a_goal_is_told() -> None:
    good = facts_of([row(name) for name in CELLS])
    assert (good["carried"], good["carried_bit_equal"]) == (8, 1.0)
    assert {one["met"] for one in goals(good).values()} == {"target"}
    assert {one["met"] for one in goals({}).values()} == {"not run"}
    worse = [
        row("permuted", accepted_share=0.99),
        row("continued", accepted_share=0.94, lost_max=0.021),
        row("other_seed", lost_max=0.06, carried_bit_equal=0.5),
    ]
    assert {one["met"] for one in goals(facts_of(worse)).values()} == {"no"}
    assert facts_of(worse)["carried_bit_equal"] == pytest.approx(5 / 6)


def test_an_unknown_cell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_align.main(["--cells", "permuted,other"]) == 1
    assert "no such cell: other" in capsys.readouterr().err


def test_the_committed_result_is_whole() -> None:
    found = json.loads(RESULT.read_text())
    assert (found["name"], found["dirty"], found["quick"]) == ("align", False, False)
    assert {one["case"] for one in found["rows"]} == set(CELLS)
    assert found["goals"].keys() == goals(found["facts"]).keys()
    assert found["facts"]["tokens"] >= 50_000
    assert {name: one["met"] for name, one in found["goals"].items()} == {
        name: one["met"] for name, one in goals(found["facts"]).items()
    }
