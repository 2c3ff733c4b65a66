"""Finds and opens the blocks that a query needs.

A query goes through time in one direction. `Span` turns both into ascending numbers, so that what walks through blocks
exists once: descending, a step at time t is at -t. Blocks come by where they begin in that direction; since none is
longer than `limits.HISTORY_BLOCK_NS`, a bounded look back finds all that reach into a time. What lies before the begin
of the next block is final.

Every statement is a transaction of its own, so that no reader holds the write-ahead log. Instead, a query names the
last block that existed when it began, and sees none after that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from saewatch.core import limits
from saewatch.core.errors import RecordError
from saewatch.edge.history.block import REASONS, Block, Tokens, read_block, read_tokens
from saewatch.edge.history.columns import I64
from saewatch.edge.history.file import open_to_read
from saewatch.edge.history.wanted import NOBODY, Mask, StoredRequest, Wanted, listed
from saewatch.edge.history.watched import StoredStream, read_stream, read_table
from saewatch.edge.history.writer import Cause, Loss
from saewatch.monitor.tables import WatchTable

HEADERS = 256
REQUESTS_REMEMBERED = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a query is about, the same on all its pages: times in [start_ns, end_ns), nothing written later."""

    start_ns: int
    end_ns: int
    last_block: int
    last_request: int


@dataclass(frozen=True, slots=True)
class Span:
    """Places in [low, high): times, or where ``sign`` is -1 negative ones."""

    low: int
    high: int
    sign: int = 1

    @property
    def start_ns(self) -> int:
        """First time in it."""
        return self.low if self.sign > 0 else 1 - self.high

    @property
    def end_ns(self) -> int:
        """First time behind it."""
        return self.high if self.sign > 0 else 1 - self.low

    @classmethod
    def of(cls, start_ns: int, end_ns: int, *, descending: bool = False) -> Self:
        """The span of times in [start_ns, end_ns)."""
        return cls(1 - end_ns, 1 - start_ns, -1) if descending else cls(start_ns, end_ns)


