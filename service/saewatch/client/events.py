"""What a watch hands out besides `Firings`. Each prints as one line, and has the resume token that goes on behind it.

Silence must never be taken for safety, so what keeps firings away is an event too: a `Gap`, a lost connection, and what
the books in `Coverage` call blind or missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from saewatch.client.firings import Firings, clock, words
from saewatch.client.tables import Request, Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """One stream's books, since the engine opened it: fed = encoded + reused + missed + in flight + imbalance."""

    stream: int
    fed: int
    encoded: int
    reused: int
    missed: Mapping[str, int]
    in_flight: int
    imbalance: int
    firings: int
    sink_calls: int
    coverage: float
    """The share of fed tokens that was seen; 1 where nothing was fed."""
    beat_time_ns: int
    blind: str
    """Why it sees nothing; empty: it sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """Something is known not to see: no firings do not mean that nothing fired."""

    scope: str
    reason: str
    subject: str
    hint: str
    since_ns: int

    def __str__(self) -> str:
        return f"BLIND since {clock(self.since_ns)}: {self.scope} {self.subject}, {self.reason}. {self.hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The books of every open stream, and what is blind: each second, and whenever a blind state changes."""

    resume_token: str = field(repr=False)
    streams: tuple[Books, ...]
    blind: tuple[Blind, ...]

    @property
    def overall(self) -> float:
        """The share of fed tokens that was seen, over all streams; 1 where nothing was fed."""
        fed = sum(one.fed for one in self.streams)
        return sum(one.coverage * one.fed for one in self.streams) / fed if fed else 1.0

    @property
    def missed(self) -> dict[str, int]:
        """Tokens that were fed and not seen, by reason, over all streams."""
        found: dict[str, int] = {}
        for one in self.streams:
            for reason, tokens in one.missed.items():
                found[reason] = found.get(reason, 0) + tokens
        return found

    def __str__(self) -> str:
        fed = sum(one.fed for one in self.streams)
        missed = f", missed {words(self.missed)}" if self.missed else ""
        blind = "".join(f"; {one}" for one in self.blind)
        return f"coverage {self.overall:.4f} of {fed} tokens in {len(self.streams)} streams{missed}{blind}"


ADVICE: Mapping[str, str] = {
    "slow_consumer": "This client read too slowly: do less for each event, or filter more.",
    "expired": "This client was away for longer than the sidecar keeps events: raise limits.replay_mib there.",
    "restarted": "The sidecar was restarted meanwhile.",
    "overload": "The sidecar itself could not keep up, for any subscriber: see `saewatch status`.",
}
"""What each reason of a gap says to whoever reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Events that were not received. Sizes count what a watch without a filter would have got."""

    resume_token: str = field(repr=False)
    reason: str
    """slow_consumer, expired, restarted or overload."""
    tokens: int
    """Rows and missed tokens."""
    firings: int
    first_event: int = 0
    last_event: int = 0
    stream: Stream | None = None
    """After a restart: which stream this is about."""
    repeated_tokens: int = 0
    """After a restart: tokens that were received, and are going to be reported once more, as missed."""
    unknown: bool = False
    """After a restart: nobody can tell how much is missing."""

    def __str__(self) -> str:
        size = "nobody knows how much" if self.unknown else f"{self.tokens} tokens and {self.firings} slot firings"
        of = f" of {self.stream}" if self.stream else ""
        again = f"; {self.repeated_tokens} tokens come again as missed" if self.repeated_tokens else ""
        return f"GAP ({self.reason}): {size}{of} not received{again}. {ADVICE.get(self.reason, '')}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnded:
    """A request has left the engine: everything of it was received before, less what gaps told."""

    resume_token: str = field(repr=False)
    request: Request
    fed: int
    emitted: int
    lost: bool
    """The engine was lost before it told the end: fed and emitted are not known."""

    def __str__(self) -> str:
        how = "was lost with its engine" if self.lost else f"ended: {self.fed} tokens fed, {self.emitted} emitted"
        return f"{self.request} {how}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The connection is gone, or could not be made: from here to `Reconnected` nothing is seen."""

    resume_token: str = field(repr=False)
    reason: str
    attempt: int
    """1 for the first one in a row."""
    retry_s: float
    """Until the next attempt."""

    def __str__(self) -> str:
        return f"DISCONNECTED, attempt {self.attempt} in {self.retry_s:.1f} s: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnected:
    """The connection is back. What was missed meanwhile follows: as events, or as a `Gap`."""

    resume_token: str = field(repr=False)
    attempts: int
    down_s: float

    def __str__(self) -> str:
        return f"connected again after {self.down_s:.1f} s and {self.attempts} attempts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Nothing happened, and the connection is alive."""

    resume_token: str = field(repr=False)
    head_event: int
    server_time_ns: int

    def __str__(self) -> str:
        return f"{clock(self.server_time_ns)} alive"


Event: TypeAlias = Firings | Coverage | Gap | RequestEnded | Disconnected | Reconnected | Heartbeat


@dataclass(slots=True)
class Totals:
    """What a watch has handed out so far: what a client reports at its end."""

    tokens: int = 0
    """Rows that were seen, those that were computed again included."""
    recomputed: int = 0
    missed: dict[str, int] = field(default_factory=dict)
    firings: int = 0
    """Of latents and directions: as gaps count them."""
    requests_ended: int = 0
    gaps: int = 0
    gap_tokens: int = 0
    gap_firings: int = 0
    repeated_tokens: int = 0
    gaps_unknown: int = 0
    """Gaps whose size nobody knows."""
    reconnects: int = 0
    unknown_events: int = 0
    """Events of a newer sidecar that this client does not know, and left out."""

    def add(self, event: Event) -> None:
        """Counts one event."""
        if isinstance(event, Firings):
            self.tokens += event.tokens
            self.recomputed += event.recomputed
            self.firings += event.slot_firings
            for reason, tokens in event.missed.items():
                self.missed[reason] = self.missed.get(reason, 0) + tokens
        elif isinstance(event, Gap):
            self.gaps += 1
            self.gap_tokens += event.tokens
            self.gap_firings += event.firings
            self.repeated_tokens += event.repeated_tokens
            self.gaps_unknown += event.unknown
        elif isinstance(event, RequestEnded):
            self.requests_ended += 1
        elif isinstance(event, Reconnected):
            self.reconnects += 1

    def __str__(self) -> str:
        seen = f"{self.tokens} tokens seen, {self.firings} slot firings, {self.requests_ended} requests ended"
        missed = f"missed {words(self.missed) or 'none'}"
        unknown = f", {self.gaps_unknown} of unknown size" if self.gaps_unknown else ""
        gaps = f"{self.gaps} gaps{unknown} ({self.gap_tokens} tokens, {self.gap_firings} slot firings)"
        return f"{seen}; {missed}; {gaps}; {self.reconnects} reconnects"
