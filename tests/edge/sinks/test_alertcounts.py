"""Alerts as series: states, what is active, what was held back, and the cap."""

from __future__ import annotations

from typing import Any

from saewatch.edge.sinks.alertcounts import AlertCounts
from saewatch.monitor.alert import Acknowledged, AlertChanged
from tests.monitor.stage import SECOND
from tests.monitor.test_alerts import Watching, a_policy, begun
from tests.monitor.test_silences import given


def series(counts: AlertCounts) -> dict[str, float]:
    """Every sample, by name and the labels beside policy, rule and severity."""
    return {
        " ".join(
            [sample.name.removeprefix("saewatch_"), *(sample.labels[name] for name in sorted(sample.labels))]
        ): sample.value
        for family in counts.families()
        for sample in family.samples
    }


def counted(*rules: dict[str, Any], cap: int = 100) -> tuple[Watching, AlertCounts]:
    policy = a_policy(*rules)
    return begun(begun(Watching(policy), 7), 8), AlertCounts([policy], cap)


def take(counts: AlertCounts, stage: Watching) -> None:
    for alert in stage.told:
        counts.take(AlertChanged(alert))
    stage.told.clear()


def test_a_rule_has_its_series_before_its_first_alert() -> None:
    _, counts = counted()
    found = series(counts)
    assert found.pop("silences_active trust") == 0
    assert found == {"alerts_total trust threat high active": 0, "alerts_active trust threat high": 0}


def test_states_are_counted_and_what_is_active_goes_with_its_end() -> None:
    stage, counts = counted()
    stage.fire(7, 0)
    stage.fire(8, 0)
    take(counts, stage)
    assert series(counts)["alerts_active trust threat high"] == 2
    stage.end(7, fed=1)
    take(counts, stage)
    found = series(counts)
    assert found["alerts_total trust threat high active"] == 2
    assert found["alerts_total trust threat high resolved"] == 1
    assert found["alerts_active trust threat high"] == 1


def test_what_is_held_back_is_counted_by_why_and_never_active() -> None:
    stage, counts = counted({"shadow": True})
    stage.fire(7, 0)
    stage.end(7, fed=1)
    take(counts, stage)
    found = series(counts)
    assert found["alerts_held_back_total trust threat high shadow"] == 1
    assert found["alerts_active trust threat high"] == 0
    assert found["alerts_total trust threat high active"] == 0


def test_an_acknowledgement_is_no_change() -> None:
    stage, counts = counted()
    [alert] = stage.fire(7, 0)
    take(counts, stage)
    given = Acknowledged(verdict="true_positive", reason="seen", by="ada", time_ns=1)
    counts.take(stage.alerts.acknowledge(alert.id, given))
    assert series(counts)["alerts_total trust threat high active"] == 1


def test_a_cap_keeps_series_out_and_counts_them() -> None:
    rules = [{"id": f"r{number}"} for number in range(5)]
    _, counts = counted(*rules, cap=3)
    assert sum(one.dropped for one in counts.counters) == 2
    assert len([name for name in series(counts) if name.startswith("alerts_active")]) == 3


def test_silences_count_while_they_are_in_force() -> None:
    stage, counts = counted()
    silences = stage.alerts.silences
    for name in ("a", "b"):
        counts.take(silences.give(given(name, until=stage.now + SECOND), stage.now))
    counts.take(silences.give(given("c", until=stage.now + 2 * SECOND), stage.now))
    counts.take(silences.end("a", "ada", stage.now))
    assert series(counts)["silences_active trust"] == 2
    for change in silences.tick(stage.now + SECOND):
        counts.take(change)
    assert series(counts)["silences_active trust"] == 1
