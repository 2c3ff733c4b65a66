"""What batches came to, until the tallies of their requests take it.

A decoding step has one token of each of some hundred requests. Sorted by request for each step, its firings cost a
call for each request; so some dozens of steps are kept as they came and sorted together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import F32, I32, U8, Reason
from saewatch.monitor.events import UNKNOWN
from saewatch.monitor.tables import WatchTable
from saewatch.monitor.tally import Raw, raw

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One batch. Places are those of the roster; what has none, of requests that are not known, is left out later."""

    span_place: I64  # [R] recomputed ones too, with no tokens
    prompt_tokens: I32  # [R]
    answer_tokens: I32  # [R]
    missed_place: I64  # [M]
    missed_reason: U8  # [M]
    missed_tokens: I32  # [M]
    firing_place: I64  # [K]
    feature: I32  # [K]
    position: I32  # [K]
    value: F32  # [K]

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return 16 * len(self.span_place) + 13 * len(self.missed_place) + 20 * len(self.feature)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Share:
    """What it all came to for one request."""

    prompt_tokens: int
    answer_tokens: int
    missed: Sequence[tuple[Reason, int]]
    firings: Raw


GROUPS = (
    ("span_place", "prompt_tokens", "answer_tokens"),
    ("missed_place", "missed_reason", "missed_tokens"),
    ("firing_place", "feature", "position", "value"),
)
"""Columns of one length, the place first."""


class Journal:
    """Entries by table."""

    def __init__(self) -> None:
        self._entries: dict[WatchTable, list[Entry]] = {}
        self.bytes = 0

    def add(self, table: WatchTable, entry: Entry) -> None:
        """Keeps one."""
        self._entries.setdefault(table, []).append(entry)
        self.bytes += entry.nbytes

    def empty(self) -> Iterator[tuple[WatchTable, int, Share]]:
        """Everything, by table and place; firings in the order in which they came."""
        entries, self._entries = self._entries, {}
        self.bytes = 0
        for table, own in entries.items():
            for place, share in _shares(own):
                yield table, place, share


def _shares(entries: Sequence[Entry]) -> Iterator[tuple[int, Share]]:
    whole = {one.name: np.concatenate([getattr(entry, one.name) for entry in entries]) for one in fields(Entry)}
    for group in GROUPS:
        known = whole[group[0]] != UNKNOWN
        if not known.all():
            whole |= {name: whole[name][known] for name in group}
    spans, missed, fired = whole["span_place"], whole["missed_place"], whole["firing_place"]
    places, index = np.unique(np.concatenate([spans, missed]), return_inverse=True)
    span, loss, count = index[: len(spans)], index[len(spans) :], len(places)
    prompt = np.bincount(span, whole["prompt_tokens"], count).astype(np.int64).tolist()
    answer = np.bincount(span, whole["answer_tokens"], count).astype(np.int64).tolist()
    lost = np.bincount(loss * len(Reason) + whole["missed_reason"], whole["missed_tokens"], count * len(Reason))
    by_reason = lost.astype(np.int64).reshape(count, len(Reason))
    has_lost = by_reason.sum(axis=1).tolist()
    order = np.argsort(fired.astype(np.min_scalar_type(places.max(initial=0))), kind="stable")
    firings = raw(whole["feature"][order], whole["position"][order], whole["value"][order])
    bounds = np.searchsorted(fired[order], np.append(places, np.iinfo(np.int64).max)).tolist()
    for number, place in enumerate(places.tolist()):
        yield (
            place,
            Share(
                prompt_tokens=prompt[number],
                answer_tokens=answer[number],
                missed=_reasons(by_reason[number]) if has_lost[number] else (),
                firings=firings[bounds[number] : bounds[number + 1]],
            ),
        )


def _reasons(tokens: I64) -> list[tuple[Reason, int]]:
    return [(Reason(reason), int(tokens[reason])) for reason in np.flatnonzero(tokens)]
