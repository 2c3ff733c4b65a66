"""Canaries: prompts that are known to make a feature fire, or known not to, sent through the live engine and judged.

A canary passes when the whole of its request was *computed* under a stable dictionary that watches its feature, and
the feature did what was expected on the prompt's end, behind the padding. A reused row, one that nobody computed now,
satisfies nothing. A failing canary makes its feature blind, and so does one that has not passed for a period; the
feature sees again when all its canaries have passed anew. Each is sent twice a period: a fault shows within one.

A canary that did not come as the class ``canary`` fails too, and is not sent any more: it entered the statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from saewatch.core.batch import Origin, Reason
from saewatch.core.records import Role, TrafficClass
from saewatch.monitor.events import CLASSES, BlindState, Event, Observed, RequestEnded

CANARY_FAILED, CANARY_OVERDUE = "canary_failed", "canary_overdue"
TOKENS = 256
"""Of a canary's prompt at least: some blocks of a prefix cache, which could have hidden a fault."""
HINTS = {
    CANARY_FAILED: "A canary of this feature failed: no firing of it, and none that is missing, can be relied on.",
    CANARY_OVERDUE: "No canary of this feature passed for a period. Does the engine serve at `canaries.url`?",
}
_CLASS = CLASSES.index(TrafficClass.CANARY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One prompt and what is expected of it."""

    id: str
    feature: str
    fires: bool
    prompt: str
    above: float = 0.0
    """A firing counts where its value is greater."""
    value: float | None = None
    """The largest value that is expected, to within ``tolerance`` of it."""
    tolerance: float = 0.25
    tokens: int | None = None
    """Of the prompt's end, how many are looked at: its own, and none of its padding."""

    @property
    def tail(self) -> int:
        """The same; without a number as many as it has words, each of which is a token or more."""
        return self.tokens or len(self.prompt.split())

    def refusal(self, largest: float | None) -> str:
        """Why this largest value is not what was expected; empty where it is."""
        fired = largest is not None and largest > self.above
        if fired != self.fires:
            return f"it fired with {largest:.4g}" if fired else f"it did not fire above {self.above:g}"
        off = 0.0 if largest is None or self.value is None else abs(largest - self.value)
        if fired and self.value is not None and off > self.tolerance * abs(self.value):
            return f"its largest value was {largest:.4g}, expected {self.value:.4g} within {self.tolerance:.0%}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryState:
    """What the canaries of one feature came to."""

    feature: str
    passes: int
    failures: int
    last_pass_ns: int
    """0: none passed yet."""
    detection_ns: int
    """From the last pass to the failure after it, at the latest time that happened: a fault stood at most so long."""
    blind: str
    why: str


@dataclass(slots=True, kw_only=True)
class _Kept:
    """One canary over time."""

    canary: Canary
    began_ns: int
    passes: int = 0
    failures: int = 0
    last_pass_ns: int = 0
    detection_ns: int = 0
    why: str = ""  # of the last verdict; empty: it passed, or there is none


@dataclass(slots=True, kw_only=True)
class _Sent:
    """One request that is under way."""

    kept: _Kept
    sent_ns: int
    stream: int = 0  # the one that it is judged in: the first that shows it
    computed: int = 0
    reused: int = 0
    excluded: int = 0
    largest: float | None = None


class Canaries:
    """All canaries of a sidecar. ``period_ns`` without a pass makes a feature blind."""

    def __init__(self, canaries: Sequence[Canary], period_ns: int, now_ns: int) -> None:
        self._period_ns = period_ns
        self._kept = {one.id: _Kept(canary=one, began_ns=now_ns) for one in canaries}
        self._sent: dict[str, _Sent] = {}  # by the client's id, which nobody else knows
        self._blind: dict[str, BlindState] = {}  # by feature
        self.unlabelled = False
        """A canary came back as a request like others: none is to be sent any more."""

    def send(self, name: str, canary: str, now_ns: int) -> None:
        """A canary is on its way as a request of this client's id."""
        self._sent[name] = _Sent(kept=self._kept[canary], sent_ns=now_ns)

    def refuse(self, name: str, why: str, now_ns: int) -> None:
        """Its request was not served."""
        sent = self._sent.pop(name, None)
        if sent is not None:
            self._judge(sent.kept, why, now_ns)

    def follow(self, events: Iterable[Event], now_ns: int) -> bool:
        """Events of the monitor, in order; True when what is blind has changed."""
        for event in events:
            if isinstance(event, Observed):
                if self._sent and bool((event.traffic_class[:-1] == _CLASS).any()):
                    self._observe(event)
            elif isinstance(event, RequestEnded) and event.identity.client_id in self._sent:
                self._end(event, now_ns)
        return self._look(now_ns)

    @property
    def blind(self) -> tuple[BlindState, ...]:
        """Features that are not seen."""
        return tuple(self._blind.values())

    def states(self) -> list[CanaryState]:
        """By feature, in the order of the file."""
        found: dict[str, list[_Kept]] = {}
        for one in self._kept.values():
            found.setdefault(one.canary.feature, []).append(one)
        return [self._state(feature, of) for feature, of in found.items()]

    def _state(self, feature: str, of: Sequence[_Kept]) -> CanaryState:
        blind = self._blind.get(feature)
        return CanaryState(
            feature=feature,
            passes=sum(one.passes for one in of),
            failures=sum(one.failures for one in of),
            last_pass_ns=min(one.last_pass_ns for one in of),
            detection_ns=max(one.detection_ns for one in of),
            blind=blind.reason if blind else "",
            why="; ".join(f"{one.canary.id}: {one.why}" for one in of if one.why),
        )

    def _observe(self, event: Observed) -> None:
        batch, table = event.batch, event.table
        if table.stream.opening.role != Role.STABLE:
            return
        numbers = {feature.id: number for number, feature in enumerate(table.features)}
        for index, identity in enumerate(event.requests):
            sent = self._sent.get(identity.client_id)
            number = numbers.get(sent.kept.canary.feature, -1) if sent else -1
            if sent is None or number < 0 or identity.traffic_class != TrafficClass.CANARY:
                continue
            if sent.stream not in {0, table.stream.number}:
                continue
            sent.stream = table.stream.number
            own = event.span_request == index
            fresh = own & (batch.origin != int(Origin.REUSED))
            sent.computed += int(batch.lengths[own & (batch.origin == int(Origin.COMPUTED))].sum())
            sent.reused += int(batch.lengths[own & ~fresh].sum())
            excluded = (event.missed_request == index) & (batch.missed_reason == int(Reason.EXCLUDED))
            sent.excluded += int(batch.missed_tokens[excluded].sum())
            span = np.searchsorted(batch.span_start, event.fired.row, side="right") - 1
            _, position = batch.row_positions()
            inside = position[event.fired.row] >= identity.prompt_len - sent.kept.canary.tail
            values = batch.value[event.fired.firing][(event.fired.feature == number) & fresh[span] & inside]
            if len(values):
                largest = float(values.max())
                sent.largest = largest if sent.largest is None else max(sent.largest, largest)

    def _end(self, event: RequestEnded, now_ns: int) -> None:
        sent = self._sent.pop(event.identity.client_id)
        if event.identity.traffic_class != TrafficClass.CANARY:
            self.unlabelled = True
            found = f"it came as {event.identity.traffic_class}, and counts as such: SAEWATCH_TRUST_HEADERS is not 1"
            self._judge(sent.kept, found, now_ns)
        else:
            self._judge(sent.kept, _refusal(sent, event), now_ns)

    def _judge(self, kept: _Kept, why: str, now_ns: int) -> None:
        if not why:
            kept.passes += 1
            kept.last_pass_ns = now_ns
        else:
            kept.failures += 1
            if not kept.why and kept.last_pass_ns:
                kept.detection_ns = now_ns - kept.last_pass_ns
        kept.why = why

    def _look(self, now_ns: int) -> bool:
        """What is blind now; requests of which nothing more came are forgotten."""
        for name in [name for name, one in self._sent.items() if now_ns - one.sent_ns > self._period_ns]:
            self.refuse(name, "nothing came of its request within a period", now_ns)
        found = dict[str, tuple[str, str]]()  # by feature the reason, and what is said beside it
        for one in self._kept.values():
            feature = one.canary.feature
            if one.why and found.get(feature, ("",))[0] != CANARY_FAILED:
                found[feature] = CANARY_FAILED, f" {one.canary.id}: {one.why}."
            elif now_ns - (one.last_pass_ns or one.began_ns) > self._period_ns:
                found.setdefault(feature, (CANARY_OVERDUE, ""))
        same = {name: one.reason for name, one in self._blind.items()} == {name: one[0] for name, one in found.items()}
        if not same:
            self._blind = {name: self._blinded(name, *one, now_ns) for name, one in found.items()}
        return not same

    def _blinded(self, feature: str, reason: str, why: str, now_ns: int) -> BlindState:
        """With what was found first of all."""
        before = self._blind.get(feature)
        if before is not None and before.reason == reason:
            return before
        return BlindState(scope="feature", reason=reason, subject=feature, hint=HINTS[reason] + why, since_ns=now_ns)


def _refusal(sent: _Sent, event: RequestEnded) -> str:
    """Why a request that has ended does not satisfy its canary; empty where it does."""
    if event.lost:
        return "the engine was lost"
    if event.identity.prompt_len < TOKENS:
        return f"its prompt had {event.identity.prompt_len} tokens, {TOKENS} are needed"
    if not sent.stream:
        return "nothing of it was seen in a stable stream that watches the feature"
    if sent.reused or sent.computed + sent.excluded < event.fed:
        return f"only {sent.computed} of {event.fed - sent.excluded} tokens were computed, {sent.reused} were reused"
    return sent.kept.canary.refusal(sent.largest)
