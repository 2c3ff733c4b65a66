"""What Prometheus scrapes of drift: alarms, scores, and blocks of time that were judged, or held and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from saewatch.core import limits
from saewatch.edge.sinks.series import PREFIX
from saewatch.monitor.drift.attribution import CAUSES
from saewatch.monitor.drift.following import KINDS
from saewatch.monitor.events import DriftState

ALARMS = "Alarms of drift; one that comes again within 7 days is not counted again."
SCORES = "How much speaks against a feature being as in its baseline; ln(F / alpha) is an alarm. The highest only."
BLOCKS = "Blocks of time by what became of them: judged, or held with the reason, which says nothing of drift."
CAUSED = "Alarms of drift by what they are put down to: docs/drift.md."
ROUNDS = "Rounds of the panel's fixed prompts by how it stood, or that its inputs are other ones."
OVERLAPS = "How much alike the panel fires to when its baseline was made, at its last round; 1 is the same."
LATENTS = "Latents of the whole dictionary that have died, or become dense: docs/drift.md."
HELD = "held_"
JUDGED = "judged"
PANEL = "panel_"


def drift_families(state: DriftState | None, series: int = limits.SERIES_DEFAULT) -> Iterator[Metric]:
    """Without a baseline they have no series. ``series``: of scores at most, the highest first."""
    alarms = CounterMetricFamily(f"{PREFIX}drift_alarms", ALARMS, labels=("kind",))
    scores = GaugeMetricFamily(f"{PREFIX}drift_score", SCORES, labels=("feature",))
    blocks = CounterMetricFamily(f"{PREFIX}drift_blocks", BLOCKS, labels=("outcome",))
    caused = CounterMetricFamily(f"{PREFIX}drift_causes", CAUSED, labels=("cause",))
    rounds = CounterMetricFamily(f"{PREFIX}drift_panel_rounds", ROUNDS, labels=("outcome",))
    overlaps = GaugeMetricFamily(f"{PREFIX}drift_panel_overlap", OVERLAPS, labels=("weights",))
    latents = GaugeMetricFamily(f"{PREFIX}drift_latents", LATENTS, labels=("weights", "state"))
    if state is not None:
        for (weights, name), count in sorted(state.latents.items()):
            latents.add_metric((weights, name), count)
        for cause in CAUSES:
            caused.add_metric((cause,), state.causes.get(cause, 0))
        for weights, overlap in sorted(state.overlaps.items()):
            overlaps.add_metric((weights,), overlap)
        for kind in KINDS:
            alarms.add_metric((kind,), state.alarms.get(kind, 0))
        for name, score in _highest(state.scores, series):
            scores.add_metric((name,), score)
        for outcome, count in sorted(state.counters.items()):
            if outcome == JUDGED or outcome.startswith(HELD):
                blocks.add_metric((outcome,), count)
            elif outcome.startswith(PANEL):
                rounds.add_metric((outcome.removeprefix(PANEL),), count)
    yield from (alarms, scores, blocks, caused, rounds, overlaps, latents)


def _highest(scores: Mapping[str, float], series: int) -> list[tuple[str, float]]:
    """A score that is no number comes first: that feature is blind."""
    return sorted(scores.items(), key=lambda one: (not math.isnan(one[1]), -one[1]))[:series]