@dataclass(frozen=True, slots=True)
class Header:
    """A block without its columns."""

    id: int
    stream: int
    watched: int
    first_ns: int
    last_ns: int
    tokens: int
    firings: int
    features: bytes
    requests: bytes

    def begin(self, sign: int) -> int:
        """Its first place."""
        return self.first_ns if sign > 0 else -self.last_ns


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A block with what explains it, as far as a query chooses it."""

    header: Header
    stream: StoredStream
    table: WatchTable
    requests: I64  # [K] numbers in the store
    wanted: Mask  # [K+1] the last: requests that are not known
    features: Mask  # [F] chosen ones

    @property
    def has_firings(self) -> bool:
        """Whether a chosen feature fired in it."""
        fired = np.unpackbits(np.frombuffer(self.header.features, np.uint8), count=len(self.features))
        return bool((self.features & fired.astype(np.bool_)).any()) and bool(self.wanted.any())

    def within(self, span: Span) -> bool:
        """Whether all of it is in the span."""
        return span.start_ns <= self.header.first_ns and self.header.last_ns < span.end_ns


class Stopped(Exception):
    """Nobody waits for the answer any more."""


class Reader:
    """One page's look into the history. Raises `sqlite3.Error` for a file that cannot be read."""

    def __init__(
        self,
        path: Path,
        *,
        wanted: Wanted,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted = wanted
        self.damaged: dict[int, Loss] = {}
        """Blocks that could not be read."""
        self._connection = open_to_read(path)
        self._stop = stop or threading.Event()
        self._clock = clock
        self._until = clock() + limits.QUERY_S
        self._opened = 0
        self._last: tuple[int, Block | None] | None = None
        self._streams: dict[int, StoredStream] = {}
        self._tables: dict[tuple[int, int], tuple[WatchTable, Mask]] = {}
        self._requests: dict[int, StoredRequest | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

    @property
    def spent(self) -> bool:
        """Whether a page has done its share."""
        return self._opened >= limits.QUERY_BLOCKS or self._clock() >= self._until

    # --- what there is --------------------------------------------------------------------------------------------
    def fact(self, name: str) -> int:
        """One of `file.FACTS`."""
        ((value,),) = self.rows("SELECT value FROM fact WHERE name=?", name)
        return int(value)

    def snapshot(self, start_ns: int | None, end_ns: int | None) -> Snapshot:
        """As of now; without a start or end of what is stored."""
        ((low, high),) = self.rows("SELECT min(first_ns), max(last_ns) FROM block")
        ((request,),) = self.rows("SELECT max(id) FROM request")
        start_ns = (low or 0) if start_ns is None else start_ns
        return Snapshot(
            start_ns=start_ns,
            end_ns=max((high or 0) + 1 if end_ns is None else end_ns, start_ns),
            last_block=self.fact("next_block") - 1,
            last_request=request or 0,
        )

    def kept_since_ns(self) -> int | None:
        """What is older may be gone; None: there is nothing yet."""
        removed = self.fact("removed_until_ns")
        ((first,),) = self.rows("SELECT min(first_ns) FROM block")
        return removed + 1 if removed >= 0 else first

    def losses(self, snapshot: Snapshot) -> list[Loss]:
        """What is missing of a time, as far as that is known, with what was found damaged just now."""
        rows = self.rows(
            "SELECT cause, first_ns, last_ns, tokens, firings FROM loss WHERE first_ns < ? AND last_ns >= ?"
            " ORDER BY first_ns, cause",
            snapshot.end_ns,
            snapshot.start_ns,
        )
        names = ("first_ns", "last_ns", "tokens", "firings")
        told = [Loss(cause=Cause(cause), **dict(zip(names, values, strict=True))) for cause, *values in rows]
        return [*told, *self.damaged.values()]

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a statement."""
        if self._stop.is_set():
            raise Stopped
        return self._connection.execute(statement, values).fetchall()

    # --- blocks ---------------------------------------------------------------------------------------------------
    def headers(self, span: Span, snapshot: Snapshot) -> Iterator[Header]:
        """The blocks of the chosen streams that reach into the span, by where they begin."""
        streams = self._chosen_streams()
        low = max(span.low - limits.HISTORY_BLOCK_NS, -limits.COUNT_MAX)
        after = (low, -1 if span.sign > 0 else limits.COUNT_MAX)
        while True:
            rows = self.rows(
                _ASCENDING if span.sign > 0 else _DESCENDING,
                span.sign * after[0],
                after[1],
                span.start_ns,
                span.end_ns,
                snapshot.last_block,
                streams,
                HEADERS,
            )
            found = [Header(*row) for row in rows]
            yield from found
            if len(found) < HEADERS:
                return
            after = (found[-1].begin(span.sign), found[-1].id)

    def wanted_headers(self, span: Span, snapshot: Snapshot) -> Iterator[Header]:
        """The same without those that cannot have a request that the filter chooses, where that is known cheaply."""
        for part in self.parts(span):
            yield from self.headers(part, snapshot)

    def open(self, header: Header) -> Opened | None:
        """What a block has for this query; None for a damaged one."""
        self._opened += 1
        try:
            requests, _ = read_tokens(header.requests)
        except RecordError:
            self._damage(header)
            return None
        table, features = self._table(header)
        stream = self._streams[header.stream]
        return Opened(header, stream, table, requests, self._wanted(requests), features)

    def block(self, opened: Opened) -> Block | None:
        """Its columns; None for a damaged or removed one."""
        header = opened.header
        if self._last is not None and self._last[0] == header.id:
            return self._last[1]
        found = self.rows("SELECT columns FROM body WHERE block=?", header.id)
        try:
            block = read_block(found[0][0], first_ns=header.first_ns, requests=len(opened.requests)) if found else None
        except RecordError:
            self._damage(header)
            block = None
        self._last = (header.id, block)
        return block

    def tokens(self, opened: Opened, span: Span) -> Tokens:
        """The tokens that a block has in the span, of wanted requests."""
        if opened.within(span):
            _, tokens = read_tokens(opened.header.requests)
        elif block := self.block(opened):
            tokens = block.tokens_within(span.start_ns, span.end_ns)
        else:
            width = len(opened.wanted)
            tokens = Tokens(seen=np.zeros(width, np.int64), missed=np.zeros((width, REASONS), np.int64))
        return Tokens(seen=tokens.seen * opened.wanted, missed=tokens.missed * opened.wanted[:, None])

    # --- requests -------------------------------------------------------------------------------------------------
    def request(self, number: int) -> StoredRequest:
        """A request's row, or `NOBODY`."""
        self._fetch([number])
        return self._requests[number] or NOBODY

    def running(self, span: Span, condition: str = "", *more: object, limit: int) -> list[StoredRequest]:
        """The first ``limit`` requests that the filter chooses and that ran in the span."""
        chosen, values = self.wanted.requests()
        statement = f"{_REQUESTS} WHERE first_ns < ? AND last_ns >= ? AND {chosen} {condition} LIMIT ?"
        rows = self.rows(statement, span.end_ns, span.start_ns, *values, *more, limit)
        return [StoredRequest(**dict(zip(REQUEST_COLUMNS, row, strict=True))) for row in rows]

    def parts(self, span: Span) -> list[Span]:
        """The parts of a span in which requests ran that the filter chooses; all of it where they are too many."""
        if not self.wanted.chooses_requests:
            return [span]
        found = self.running(span, limit=limits.QUERY_REQUESTS + 1)
        if len(found) > limits.QUERY_REQUESTS:
            return [span]
        return merged(span, [(one.first_ns, one.last_ns + 1) for one in found])

    def _wanted(self, numbers: I64) -> Mask:
        if not self.wanted.chooses_requests:
            return np.ones(len(numbers) + 1, np.bool_)
        self._fetch(numbers.tolist())
        return np.array([*(self._requests[number] is not None for number in numbers.tolist()), False], np.bool_)

    def _fetch(self, numbers: Sequence[int]) -> None:
        """Remembers these requests, or that the filter does not choose them."""
        if len(self._requests) > REQUESTS_REMEMBERED:
            self._requests.clear()
        unknown = [number for number in numbers if number not in self._requests]
        if unknown:
            self._requests.update(dict.fromkeys(unknown))
            chosen, values = self.wanted.requests()
            statement = f"{_REQUESTS} WHERE id IN (SELECT value FROM json_each(?)) AND {chosen}"
            for row in self.rows(statement, listed(unknown), *values):
                self._requests[row[0]] = StoredRequest(**dict(zip(REQUEST_COLUMNS, row, strict=True)))

    # --- what explains blocks -------------------------------------------------------------------------------------
    def _chosen_streams(self) -> str:
        for number, text in self.rows("SELECT id, identity FROM stream"):
            self._streams[number] = read_stream(text)
        return listed([number for number, stream in self._streams.items() if self.wanted.stream(stream)])

    def _table(self, header: Header) -> tuple[WatchTable, Mask]:
        key = (header.stream, header.watched)
        if key not in self._tables:
            ((body,),) = self.rows("SELECT body FROM watched WHERE id=?", header.watched)
            table = read_table(body, stream=self._streams[header.stream])
            self._tables[key] = table, self.wanted.features(table)
        return self._tables[key]

    def _damage(self, header: Header) -> None:
        if header.id not in self.damaged:
            self.damaged[header.id] = Loss(
                cause=Cause.DAMAGED,
                first_ns=header.first_ns,
                last_ns=header.last_ns,
                tokens=header.tokens,
                firings=header.firings,
            )


def cut(span: Span, other: Span) -> Span:
    """What two spans of one direction share; empty where that is nothing."""
    low = max(span.low, other.low)
    return Span(low, max(min(span.high, other.high), low), span.sign)


def merged(span: Span, times: Iterable[tuple[int, int]]) -> list[Span]:
    """Times [start_ns, end_ns) as parts of a span, in its order, so far apart that no block is in two of them."""
    parts: list[Span] = []
    for part in sorted((Span.of(*one, descending=span.sign < 0) for one in times), key=lambda one: one.low):
        shared = cut(span, part)
        if parts and shared.low - parts[-1].high <= 2 * limits.HISTORY_BLOCK_NS:
            before = parts.pop()
            shared = replace(before, high=max(before.high, shared.high))
        if shared.low < shared.high:
            parts.append(shared)
    return parts


REQUEST_COLUMNS = tuple(field.name for field in fields(StoredRequest))
_REQUESTS = f"SELECT {', '.join(REQUEST_COLUMNS)} FROM request"
_WHERE = "last_ns >= ? AND first_ns < ? AND id <= ? AND stream IN (SELECT value FROM json_each(?))"
_HEADER = f"SELECT {', '.join(field.name for field in fields(Header))} FROM block"
_ASCENDING = f"{_HEADER} WHERE (first_ns, id) > (?, ?) AND {_WHERE} ORDER BY first_ns, id LIMIT ?"
_DESCENDING = f"{_HEADER} WHERE (last_ns, id) < (?, ?) AND {_WHERE} ORDER BY last_ns DESC, id DESC LIMIT ?"
