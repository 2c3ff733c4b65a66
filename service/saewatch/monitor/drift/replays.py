"""The panel's prompts on their way through the engine: which request is which, and what each came to.

A request of the panel is of the class ``canary`` and its client's id says which prompt it is, by the digest of its
text: another text is another prompt. So a recording of such requests can be read later, and a replay of it judges as
the sidecar did. A replay counts only where every token was *computed* (excluded ones aside) in one stable stream: a
reused row says what was computed before.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import Origin, Reason
from saewatch.core.records import Role, TrafficClass
from saewatch.monitor.drift.counts import I64
from saewatch.monitor.drift.panel import TOKENS_MAX, Replay
from saewatch.monitor.drift.spread import F32
from saewatch.monitor.events import CLASSES, Observed, RequestEnded
from saewatch.monitor.identity import Identity
from saewatch.monitor.tables import WatchTable

PREFIX, DIGITS = "panel-", 16
OPEN_FACTOR = 4
"""Replays that are under way at most, for each prompt: those of which nothing more comes are forgotten."""
_CLASS = CLASSES.index(TrafficClass.CANARY)
Place = Callable[[WatchTable], npt.NDArray[np.intp] | None]
"""For each of a table's features its place in the baseline, or -1; None for a table that the baseline is not about."""


def prompt_name(text: str) -> str:
    """What a prompt is known by."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def client_id(prompt: str, chance: str) -> str:
    """Of one request of a prompt; ``chance`` tells it from the others."""
    return f"{PREFIX}{prompt}-{chance}"


def prompt_of(identity: Identity) -> str:
    """The prompt's name; empty for any other request."""
    if identity.traffic_class != TrafficClass.CANARY or not identity.client_id.startswith(PREFIX):
        return ""
    return identity.client_id[len(PREFIX) :].partition("-")[0]


@dataclass(slots=True, eq=False)
class _Open:
    """One replay that is under way."""

    stream: int = 0
    computed: int = 0
    excluded: int = 0
    parts: list[tuple[I64, I64, F32]] = field(default_factory=list)


class Replays:
    """Of the panel's ``prompts``, by their names, until each was replayed: then that is a round."""

    def __init__(self, prompts: Sequence[str], place: Place) -> None:
        self._prompts, self._place = tuple(prompts), place
        self._open: OrderedDict[Identity, _Open] = OrderedDict()
        self._done: dict[str, tuple[int, Replay]] = {}

    def follow(self, event: Observed | RequestEnded, now_ns: int) -> tuple[int, Sequence[Replay]] | None:
        """One event; gives a round that it completes, and when its first prompt was done."""
        if isinstance(event, Observed):
            if bool((event.traffic_class[:-1] == _CLASS).any()):
                self._observe(event)
            return None
        name = prompt_of(event.identity)
        found = self._open.pop(event.identity, None)
        if found is None or name not in self._prompts:
            return None
        made = _whole(found, event)
        if made is not None:
            self._done[name] = (now_ns, made)
        return self._round()

    def _round(self) -> tuple[int, Sequence[Replay]] | None:
        if len(self._done) < len(self._prompts):
            return None
        done, self._done = self._done, {}
        return min(at for at, _ in done.values()), [done[name][1] for name in self._prompts]

    def _observe(self, event: Observed) -> None:
        table = event.table
        wanted = [(index, one) for index, one in enumerate(event.requests) if prompt_of(one) in self._prompts]
        if not wanted or table.stream.opening.role != Role.STABLE:
            return
        place = self._place(table)
        if place is None:
            return
        batch, fired = event.batch, event.fired
        _, position = batch.row_positions()
        span = np.searchsorted(batch.span_start, fired.row, side="right") - 1
        feature = place[fired.feature]
        for index, identity in wanted:
            one = self._opened(identity)
            if one.stream not in {0, table.stream.number}:
                continue
            one.stream = table.stream.number
            own = event.span_request == index
            one.computed += int(batch.lengths[own & (batch.origin == int(Origin.COMPUTED))].sum())
            excluded = (event.missed_request == index) & (batch.missed_reason == int(Reason.EXCLUDED))
            one.excluded += int(batch.missed_tokens[excluded].sum())
            some = own[span] & (feature >= 0)
            where, value = position[fired.row][some], batch.value[fired.firing][some]
            one.parts.append((where.astype(np.int64), feature[some].astype(np.int64), value))

    def _opened(self, identity: Identity) -> _Open:
        while identity not in self._open and len(self._open) >= OPEN_FACTOR * len(self._prompts):
            self._open.popitem(last=False)
        return self._open.setdefault(identity, _Open())


def _whole(one: _Open, event: RequestEnded) -> Replay | None:
    """The replay; None where not all of it was computed."""
    if event.lost or one.computed + one.excluded != event.fed or event.fed > TOKENS_MAX:
        return None
    columns = [np.concatenate(column) for column in zip(*one.parts, strict=True)]
    return Replay.of(columns[0], columns[1], columns[2], event.fed)


def rounds(kept: Mapping[str, Sequence[Replay]], prompts: Sequence[str], count: int) -> list[list[Replay]]:
    """The last ``count`` replays of each prompt, or as many as there are of all, as rounds."""
    most = min([count, *(len(kept.get(name, ())) for name in prompts)])
    return [[kept[name][len(kept[name]) - most + number] for name in prompts] for number in range(most)]
