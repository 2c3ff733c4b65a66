"""How often is drift called where there is none, and how soon where there is? On simulated weeks of traffic.

A baseline of four weeks; ten weeks in which nothing changes, looked at after every block; a fortnight in which features
of 17 kinds change, each by a known effect; three days of a topic's surge, and three in which everything moves a little.
Beside it what other tools do, on the same weeks; and what holds exactly, and what it costs.

Weeks of full size are half a minute's work each, are made as many at once as there are processors, and are kept in
--cache, with what they took. With --resume, rows of the same code are kept.

    python -m benchmarks.bench_drift [--quick] [--json OUT] [--cells null,drift] [--resume] [--check] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import drift_cells, drift_costs, drift_goals, drift_made, drift_pairs, drift_peers, form
from benchmarks.drift_trial import Seen, detector, fitted, watched
from benchmarks.drift_weeks import EFFECTS, FULL, QUICK, Effect, Weeks, chosen
from saewatch.monitor.drift.detector import BLOCKS_A_MONTH, BUDGET
from saewatch.monitor.drift.fit import Fitted

DIAL = (0.1, 0.33, 1.0, 3.0)
COLD = (1, 2)
"""Weeks of the short baselines."""
PEER_WEEKS = 4
DAYS_TO_FIND = 3
PEER_EFFECTS = tuple(one for one in EFFECTS if one.name in {"prevalence x2 @1e-3", "prevalence x5 @1e-4"})


class Ground:
    """Weeks, and the baseline of the first of them."""

    def __init__(self, weeks: Weeks, cache: Path, *, quick: bool) -> None:
        self.weeks, self.cache, self.quick = weeks, cache, quick

    @cached_property
    def fitted(self) -> Fitted:
        """The baseline."""
        return fitted(self.weeks, self.weeks.size.baseline)

    @cached_property
    def null(self) -> Seen:
        """What is said of the null weeks."""
        return watched(self.weeks, self.weeks.size.null, detector(self.fitted, BUDGET))

    @cached_property
    def drift(self) -> Seen:
        """What is said of the fortnight."""
        return watched(self.weeks, self.weeks.size.drift, detector(self.fitted, BUDGET))


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and judges, as `drift_cells.run` says."""
    return drift_cells.run(argv, "drift", says=__doc__, cells=CELLS, prepare=_prepared, document=_document)


def _prepared(options: argparse.Namespace) -> drift_cells.Measure:
    ground = Ground(Weeks(QUICK if options.quick else FULL, options.cache), options.cache, quick=options.quick)
    return lambda name: _measured(ground, name)


def _measured(ground: Ground, name: str) -> dict[str, Any]:
    """A cell's row and seconds; weeks that had to be made for it are booked apart."""
    if name not in WITHOUT_WEEKS:
        drift_made.simulated(ground.weeks, ground.cache)
    began = time.monotonic()
    row = CELLS[name](ground)
    return {**row, "seconds": row.get("seconds", round(time.monotonic() - began, 1))}


# --- cells ------------------------------------------------------------------------------------------------------------
def weeks(ground: Ground) -> dict[str, Any]:
    """How many weeks there are, and the seconds that they took when they were made, which may have been before."""
    took = drift_made.took(ground.weeks, ground.cache)
    count = len(drift_made.wanted(ground.weeks, ground.cache))
    return {"weeks": count, "seconds": None if took is None else round(took, 1)}


def null(ground: Ground) -> dict[str, Any]:
    """Alarms where nothing has changed: of a feature once in a week, whatever it says again."""
    seen, volatile = ground.null, ground.weeks.world.volatile
    false = sorted({(seed, feature) for seed, _, feature, _, _ in seen.features})
    weeks = len(ground.weeks.size.null)
    return {
        "null_windows": seen.blocks,
        "false_alarms": len(false),
        "false_alarms_ordinary": sum(not volatile[feature] for _, feature in false),
        "false_alarms_interval": poisson(len(false)),
        "false_alarms_30_days": len(false) / weeks * 30 / 7,
        "suspects": len({(seed, feature) for seed, _, feature in seen.suspects}),
        "overall_alarms": len({(seed, name) for seed, _, name in seen.overall}),
        "peak_ordinary": seen.peak_ordinary,
        "peak_volatile": seen.peak_volatile,
        "alarms": [
            {
                "week": seed,
                "block": number,
                "bet": bet,
                "rate": float(ground.weeks.world.rate[feature]),
                "volatile": bool(volatile[feature]),
            }
            for seed, number, feature, bet, _ in seen.features
        ],
        "overall": [{"week": seed, "block": number, "statistic": name} for seed, number, name in seen.overall],
    }


