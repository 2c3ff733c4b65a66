"""What Prometheus scrapes of drift: alarms, scores, and blocks of time that were judged, or held and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from saewatch.core import limits
from saewatch.edge.sinks.series import PREFIX
from saewatch.monitor.events import DriftState

KINDS = ("feature", "overall", "pair")
ALARMS = "Alarms of drift; one that comes again within 7 days is not counted again."
SCORES = "How much speaks against a feature being as in its baseline; ln(F / alpha) is an alarm. The highest only."
BLOCKS = "Blocks of time by what became of them: judged, or held with the reason, which says nothing of drift."
HELD = "held_"
JUDGED = "judged"


def drift_families(state: DriftState | None, series: int = limits.SERIES_DEFAULT) -> Iterator[Metric]:
    """Without a baseline they have no series. ``series``: of scores at most, the highest first."""
    alarms = CounterMetricFamily(f"{PREFIX}drift_alarms", ALARMS, labels=("kind",))
    scores = GaugeMetricFamily(f"{PREFIX}drift_score", SCORES, labels=("feature",))
    blocks = CounterMetricFamily(f"{PREFIX}drift_blocks", BLOCKS, labels=("outcome",))
    if state is not None:
        for kind in KINDS:
            alarms.add_metric((kind,), state.alarms.get(kind, 0))
        for name, score in _highest(state.scores, series):
            scores.add_metric((name,), score)
        for outcome, count in sorted(state.counters.items()):
            if outcome == JUDGED or outcome.startswith(HELD):
                blocks.add_metric((outcome,), count)
    yield from (alarms, scores, blocks)


def _highest(scores: Mapping[str, float], series: int) -> list[tuple[str, float]]:
    """A score that is no number comes first: that feature is blind."""
    return sorted(scores.items(), key=lambda one: (not math.isnan(one[1]), -one[1]))[:series]
