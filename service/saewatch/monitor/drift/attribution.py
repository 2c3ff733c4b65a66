"""Why it drifted: the panel says whether the model is as it was, live counts whether the traffic is.

Fix the prompt to see the model; fix the model to see the traffic. The first row that matches decides:

====  =======================  ==========================================  ==================================
row   panel                    live                                        cause
====  =======================  ==========================================  ==================================
1     not run, too old, other  any alarm                                   cannot tell
2     collapsed                any                                         dictionary
3     changed                  the traffic's state                         model and traffic
4     changed                  not the traffic's state                     model
5     numerics                 any                                         numerics
6     clean                    the traffic's state, or slices explain it   traffic: another mix
7     clean                    features, pairs, or unexplained variance    traffic: new content
8     clean                    counts of many features together            traffic: indirect, and no feature named
9     clean                    the common shift or L0 alone                cannot tell
====  =======================  ==========================================  ==================================

Between the two of row 6: a feature that alarms and has moved on the panel too is the model's, though the whole panel
stands. Slices explain it where more than half of the features that alarm can be compared, and each of these fires
within slices as it did (`matched`). What else they say is no cause: a change of the model is one within slices, too.
Row 7 is *direct* where the panel exercises the features that alarm, and they did not move there; else *indirect*.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import log

from saewatch.monitor.alert import SliceMoved
from saewatch.monitor.drift import panel
from saewatch.monitor.drift.detector import Moved
from saewatch.monitor.drift.effect import Effect
from saewatch.monitor.drift.matched import NOTHING, Matched
from saewatch.monitor.drift.panel import Round
from saewatch.monitor.drift.spread import Flags

TRAFFIC, MODEL, BOTH, DICTIONARY = "traffic", "model", "model_and_traffic", "dictionary"
CANNOT_TELL = "cannot_tell"
CAUSES = (TRAFFIC, MODEL, BOTH, DICTIONARY, panel.NUMERICS, CANNOT_TELL)
DIRECT, INDIRECT = "direct", "indirect"
SHOWN = 10
"""Features that an attribution names."""
STATE, UNEXPLAINED = "traffic", "unexplained"
TOGETHER = frozenset({"mass", "divergence"})
"""Statistics of how often features fire, all in one; the others of the whole are of values, or of how many fire."""
REASONS = {
    DICTIONARY: (
        "most of what the panel fired is gone: the dictionary does not fit what is read any more. Another hook point,"
        " other weights of the dictionary, or another model"
    ),
    BOTH: "the panel's fixed prompts fire otherwise, and the traffic is of another kind",
    MODEL: "the panel's fixed prompts fire otherwise: the model has changed",
    panel.NUMERICS: "the panel fires a little otherwise, by too little to matter: the numerics of serving have changed",
    "mix": "the panel fires as it did, and the traffic is of another kind",
    "slices": (
        "the panel fires as it did, and so do features that alarm, among requests of the same source, length and hours:"
        " there is another mix of them"
    ),
    DIRECT: "the panel fires as it did, and the features that alarm are among what it exercises: the content is new",
    INDIRECT: (
        "the panel fires as it did, but does not exercise every feature that alarms: the content is new, or these"
        " features have changed in the model"
    ),
    "own": "features that alarm have moved on the panel's fixed prompts too",
    "together": (
        "the panel fires as it did, and many features fire more or less often at once, none of them by enough to be"
        " named: the traffic is of another kind"
    ),
    "whole": "the panel fires as it did, and no feature alarms: numerics of the serving path, or content",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """What the drift is put down to. It is a reading of evidence, and no proof."""

    cause: str
    reason: str
    exercised: str = ""  # direct | indirect: whether the panel could have shown it
    moved: tuple[Effect, ...] = ()  # what moved most first
    slices: tuple[SliceMoved, ...] = ()  # kinds of requests, where the traffic's mix is part of it


def attributed(
    alarms: Sequence[Moved],
    last: Round | None,
    exercised: Flags,
    because: str = "",
    within: Matched = NOTHING,
) -> Attribution | None:
    """The cause of ``alarms`` that stand, by the panel's ``last`` round; None where there is nothing to explain.

    Without a round that counts ``because`` says why there is none. ``exercised`` ``[F]``: what the panel could show.
    """
    traffic = any(one.of == STATE for one in alarms if one.kind == "overall")
    found = _caused(alarms, last, exercised, because, within, traffic=traffic)
    return replace(found, slices=within.slices) if found is not None and traffic else found


def _caused(
    alarms: Sequence[Moved], last: Round | None, exercised: Flags, because: str, within: Matched, *, traffic: bool
) -> Attribution | None:
    """The first row that matches."""
    live = ranked(Effect(one.subject, one.of, one.effect, one.low, one.high) for one in _features(alarms))
    if last is None:
        reason = because or "there is no panel: only fixed prompts tell another model from other traffic"
        return Attribution(cause=CANNOT_TELL, reason=reason, moved=live) if alarms else None
    on_panel = last.moved[:SHOWN]
    if last.state == panel.COLLAPSED:
        return Attribution(cause=DICTIONARY, reason=REASONS[DICTIONARY], moved=on_panel or live)
    if last.state == panel.CHANGED:
        cause = BOTH if traffic else MODEL
        return Attribution(cause=cause, reason=REASONS[cause], moved=on_panel or live)
    if not alarms:
        return None
    if last.state == panel.NUMERICS:
        return Attribution(cause=panel.NUMERICS, reason=REASONS[panel.NUMERICS], moved=on_panel or live)
    return _clean(alarms, live, last, exercised, within, traffic=traffic)


def ranked(effects: Iterable[Effect]) -> tuple[Effect, ...]:
    """Those that moved most, by what they moved at least."""
    return tuple(sorted(effects, key=lambda one: -one.least)[:SHOWN])


def _clean(
    alarms: Sequence[Moved],
    live: tuple[Effect, ...],
    last: Round,
    exercised: Flags,
    within: Matched,
    *,
    traffic: bool,
) -> Attribution:
    """Rows 6 to 9."""
    if traffic:
        return Attribution(cause=TRAFFIC, reason=REASONS["mix"], moved=live)
    subjects = {one.subject for one in _features(alarms)}
    paired = {one for alarm in alarms for pair in alarm.pairs for one in pair}
    own = tuple(one for one in last.moved if one.feature in subjects)
    if own:
        return Attribution(cause=MODEL, reason=REASONS["own"], exercised=DIRECT, moved=own[:SHOWN])
    if within.vanishes:
        reason = f"{REASONS['slices']} ({_compared(within)})"
        return Attribution(cause=TRAFFIC, reason=reason, moved=live, slices=within.slices)
    if subjects or paired or any(one.of == UNEXPLAINED and one.direction == "up" for one in alarms):
        shown = DIRECT if subjects and not paired and all(exercised[one] for one in subjects) else INDIRECT
        more = f"; {within.persisting} of them moved within slices too" if within.persisting else ""
        return Attribution(cause=TRAFFIC, reason=REASONS[shown] + more, exercised=shown, moved=live)
    if any(one.of in TOGETHER for one in alarms if one.kind == "overall"):
        return Attribution(cause=TRAFFIC, reason=REASONS["together"], exercised=INDIRECT)
    return Attribution(cause=CANNOT_TELL, reason=REASONS["whole"])


def _compared(within: Matched) -> str:
    """Of how many it is said, and how sure that is."""
    low, high = min(one.low for one in within.ratios), max(one.high for one in within.ratios)
    most = max(within.ratios, key=lambda one: abs(log(one.raw)))
    of = f"{len(within.ratios)} of {within.alarms} could be compared"
    return f"{of}: {low:.2f} to {high:.2f} times as often there, and over all up to {most.raw:.2f} times"


def _features(alarms: Sequence[Moved]) -> list[Moved]:
    return [one for one in alarms if one.kind == "feature"]
