"""What an upgrade diff tells: its verdict, what was compared, and each feature, for programs and for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saewatch.cli import recordings
from saewatch.cli.upgrade.recorded import Side
from saewatch.core.catalogue import Feature
from saewatch.monitor.diff.sample import Units
from saewatch.monitor.diff.statistic import STATISTICS
from saewatch.monitor.diff.verdict import CHANGED, INSUFFICIENT, UNDECIDED, Compared, Effect, Moved

CAVEAT = "A firing is correlational evidence: that one changed does not say what the model now does."
TRAFFIC = "The requests are not the same: traffic may have made a difference, as well as the model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that is told."""

    before: Side
    after: Side
    found: Compared
    features: Sequence[Feature]
    refused: Mapping[str, str]
    """Features that are not compared, and why."""
    apart: Sequence[str]
    """Why the recordings cannot be compared; empty where they can."""
    gate: Sequence[str]

    @property
    def gated(self) -> list[str]:
        """Features of the gate that changed."""
        ids = [(self.features[one.feature], one) for one in self.found.moved if one.verdict == CHANGED]
        return [one.id for one, _ in ids if not self.gate or {one.id, one.category} & set(self.gate)]

    def categories(self) -> dict[str, tuple[int, int]]:
        """Features that changed and those that were compared, by category."""
        found: dict[str, tuple[int, int]] = {}
        for one in self.found.moved:
            changed, told = found.get(self.features[one.feature].category, (0, 0))
            more = (int(one.verdict == CHANGED), int(one.verdict != INSUFFICIENT))
            found[self.features[one.feature].category] = (changed + more[0], told + more[1])
        return dict(sorted(found.items()))


# --- for programs -----------------------------------------------------------------------------------------------------
def document(report: Report) -> dict[str, Any]:
    """As `--json` has it. Numbers that there are none of are null."""
    found = report.found
    return {
        "comparable": not report.apart,
        "why": list(report.apart),
        "paired": found.paired,
        "part": found.part,
        "before": _side(report.before, found.before, found.unmatched[0]),
        "after": _side(report.after, found.after, found.unmatched[1]),
        "weights": report.before.weights,
        "counts": found.counts(),
        "gated": report.gated,
        "categories": {name: {"changed": a, "compared": b} for name, (a, b) in report.categories().items()},
        "smallest_ratio": {f"{share:g}": _finite(ratio) for share, ratio in found.smallest.items()},
        "features": [_feature(report.features[one.feature], one) for one in found.moved],
        "not_compared": dict(report.refused),
        "claim": "correlational",
    }


def _side(side: Side, of: Units, unmatched: int) -> dict[str, Any]:
    return {
        "file": str(side.path),
        "served": side.served.json() if side.served else None,
        "units": of.units,
        "requests": of.requests,
        "without_conversation": of.alone,
        "unmatched": unmatched,
        "tokens": of.tokens,
        "firings_per_token": of.firings / of.tokens if of.tokens else None,
        **{name: _finite(value) for name, value in side.shares.items()},
        "missed": dict(side.missed),
        "left_out": dict(side.left_out),
        "defects": list(side.defects),
        "census": side.census.json() if side.census else None,
    }


def _feature(feature: Feature, moved: Moved) -> dict[str, Any]:
    effects = {name: _effect(moved.effects[name]) for name in STATISTICS}
    return {
        "id": feature.id,
        "category": feature.category,
        "label": feature.label,
        "verdict": moved.verdict,
        "by": moved.most,
        **effects,
    }


def _effect(one: Effect) -> dict[str, Any]:
    numbers = {name: _finite(getattr(one, name)) for name in ("ratio", "low", "high", "q")}
    return {"verdict": one.verdict, **numbers, "n_before": one.before, "n_after": one.after}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- for people -------------------------------------------------------------------------------------------------------
def lines(report: Report, *, shown: int) -> Iterator[str]:
    """The verdict first, then what was compared, then the features that moved most."""
    yield headline(report)
    yield from told(report)
    yield ""
    rows = [one for one in report.found.moved if one.verdict in (CHANGED, UNDECIDED)]
    for one in rows[:shown]:
        feature = report.features[one.feature]
        yield f"{one.verdict:<10} {feature.id:<26} {feature.category:<18} {_said(one)}"
    if len(rows) > shown:
        yield f"{len(rows) - shown} more, --all shows them"
    yield CAVEAT if report.found.paired else f"{TRAFFIC} {CAVEAT}"


def headline(report: Report) -> str:
    """What it came to."""
    if report.apart:
        return f"NOT COMPARABLE: {'; '.join(report.apart)}"
    counts = report.found.counts()
    rest = ", ".join(f"{count} {name}" for name, count in counts.items() if name != CHANGED)
    gate = f" ({len(report.gated)} of them gated)" if report.gate else ""
    return f"{'CHANGED' if counts[CHANGED] else 'nothing changed'}: {counts[CHANGED]} features{gate}; {rest}"


def told(report: Report) -> Iterator[str]:
    """What was compared."""
    found = report.found
    how = "paired by request" if found.paired else "unpaired: other requests"
    yield f"{how}; tokens of the {'prompt and the answer' if found.part == 'all' else found.part}"
    for name, side, of, unmatched in (
        ("before", report.before, found.before, found.unmatched[0]),
        ("after", report.after, found.after, found.unmatched[1]),
    ):
        rate = of.firings / of.tokens if of.tokens else math.nan
        yield (
            f"  {name:<6} {side.path.name}: {of.units} units of {of.requests} requests"
            f" ({of.alone} without a conversation, {unmatched} unmatched), {of.tokens} tokens,"
            f" {recordings.covered(_finite(side.shares['coverage']), side.missed)}, {rate:.3f} watched firings a token"
        )
        if side.census:
            yield f"         {side.census}"
        if side.left_out:
            yield "         left out: " + "; ".join(f"{count} ({why})" for why, count in sorted(side.left_out.items()))
        yield from (f"         {line}" for line in recordings.damaged(side.defects))
    for category, (changed, of_them) in report.categories().items():
        if changed:
            yield f"  {category}: {changed} of {of_them} features changed"
    bands = ", ".join(f"{share:.0%}: {_ratio(ratio)}" for share, ratio in found.smallest.items())
    if bands:
        yield f"  smallest ratio that would be found half of the time, by the units in which a feature fires: {bands}"
    if report.refused:
        yield f"  {len(report.refused)} features are not compared: {next(iter(report.refused.items()))[1]}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "none"


def _said(one: Moved) -> str:
    effect = one.effects[one.most]
    interval = f"x{effect.ratio:.2f} [{effect.low:.2f}, {effect.high:.2f}]"
    return f"{one.most} {interval}, q {effect.q:.2g}, in {effect.before} and {effect.after} units"