def dial(ground: Ground) -> dict[str, Any]:
    """False alarms at several budgets: features whose score crosses each threshold in a week.

    A budget changes a score only by the alarms that spend it. Where the null weeks had none, theirs are those of any
    smaller budget.
    """
    size, seen = ground.weeks.size, ground.null
    if seen.features:
        seen = watched(ground.weeks, size.null, detector(ground.fitted, min(DIAL)))
    crossed = {one: int((seen.highest >= np.log(size.features * BLOCKS_A_MONTH / one)).sum()) for one in DIAL}
    month = 30 / 7 / len(size.null)
    return {f"alarms_30_days_at_{budget:g}": count * month for budget, count in crossed.items()}


def drift(ground: Ground) -> dict[str, Any]:
    """For each effect, how many of its features were found, and after how many requests."""
    seen, cells = ground.drift, chosen(ground.weeks.world, ground.weeks.size)
    changed = {int(feature) for picked in cells.values() for feature in picked}
    table = [
        {
            "effect": effect.name,
            "features": len(picked),
            **_delays("", seen.first, picked.tolist()),
            **_delays("suspect_", seen.first_suspect, picked.tolist()),
        }
        for effect, picked in cells.items()
    ]
    others = {feature for _, _, feature, _, _ in seen.features} - changed
    return {"requests": seen.requests, "unchanged_alarmed": len(others), "table": table}


def short(ground: Ground) -> dict[str, Any]:
    """Three days of a surge, three of a change of everything: who alarms, and when."""
    size, found = ground.weeks.size, {}
    for name, seeds in (("surge", size.surge), ("dense", size.dense)):
        seen = watched(ground.weeks, seeds, detector(ground.fitted, BUDGET))
        found[f"{name}_features_alarmed"] = len(seen.first)
        for statistic in ("traffic", "shift", "l0"):
            blocks = [number for _, number, one in seen.overall if one == statistic]
            found[f"{name}_{statistic}_blocks"] = min(blocks) + 1 if blocks else -1
        found[f"{name}_any_blocks"] = min((number for _, number, _ in seen.overall), default=-2) + 1
    return found


