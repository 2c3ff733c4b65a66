"""What a recording lacks of what its engine told, and how a replay tells of it: as the engine would have.

A batch that is not in the file, through damage or a recorder that was behind, was acknowledged when it was recorded,
so the recorded books call it encoded. At each beat, what the engine says that it told is compared with what was given
since its first beat. What is short becomes what an engine makes of batches that nobody acknowledged: `gap` in the
books, and missed tokens of no request in its next batch. So coverage, metrics, history and subscribers have the loss,
and none of them knows of recordings.

A beat may lag behind the batches before it, so a loss may be told some beats late, and never too large. What is missing
behind the last beat, or before the first one, nobody can tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import NO_REQUEST, FiringBatch, Reason
from saewatch.core.records import Beat, Record, StreamBeat, StreamEnd, StreamOpen

TOKENS, ROWS, REUSED, FIRINGS = "tokens", "rows", "reused", "firings"
"""What is compared: everything that was told, rows that were computed (once each), replayed rows, and firings."""
EngineKey = tuple[str, int]


@dataclass(slots=True)
class _Stream:
    base: Counter[str] | None = None  # told before the first beat; None: there was none yet
    given: Counter[str] = field(default_factory=Counter)  # batches, and what was made up for
    lost: Counter[str] = field(default_factory=Counter)
    untold: int = 0  # lost tokens that are in no batch yet
    link: int = 0
    last: FiringBatch | None = None

    def give(self, link: int, batch: FiringBatch) -> FiringBatch:
        """``batch``, and what is untold with it."""
        if self.last is not None and batch.seq <= self.last.seq:
            return batch  # it came before, and does not count
        self.given.update(_amounts(batch))
        self.link, self.last = link, batch
        tokens, self.untold = min(self.untold, limits.POSITION_MAX), max(self.untold - limits.POSITION_MAX, 0)
        return _missing(batch, tokens) if tokens else batch

    def rest(self) -> Iterator[FiringBatch]:
        """What is untold, as a batch of its own: the stream's last one."""
        if self.untold and self.last is not None:
            last = self.last
            empty = replace(last.part(0, 0, missed=slice(0, 0)), seq=last.seq + 1)
            yield self.give(self.link, empty)

    def amend(self, books: StreamBeat) -> StreamBeat:
        """``books`` as they would be had nobody acknowledged what is missing."""
        told = Counter({TOKENS: books.told, ROWS: books.encoded, REUSED: books.reused, FIRINGS: books.told_firings})
        if self.base is None:
            self.base = Counter[str]() if self.last is not None and self.last.seq == 1 else told - self.given
        short = told - self.base - self.given  # a Counter keeps what is above 0
        self.given += short
        self.lost += short
        self.untold += short[TOKENS]
        if not self.lost:
            return books
        gap = books.missed.get(Reason.GAP.label, 0) + self.lost[ROWS] + self.lost[REUSED]
        return replace(
            books,
            encoded=books.encoded - self.lost[ROWS],
            reused=books.reused - self.lost[REUSED],
            missed={**books.missed, Reason.GAP.label: gap},
            firings=max(books.firings - self.lost[FIRINGS], 0),
            told_firings=books.told_firings - self.lost[FIRINGS],
        )


class Shortfall:
    """The streams of one recording. Every record goes through `amended`."""

    def __init__(self) -> None:
        self._engines: dict[int, EngineKey] = {}  # by link
        self._streams: dict[tuple[EngineKey, int], _Stream] = {}
        self._ended = Counter[str]()

    @property
    def lost(self) -> Counter[str]:
        """`TOKENS`, `ROWS` and `FIRINGS` that are known to be missing."""
        return sum((stream.lost for stream in list(self._streams.values())), self._ended)

    def amended(self, link: int, record: Record) -> Iterator[Record]:
        """What is to be given in the place of ``record``."""
        if isinstance(record, StreamOpen | Beat):
            self._engines[link] = (record.engine, record.epoch)
        if isinstance(record, FiringBatch):
            yield self._stream(link, record.stream).give(link, record)
        elif isinstance(record, Beat):
            streams = tuple(self._stream(link, books.stream).amend(books) for books in record.streams)
            yield replace(record, streams=streams)
        elif isinstance(record, StreamEnd):
            stream = self._stream(link, record.stream)
            final = stream.amend(record.final)
            yield from stream.rest()
            yield replace(record, final=final)
            self._ended += stream.lost
            del self._streams[self._key(link, record.stream)]
        else:
            yield record

    def rest(self, links: Collection[int]) -> Iterator[tuple[int, FiringBatch]]:
        """At the end: what is in no batch yet, on the connections that are still there."""
        for stream in self._streams.values():
            if stream.link in links:
                yield from ((stream.link, batch) for batch in stream.rest())

    def _stream(self, link: int, number: int) -> _Stream:
        return self._streams.setdefault(self._key(link, number), _Stream())

    def _key(self, link: int, number: int) -> tuple[EngineKey, int]:
        return self._engines.get(link, ("", link)), number  # without a beginning: its batches are refused


def _amounts(batch: FiringBatch) -> Counter[str]:
    rows, reused = batch.fresh_rows, batch.reused_rows
    tokens = rows + int(batch.missed_tokens.sum())
    return Counter({TOKENS: tokens, ROWS: rows - reused, REUSED: reused, FIRINGS: batch.firings})


def _missing(batch: FiringBatch, tokens: int) -> FiringBatch:
    """``batch``, with tokens of no request that are missed as `gap`."""
    return replace(
        batch,
        missed_request=np.append(batch.missed_request, np.uint32(NO_REQUEST)),
        missed_reason=np.append(batch.missed_reason, np.uint8(Reason.GAP)),
        missed_tokens=np.append(batch.missed_tokens, np.int32(tokens)),
    )
