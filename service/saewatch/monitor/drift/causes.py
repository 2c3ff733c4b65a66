"""One baseline's panel over time: its rounds are judged as they are completed, and alarms are put down to a cause.

A round counts until two periods have passed, at the longest that a period may be. An alarm takes three blocks at least,
which is as long as that: what a round says was read after the change began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from saewatch.monitor.drift import panel
from saewatch.monitor.drift.attribution import Attribution, attributed
from saewatch.monitor.drift.detector import Moved
from saewatch.monitor.drift.history import DAY_NS
from saewatch.monitor.drift.matched import NOTHING, Matched
from saewatch.monitor.drift.panel import KnownPanel, Replay, Round
from saewatch.monitor.drift.replays import Place, Replays
from saewatch.monitor.drift.spread import Flags
from saewatch.monitor.events import Observed, RequestEnded

PERIOD_NS_MAX = 600 * 10**9
"""Of the panel: a block of drift."""
ROUND_NS = 3 * PERIOD_NS_MAX
"""From a round's first prompt on, which comes a period before its last."""
STANDS_NS = DAY_NS
"""How long an alarm is part of what is to be explained."""
INPUTS = "inputs"
NOT_RUN = "the panel was not read since the sidecar started"
NO_PANEL = "the baseline has no panel: only fixed prompts tell another model from other traffic"
OTHER_INPUTS = "the panel's own prompts have changed: they are of other lengths, by another template or tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelMoved:
    """The panel by itself is an alarm, or no longer one."""

    opened_ns: int
    changed_ns: int
    round: Round
    attribution: Attribution
    resolved: bool = False


@dataclass(slots=True, eq=False)
class Causes:
    """Of one baseline."""

    known: KnownPanel | None
    features: int
    place: Place
    counters: Counter[str] = field(default_factory=Counter)
    last: Round | None = None
    _replays: Replays | None = None
    _read_ns: int = 0
    _other_inputs: bool = False
    _open: PanelMoved | None = None

    def __post_init__(self) -> None:
        if self.known is not None:
            self._replays = Replays(self.known.prompts, self.place)

    def follow(self, event: Observed | RequestEnded, now_ns: int) -> PanelMoved | None:
        """One event of requests; what it says where it completes a round that changes how the panel stands."""
        found = self._replays.follow(event, now_ns) if self._replays is not None else None
        return None if found is None else self._judge(found[0], found[1], now_ns)

    def attributed(
        self, alarms: Sequence[Moved], now_ns: int, slices: Callable[[Sequence[Moved]], Matched] = lambda _: NOTHING
    ) -> Attribution | None:
        """What the alarms that stand are put down to now. ``slices`` says of some what came of slices."""
        standing = [one for one in alarms if now_ns - one.changed_ns < STANDS_NS]
        because = self.why_not(now_ns)
        return attributed(standing, None if because else self.last, self._exercised, because, slices(standing))

    def why_not(self, now_ns: int) -> str:
        """Why the panel says nothing; empty where it does."""
        if self.known is None:
            return NO_PANEL
        if self._other_inputs:
            return OTHER_INPUTS
        if self.last is None:
            return NOT_RUN
        age_s = (now_ns - self._read_ns) // 10**9
        return f"the panel was last read whole {age_s} s ago" if age_s * 10**9 > ROUND_NS else ""

    @property
    def _exercised(self) -> Flags:
        return self.known.golden.exercised if self.known else np.zeros(self.features, np.bool_)

    def _judge(self, began_ns: int, run: Sequence[Replay], now_ns: int) -> PanelMoved | None:
        assert self.known is not None, "a round is a panel's"
        lengths = [one.tokens for one in run]
        self._other_inputs = lengths != self.known.golden.tokens.tolist()
        if self._other_inputs:
            self.counters[f"panel_{INPUTS}"] += 1
            return None
        self.last = panel.judged(self.known.golden, run)
        self._read_ns = began_ns
        self.counters[f"panel_{self.last.state}"] += 1
        return self._changed(now_ns)

    def _changed(self, now_ns: int) -> PanelMoved | None:
        """Told when it begins, when it is of another kind, and when it is over."""
        assert self.last is not None, "it was judged"
        before, bad = self._open, self.last.state in {panel.CHANGED, panel.COLLAPSED}
        if bad:
            cause = attributed((), self.last, self._exercised)
            assert cause is not None, "a panel that has changed has a cause"
            opened = before.opened_ns if before else now_ns
            now = PanelMoved(opened_ns=opened, changed_ns=now_ns, round=self.last, attribution=cause)
            self._open = now
            return now if before is None or before.attribution.cause != cause.cause else None
        self._open = None
        if before is None:
            return None
        return PanelMoved(
            opened_ns=before.opened_ns,
            changed_ns=now_ns,
            round=self.last,
            attribution=before.attribution,
            resolved=True,
        )