def peers(ground: Ground) -> dict[str, Any]:
    """What other tools say of the same weeks."""
    weeks = ground.weeks
    size, cells = weeks.size, chosen(weeks.world, weeks.size)
    seeds = size.null[:PEER_WEEKS]
    before, quiet, moved = (
        drift_peers.days([weeks.get(seed) for seed in some], size.blocks_a_day)
        for some in (size.baseline, seeds, size.drift)
    )
    table = []
    for name, method in drift_peers.METHODS.items():
        flags = method(before, quiet)
        first = _first(method(before, moved), np.cumsum(moved.requests))
        table.append(_peer(name, float(flags.sum()) / len(seeds), int(flags.any(axis=1).sum()), first, cells))
    flags = drift_peers.followed(weeks, size.baseline, seeds)
    days = flags.reshape(-1, size.blocks_a_day, size.features).any(axis=(1, 2))
    requests = np.concatenate([weeks.get(seed).requests for seed in size.drift])
    first = _first(drift_peers.followed(weeks, size.baseline, size.drift), np.cumsum(requests))
    table.append(_peer("ADWIN, delta 0.002", float(flags.sum()) / len(seeds), int(days.sum()), first, cells))
    ours = sorted({(seed, feature) for seed, _, feature, _, _ in ground.null.features})
    when = {(seed, number // size.blocks_a_day) for seed, number, *_ in ground.null.features if seed in seeds}
    rate = len(ours) / len(size.null)
    table.append(_peer("ours, unit request", rate, len(when), ground.drift.first, cells))
    return {"null_days": 7 * len(seeds), "table": table}


def pairs(ground: Ground) -> dict[str, Any]:
    """New co-firings; and what would be called without the weights of features that fire more often by themselves."""
    rates = ground.fitted.baseline.n.rates
    unweighted = replace(rates, level=np.full_like(rates.level, np.inf))
    measured = partial(drift_pairs.measured, ground.weeks, ground.cache)
    rows = dict(drift_made.at_once(measured, (unweighted, rates)))
    plain = rows[unweighted]
    return {**rows[rates], "pair_plain_false_buckets": plain["pair_false_buckets"], "plain": plain["table"]}


def cold(ground: Ground) -> dict[str, Any]:
    """False alarms of short baselines: all of them, and those that somebody is called for."""
    rows = dict(drift_made.at_once(partial(_cold, ground.weeks), COLD))
    return {f"cold_{count}_{key}": value for count in COLD for key, value in rows[count].items()}


def _cold(weeks: Weeks, count: int) -> dict[str, Any]:
    """Of a baseline of so many weeks."""
    volatile = weeks.world.volatile
    seen = watched(weeks, weeks.size.null, detector(fitted(weeks, weeks.size.baseline[-count:]), BUDGET))
    false = {(seed, feature) for seed, _, feature, _, _ in seen.features}
    return {
        "false_week": len(false) / len(weeks.size.null),
        "ordinary": sum(not volatile[feature] for _, feature in false),
        "told": len(seen.told),
        "overall": len(seen.overall),
        "told_overall": seen.told_overall,
    }


def silence(ground: Ground) -> dict[str, Any]:
    """What cannot be judged is a counted state: how many of these are not."""
    cases = drift_costs.silences(400 if ground.quick else 6000)
    return {"silences": len(cases), "silent": sum(not told for told in cases.values()), "cases": cases}


def costs(ground: Ground) -> dict[str, Any]:
    """Bytes and times."""
    features = 10_000 if ground.quick else 100_000
    record, firings = drift_costs.reduce_us(2048, 300, 200 if ground.quick else 5000)
    return {
        "bytes_per_feature": drift_costs.state_bytes(features),
        "step_ms": drift_costs.step_ms(features),
        "features": features,
        "us_per_request": record,
        "us_per_1000_tokens": firings,
    }


def exactly(ground: Ground) -> dict[str, Any]:
    """Sums in any order, and means of bets."""
    means = list(drift_costs.exact())
    trials = 50 if ground.quick else 1000
    return {
        "merges": trials,
        "merges_wrong": drift_costs.merges(trials),
        "bets": len(means),
        "bet_mean_max": max(one["mean"] for one in means),
    }


CELLS: Mapping[str, Callable[[Ground], dict[str, Any]]] = {
    "exact": exactly,
    "silence": silence,
    "costs": costs,
    "weeks": weeks,
    "pairs": pairs,
    "null": null,
    "drift": drift,
    "short": short,
    "dial": dial,
    "cold": cold,
    "peers": peers,
}
WITHOUT_WEEKS = frozenset({"exact", "silence", "costs"})


def poisson(count: int) -> tuple[float, float]:
    """95 % interval of a mean, by the quantiles of gamma distributions (Wilson and Hilferty's cube)."""

    def quantile(shape: float, z: float) -> float:
        return float(shape * max(1.0 - 1.0 / (9.0 * shape) + z / (3.0 * np.sqrt(shape)), 0.0) ** 3) if shape else 0.0

    return quantile(count, -1.96), quantile(count + 1, 1.96)


def _delays(prefix: str, first: Mapping[int, int], picked: Sequence[int]) -> dict[str, float]:
    delays = np.array([first.get(feature, np.inf) for feature in picked])
    median = float(np.median(delays)) if len(delays) else np.inf
    share = float(np.isfinite(delays).mean()) if len(delays) else 0.0
    return {f"{prefix}found": share, f"{prefix}median_requests": median if np.isfinite(median) else -1.0}


def _first(flags: drift_peers.Flags, requests: drift_peers.F64) -> dict[int, int]:
    """Feature to the requests at its first flag."""
    where = flags.argmax(axis=0)
    return {int(one): int(requests[where[one]]) for one in np.flatnonzero(flags.any(axis=0))}


def _peer(
    name: str, rate: float, days: int, first: Mapping[int, int], cells: Mapping[Effect, np.ndarray[Any, Any]]
) -> dict[str, Any]:
    found = {one.name: _delays("", first, cells[one].tolist()) for one in PEER_EFFECTS}
    return {"method": name, "false_alarms_week": rate, "days_with_alarm": days, "found": found}


# --- the result -------------------------------------------------------------------------------------------------------
def _document(
    options: argparse.Namespace, rows: Sequence[dict[str, Any]], not_run: Sequence[dict[str, str]]
) -> dict[str, Any]:
    return form.document(
        "drift",
        facts=drift_goals.facts(rows),
        correctness=drift_goals.correctness(rows),
        rows=rows,
        goals={} if options.quick else drift_goals.goals(rows),
        not_run=not_run,
        quick=options.quick,
        seed=FULL.seed,
    )


if __name__ == "__main__":
    sys.exit(main())
