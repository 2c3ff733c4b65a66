from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saewatch.core.records import StreamOpen
from saewatch.monitor.drift.causes import NO_PANEL, NOT_RUN, OTHER_INPUTS, ROUND_NS, STANDS_NS, Causes, PanelMoved
from saewatch.monitor.drift.panel import KnownPanel, Replay
from saewatch.monitor.events import Observed, RequestEnded
from saewatch.monitor.monitor import Monitor
from tests import fakes
from tests.deployed import FEATURES, KNOWN
from tests.monitor.drift import panels
from tests.monitor.drift.test_attribution import alarm

SECOND = 10**9


class Panel:
    """A monitor that rounds of the panel go through."""

    def __init__(self, known: KnownPanel | None) -> None:
        self.monitor = Monitor(dictionaries={KNOWN.weights_digest: KNOWN})
        self.causes = Causes(known, FEATURES, lambda table: np.arange(len(table.features)))
        self.monitor.connect(1)
        opening: StreamOpen = fakes.stream_open(KNOWN)
        for record in (opening, fakes.watch_set(KNOWN)):
            self.monitor.receive(1, record, 1)
        self.number, self.chance = 0, np.random.default_rng(9)

    def read(self, run: Sequence[Replay], now_ns: int) -> list[PanelMoved]:
        records = list(panels.requests(run, self.number + 1, now_ns))
        events = [event for record in records for event in self.monitor.receive(1, record, now_ns)]
        told = [self.causes.follow(one, now_ns) for one in events if isinstance(one, Observed | RequestEnded)]
        self.number += len(run)
        return [one for one in told if one is not None]


def test_it_is_told_when_it_begins_when_it_is_another_and_when_it_is_over() -> None:
    one = Panel(panels.known())
    assert one.read(panels.replayed(one.chance), SECOND) == []
    changed = panels.replayed(one.chance, factors={2: 0.5, 3: 0.5})
    [first] = one.read(changed, 2 * SECOND)
    assert (first.attribution.cause, first.resolved, first.opened_ns) == ("model", False, 2 * SECOND)
    assert one.read(changed, 3 * SECOND) == [], "the same again"
    [worse] = one.read(panels.replayed(one.chance, gone=0.7), 4 * SECOND)
    assert (worse.attribution.cause, worse.opened_ns) == ("dictionary", 2 * SECOND)
    [over] = one.read(panels.replayed(one.chance), 5 * SECOND)
    assert (over.resolved, over.opened_ns, over.changed_ns) == (True, 2 * SECOND, 5 * SECOND)
    assert one.causes.counters == {"panel_clean": 2, "panel_changed": 2, "panel_collapsed": 1}


def test_why_it_says_nothing() -> None:
    assert Panel(None).causes.why_not(SECOND) == NO_PANEL
    one = Panel(panels.known())
    assert one.causes.why_not(SECOND) == NOT_RUN
    one.read(panels.replayed(one.chance), SECOND)
    assert one.causes.why_not(SECOND + ROUND_NS) == ""
    assert "1801 s ago" in one.causes.why_not(2 * SECOND + ROUND_NS)
    one.read(panels.replayed(one.chance, tokens=panels.TOKENS + 1), 3 * SECOND)
    assert one.causes.why_not(4 * SECOND) == OTHER_INPUTS
    assert one.causes.counters["panel_inputs"] == 1


def test_old_alarms_are_not_explained_any_more() -> None:
    one = Panel(panels.known())
    one.read(panels.replayed(one.chance), STANDS_NS)
    assert one.causes.attributed([alarm(0)], STANDS_NS) is not None
    assert one.causes.attributed([alarm(0)], STANDS_NS + 1) is None
