"""Plots as inline SVG: a page with them needs no script and no network, and takes its colours from the page's style.

All text goes through `html.escape`: labels and names come from whoever made the dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from saewatch.dictionary.area import Area

if TYPE_CHECKING:
    from saewatch.dictionary.figures import Histogram

WIDE, HIGH = 320, 150
_LEFT, _BOTTOM = 8, 22
_ROW = 14
_NAMES, _SCALE = 190, 330


def bars(one: Histogram, title: str, unit: str) -> str:
    """A histogram, with the ends of its axis and the largest count."""
    if not one.counts:
        return f'<figure class="plot"><figcaption>{escape(title)}</figcaption><p>nothing was counted</p></figure>'
    most, step = max(one.counts), (WIDE - 2 * _LEFT) / len(one.counts)
    drawn = "".join(_bar(place, count / most, step, one) for place, count in enumerate(one.counts) if count)
    ends = (
        (_LEFT, "start", one.edges[0]),
        (WIDE // 2, "middle", one.edges[len(one.edges) // 2]),
        (WIDE - _LEFT, "end", one.edges[-1]),
    )
    axis = "".join(
        f'<text x="{x:.0f}" y="{HIGH - 6}" text-anchor="{anchor}">{value:.3g}</text>' for x, anchor, value in ends
    )
    said = (
        f"{title}, {unit}: {sum(one.counts):,} in {len(one.counts)} bins from {one.edges[0]:.3g} to {one.edges[-1]:.3g}"
    )
    return (
        f'<figure class="plot"><figcaption>{escape(title)} <small>{escape(unit)}</small></figcaption>'
        f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape(said)}">{drawn}'
        f'<line x1="{_LEFT}" x2="{WIDE - _LEFT}" y1="{HIGH - _BOTTOM}" y2="{HIGH - _BOTTOM}" class="axis"/>{axis}'
        "</svg></figure>"
    )


def _bar(place: int, share: float, step: float, one: Histogram) -> str:
    high = max(1.0, share * (HIGH - _BOTTOM - 8))
    says = f"{one.edges[place]:.3g} to {one.edges[place + 1]:.3g}: {one.counts[place]:,}"
    box = f'x="{_LEFT + place * step:.1f}" y="{HIGH - _BOTTOM - high:.1f}" width="{max(step - 1, 0.5):.1f}"'
    return f'<rect {box} height="{high:.1f}" class="bar"><title>{says}</title></rect>'


def ranges(rows: Sequence[tuple[str, Mapping[str, Area | None]]], *, least: float = 0.4) -> str:
    """Intervals between ``least`` and 1 by name: for each row a line for each method that it was measured with."""
    drawn, y = [], 18
    for name, methods in rows:
        drawn.append(f'<text x="0" y="{y + 4}" class="name">{escape(name)}</text>')
        for method, area in methods.items():
            if area is not None:
                drawn.append(_range(y, method, area, least))
                y += _ROW
        y += 6
    grid = "".join(_line(value, y, least) for value in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
    high = y + 4
    return (
        f'<svg viewBox="0 0 {_NAMES + _SCALE + 20} {high}" role="img" class="ranges"'
        f' aria-label="AUROC of each feature beside its baselines, with intervals">{grid}{"".join(drawn)}</svg>'
    )


def _range(y: int, method: str, area: Area, least: float) -> str:
    low, value, high = (_at(one, least) for one in (area.low, area.value, area.high))
    says = f"{method}: {area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
    return (
        f'<g class="m-{escape(method)}"><title>{escape(says)}</title>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" class="whisker"/>'
        f'<circle cx="{value:.1f}" cy="{y}" r="3.5"/></g>'
    )


def _line(value: float, high: int, least: float) -> str:
    x = _at(value, least)
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{high}" class="grid"/>'
        f'<text x="{x:.1f}" y="9" text-anchor="middle">{value:.1f}</text>'
    )


def _at(value: float, least: float) -> float:
    return _NAMES + _SCALE * (min(max(value, least), 1.0) - least) / (1.0 - least)


def table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]], *, kind: str = "") -> str:
    """A table of text; a cell that begins with ``!`` is marked as bad, one with ``+`` as good."""
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    marks = {"!": "bad", "+": "good"}
    mark = marks.get(text[:1], "") if len(text) > 1 and text[1:2].isalpha() else ""
    return f'<td class="{mark}">{escape(text[1:])}</td>' if mark else f"<td>{escape(text)}</td>"
