"""An upgrade diff as one page: the verdict, a plot of all features, and a table beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from saewatch.cli.dictionary import plots
from saewatch.cli.framed import framed
from saewatch.cli.upgrade.report import CAVEAT, TRAFFIC, Report, headline, told
from saewatch.monitor.diff.statistic import STATISTICS
from saewatch.monitor.diff.verdict import CHANGED, INSUFFICIENT, MATTERS, Effect, Moved

WIDE, HIGH = 760, 420
LABELLED = 20
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 24, 16, 36
_STYLE = """
.scatter{max-width:none}.v-changed{fill:var(--bad);color:var(--bad)}.v-undecided{fill:var(--b1);color:var(--b1)}
.v-unchanged{fill:var(--good);color:var(--good)}.band{fill:var(--line);opacity:.45}.scatter circle{fill:currentColor}
"""


def page(report: Report) -> str:
    """The page's HTML."""
    kind = "bad" if report.apart or report.gated else "good"
    caveat = CAVEAT if report.found.paired else f"{TRAFFIC} {CAVEAT}"
    parts = [
        "<h1>What an upgrade did to the watched features</h1>",
        f'<div class="verdict {kind}"><p><b>{escape(headline(report))}</b></p><p>{escape(caveat)}</p></div>',
        "<h2>What was compared</h2>",
        *(f"<p>{escape(line)}</p>" for line in told(report)),
        "<h2>Prevalence before, and how it changed</h2>",
        scatter(report),
        "<h2>All features</h2>",
        plots.table(("feature", "category", "label", "verdict", *STATISTICS), list(_rows(report))),
    ]
    title = f"diff of {report.before.path.name} and {report.after.path.name}"
    return framed(title, "\n".join(parts), _STYLE)


def scatter(report: Report) -> str:
    """Each feature by the share of units in which it fired before (log), and the log2 of its ratio."""
    units = max(report.found.before.units, 1)
    dots = [one for one in report.found.moved if one.effects["prevalence"].verdict != INSUFFICIENT]
    if not dots:
        return "<p>No feature fired in enough units to be shown.</p>"
    most = max(1.0, *(abs(math.log2(one.effects["prevalence"].ratio)) for one in dots))
    low = math.log10(0.5 / units)
    band = _y(MATTERS / math.log(2.0), most), _y(-MATTERS / math.log(2.0), most)
    box = f'x="{_LEFT}" y="{band[0]:.1f}" width="{WIDE - _LEFT - _RIGHT}" height="{band[1] - band[0]:.1f}"'
    drawn = [
        f'<rect class="band" {box}><title>within 15 %</title></rect>',
        *_axes(low, most),
        *(_dot(report, one, units, low, most, named=rank < LABELLED) for rank, one in enumerate(dots)),
    ]
    says = f"{len(dots)} features by prevalence before and log2 of the ratio after over before"
    svg = f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" class="scatter" aria-label="{escape(says)}">'
    return f"{svg}{''.join(drawn)}</svg>"


def _dot(report: Report, one: Moved, units: int, low: float, most: float, *, named: bool) -> str:
    effect, feature = one.effects["prevalence"], report.features[one.feature]
    x, y = _x(math.log10(max(effect.before, 0.5) / units), low), _y(math.log2(effect.ratio), most)
    says = f"{feature.id}: {_words(effect)}"
    whisker = name = ""
    if named:
        ends = [_y(math.log2(value), most) for value in (effect.low, effect.high)]
        whisker = f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>'
        side, anchor = (x - 6, "end") if x > WIDE * 0.7 else (x + 6, "start")
        name = f'<text class="name" x="{side:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(feature.id)}</text>'
    circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    return f'<g class="v-{one.verdict}"><title>{escape(says)}</title>{whisker}{circle}{name}</g>'


def _axes(low: float, most: float) -> Iterator[str]:
    for power in range(math.ceil(low), 1):
        x = _x(float(power), low)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HIGH - _BOTTOM}"/>'
        yield f'<text x="{x:.1f}" y="{HIGH - 20}" text-anchor="middle">{10.0**power:g}</text>'
    for value in range(-math.floor(most), math.floor(most) + 1):
        y = _y(float(value), most)
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">x{2.0**value:g}</text>'
    yield f'<text x="{WIDE / 2:.0f}" y="{HIGH - 4}" text-anchor="middle">share of units in which it fired before</text>'


def _x(log10: float, low: float) -> float:
    return _LEFT + (WIDE - _LEFT - _RIGHT) * (min(max(log10, low), 0.0) - low) / -low


def _y(log2: float, most: float) -> float:
    middle = (_TOP + HIGH - _BOTTOM) / 2.0
    return middle - (middle - _TOP) * min(max(log2 / (1.05 * most), -1.0), 1.0)


def _rows(report: Report) -> Iterator[Sequence[str]]:
    for one in report.found.moved:
        feature = report.features[one.feature]
        mark = "!" if one.verdict == CHANGED else ""
        effects = (_words(one.effects[name]) for name in STATISTICS)
        yield feature.id, feature.category, feature.shown, f"{mark}{one.verdict}", *effects


def _words(one: Effect) -> str:
    if one.verdict == INSUFFICIENT:
        return f"too little: {one.before} and {one.after} units"
    return f"x{one.ratio:.2f} [{one.low:.2f}, {one.high:.2f}], q {one.q:.2g}, {one.before} and {one.after} units"
