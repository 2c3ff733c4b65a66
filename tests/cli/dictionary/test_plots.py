"""Plots are the size of their numbers."""

from __future__ import annotations

import re

from saewatch.cli.dictionary import plots
from saewatch.dictionary.area import Area
from saewatch.dictionary.figures import Histogram


def test_bars_are_as_high_as_their_counts() -> None:
    drawn = plots.bars(Histogram((1.0, 2.0, 4.0, 8.0), (5, 0, 10)), "Values & more", "log")
    heights = [float(one) for one in re.findall(r'height="([\d.]+)" class="bar"', drawn)]
    assert len(heights) == 2
    assert abs(heights[1] / heights[0] - 2) < 0.01
    assert "Values &amp; more" in drawn
    assert "nothing was counted" in plots.bars(Histogram((), ()), "Values", "log")


def test_intervals_lie_where_they_should_and_unmeasured_ones_nowhere() -> None:
    rows = [("a<b", {"feature": Area(0.7, 0.6, 0.9), "words": None, "probe": Area(0.2, 0.1, 0.3)})]
    drawn = plots.ranges(rows)
    assert "a&lt;b" in drawn
    assert drawn.count("whisker") == 2
    places = [float(one) for one in re.findall(r'circle cx="([\d.]+)"', drawn)]
    assert places[1] == 190, "what is lower than the scale stands at its end"
    assert 190 < places[0] < 520


def test_marked_cells_are_coloured_and_others_are_not() -> None:
    drawn = plots.table(("a", "b"), [("!failed", "+0.02"), ("+passed", "<i>")])
    assert '<td class="bad">failed</td><td>+0.02</td>' in drawn
    assert '<td class="good">passed</td><td>&lt;i&gt;</td>' in drawn
