"""Requests of a recording: what fired where, without what was said. A recording holds no text and no token ids.

Only streams of one dictionary are read, and of their requests those that ended within the recording. Where a position
was computed again, the last time counts. Which features fire with a firing is decided as the sidecar decides it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saewatch.core import limits
from saewatch.core.batch import F32, FiringBatch, WatchSet
from saewatch.core.errors import ConfigError, RecordError, UnreachableError
from saewatch.core.recording import Received, Recording
from saewatch.core.records import RequestEnd, RequestLabel, RequestStart, StreamOpen, key_of
from saewatch.monitor.tables import KnownDictionary, StreamIdentity, WatchTable, join

I64 = npt.NDArray[np.int64]
Key = tuple[int, int]
"""Connection, and the number of a stream or request on it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recorded:
    """One request. ``feature`` numbers the dictionary's features as its catalogue has them."""

    engine_id: str
    client_id: str
    """Empty where no label came."""
    prompt_len: int
    tokens: int
    read: npt.NDArray[np.bool_]  # [tokens] False: excluded, or not seen
    position: I64  # [K]
    feature: I64  # [K]
    value: F32  # [K]


@dataclass(slots=True)
class _Open:
    """A request that has not ended."""

    start: RequestStart
    firings: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)  # positions, in the order of their coming
    chunks: list[tuple[int, I64, I64, F32]] = field(default_factory=list)  # span, position, feature, value


class RecordedRequests:
    """Reads the requests that a recording has of ``known``, one after the other.

    After it was gone through, ``open`` requests had no end, ``cut`` ones were too long, and ``opening`` is the last of
    the streams. Iterating raises `UnreachableError` and `FrameError` where the file cannot be read, `ConfigError` where
    no stream of it has this dictionary.
    """

    def __init__(self, path: Path, known: KnownDictionary) -> None:
        self._path, self._known = path, known
        self._number = {one.id: index for index, one in enumerate(known.catalogue.features)}
        self._streams: dict[Key, StreamOpen] = {}
        self._parts: dict[tuple[Key, int], list[WatchSet]] = {}
        self._tables: dict[tuple[Key, int], tuple[WatchTable, I64]] = {}
        self._open: dict[Key, _Open] = {}
        self._clients: dict[str, str] = {}
        self.opening: StreamOpen | None = None
        self.cut = 0

    @property
    def open(self) -> int:
        """Requests without an end."""
        return len(self._open)

    def __iter__(self) -> Iterator[Recorded]:
        try:
            file = self._path.open("rb")
        except OSError as error:
            raise UnreachableError(str(self._path), found=error.strerror, expected="a recording") from error
        with file:
            for received in Recording(file).received():
                yield from self._take(received)
        if self.opening is None:
            hint = "It was recorded with other dictionaries."
            found = "no stream of the dictionary"
            raise ConfigError(str(self._path), found=found, expected=self._known.weights_digest, hint=hint)

    def _take(self, received: Received) -> Iterator[Recorded]:
        link, record = received.mark.link, received.record
        if isinstance(record, StreamOpen) and record.weights_digest == self._known.weights_digest:
            self._streams[link, record.stream] = self.opening = record
        elif isinstance(record, WatchSet) and (link, record.stream) in self._streams:
            self._watch(link, record)
        elif isinstance(record, RequestLabel):
            self._label(record)
        elif isinstance(record, RequestStart):
            self._start(link, record)
        elif isinstance(record, FiringBatch):
            self._batch(link, record)
        elif isinstance(record, RequestEnd) and (ended := self._open.pop((link, record.request), None)):
            yield from self._ended(ended)

    def _watch(self, link: int, record: WatchSet) -> None:
        place = ((link, record.stream), record.watch)
        parts = self._parts.setdefault(place, [])
        if record.first == 0:
            parts.clear()
        parts.append(record)
        if sum(len(part.row) for part in parts) < record.total:
            return
        opening = self._streams[link, record.stream]
        stream = StreamIdentity(number=record.stream, opening=opening, dictionary=self._known)
        try:
            table = join(self._parts.pop(place), number=1, stream=stream)
        except RecordError:  # a part is missing: its firings say nothing
            return
        self._tables[place] = table, np.array([self._number[one.id] for one in table.features], np.int64)

    def _label(self, record: RequestLabel) -> None:
        self._clients[record.key] = record.client_id
        if len(self._clients) > limits.LABELS_KEPT:
            del self._clients[next(iter(self._clients))]

    def _start(self, link: int, record: RequestStart) -> None:
        known = self._open.get((link, record.request))
        if known is None or known.start.engine_id != record.engine_id:
            self._open[link, record.request] = _Open(record)
        if len(self._open) > limits.OPEN_REQUESTS:
            del self._open[next(iter(self._open))]

    def _batch(self, link: int, batch: FiringBatch) -> None:
        found = self._tables.get(((link, batch.stream), batch.watch))
        if found is None or (batch.slot >= found[0].slots).any():
            return
        table, number = found
        _, position_of_row = batch.row_positions()
        firing, feature = table.fired(batch.slot, batch.value)
        row = batch.row[firing]
        span = np.searchsorted(batch.span_start, row, side="right") - 1
        columns = (position_of_row[row].astype(np.int64), number[feature], batch.value[firing])
        order = np.argsort(span, kind="stable")
        edges = np.searchsorted(span[order], np.arange(len(batch.request) + 1))
        for index, request in enumerate(batch.request.tolist()):
            known = self._open.get((link, request))
            if known is not None:
                own = order[edges[index] : edges[index + 1]]
                start = int(batch.position[index])
                known.chunks.append((len(known.spans), *(column[own] for column in columns)))  # type: ignore[arg-type]  # three columns
                known.spans.append((start, start + int(batch.lengths[index])))
                known.firings += len(own)

    def _ended(self, one: _Open) -> Iterator[Recorded]:
        tokens = max((stop for _, stop in one.spans), default=0)
        if tokens > limits.RECORDED_TOKENS or one.firings > limits.RECORDED_FIRINGS:
            self.cut += 1
            return
        last = np.full(tokens, -1, np.int64)
        for index, (start, stop) in enumerate(one.spans):
            last[start:stop] = index
        kept = [
            (at[last[at] == span], feature[last[at] == span], value[last[at] == span])
            for span, at, feature, value in one.chunks
        ]
        none = np.zeros(0, np.int64)
        yield Recorded(
            engine_id=one.start.engine_id,
            client_id=self._clients.get(key_of(one.start.engine_id), ""),
            prompt_len=one.start.prompt_len,
            tokens=tokens,
            read=last >= 0,
            position=np.concatenate([none, *(at for at, _, _ in kept)]),
            feature=np.concatenate([none, *(feature for _, feature, _ in kept)]),
            value=np.concatenate([np.zeros(0, np.float32), *(value for _, _, value in kept)]),
        )
