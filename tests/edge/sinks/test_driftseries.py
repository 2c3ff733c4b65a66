from __future__ import annotations

import math

from saewatch.edge.sinks.driftseries import drift_families
from saewatch.edge.sinks.metrics import MetricsSink
from saewatch.monitor.drift.attribution import CAUSES
from saewatch.monitor.events import DriftState

STATE = DriftState(
    scores={"a.l1": 2.0, "b.l1": math.nan, "c.l1": 17.5},
    alarms={"feature": 1, "overall": 0},
    counters={"judged": 9, "held_few_requests": 2, "alarms_again": 4, "panel_clean": 6},
    causes={"model": 2},
    overlaps={"sha256:0123": 0.993},
    latents={("sha256:0123", "dead"): 7},
)


def samples(state: DriftState | None, series: int = 10) -> dict[tuple[str, ...], float]:
    return {
        (one.name.removeprefix("saewatch_"), *one.labels.values()): one.value
        for family in drift_families(state, series)
        for one in family.samples
    }


def test_alarms_scores_and_blocks() -> None:
    found = samples(STATE)
    assert found["drift_alarms_total", "feature"] == 1
    assert found["drift_alarms_total", "overall"] == 0, "it has its series from the start"
    assert found["drift_score", "c.l1"] == 17.5
    assert found["drift_blocks_total", "held_few_requests"] == 2
    assert ("drift_blocks_total", "alarms_again") not in found
    assert found["drift_latents", "sha256:0123", "dead"] == 7


def test_a_feature_without_a_score_is_not_left_out_and_then_the_highest_come() -> None:
    found = [name[1] for name in samples(STATE, 2) if name[0] == "drift_score"]
    assert found == ["b.l1", "c.l1"]


def test_the_metrics_page_shows_the_last_state() -> None:
    sink = MetricsSink(faults=dict, queues=list)
    sink.take([STATE, DriftState(scores={}, alarms={"feature": 3}, counters={})])
    values = {(one.name, *one.labels.values()): one.value for family in sink.collect() for one in family.samples}
    assert values["saewatch_drift_alarms_total", "feature"] == 3


def test_without_a_baseline_there_are_no_series() -> None:
    assert samples(None) == {}


def test_causes_and_the_panel() -> None:
    found = samples(STATE)
    assert {name[1]: value for name, value in found.items() if name[0] == "drift_causes_total"} == {
        one: 2.0 * (one == "model") for one in CAUSES
    }
    assert found["drift_panel_rounds_total", "clean"] == 6
    assert found["drift_panel_overlap", "sha256:0123"] == 0.993
    assert not [name for name in found if name[0] == "drift_blocks_total" and "panel" in name[1]]
