"""What fired in blocks of tokens, kept on the host and replayed for requests that skip them.

A position that vLLM's prefix cache answers for passes no layer, so nothing fires there. What would have fired depends
on the tokens up to it alone: it is what fired when another request computed the same block. So each block's rows are
kept under its digest (`chain.Chain`), and given again, with origin *reused*, for a request that skips the block. Which
positions are skipped is vLLM's word; a cache salt keeps tenants apart there, and needs no part in the digest.

A block is kept when each of its rows was settled, from its first one on, and was encoded or is one that the dictionary
excludes. Rows that come again after a preemption were kept the first time. Whether a row reached a sidecar does not
matter. A replayed block's excluded rows are excluded again, so that a request's record is the same with a warm cache
and with a cold one.

An entry is one ``bytes``: of each row how many firings it has (u16; `EXCLUDED` for a row that is excluded), then the
slots (u16), then the values (f32). Entries that were used longest ago go first. One stream's entries hold for one hook
point, dictionary, watch set and mode; whoever changes one of these calls `Reuse.clear`.

Pure: no clock, thread or socket. Owned by the shipper's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from saewatch.core.batch import I32, Origin
from saewatch.engine.batching import Encoded, span_starts
from saewatch.engine.chain import Chain
from saewatch.engine.ledger import Settled, Skipped

EXCLUDED = 0xFFFF
"""In the place of a row's count. A row that has so many firings fits no frame, and is not kept."""
LOG_ROWS, LOG_STEPS = 4096, 64
"""Rows and steps that are sorted into blocks at once: a decoding step has one row of each request, and sixteen steps
cost little more than one."""
ENTRY_BYTES = 192
"""What an entry takes beside its columns: its key 65, its place in the mapping and two headers 120, as measured."""

_COUNT, _SLOT, _VALUE = np.dtype("<u2"), np.dtype("<u2"), np.dtype("<f4")

Replay = tuple[Settled, Encoded]
"""Rows as if a step had computed them. ``Settled.row`` has those that count."""
Piece = tuple[int, int, int, bytes, bytes, bytes]
"""Rows of one request in one block: request, block, place of the first row in it; counts, slots and values."""


@dataclass(slots=True)
class _Open:
    """A block whose last rows are still to come."""

    index: int
    counts: bytearray = field(default_factory=bytearray)
    slots: bytearray = field(default_factory=bytearray)
    values: bytearray = field(default_factory=bytearray)

    @property
    def nbytes(self) -> int:
        """Of its columns."""
        return len(self.counts) + len(self.slots) + len(self.values)


class Reuse:
    """One stream's kept blocks of ``block`` tokens, in at most ``bound`` bytes."""

    def __init__(self, *, block: int, bound: int) -> None:
        self.block = block
        self.bytes = 0
        self.bound = bound
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()  # by digest, used longest ago first
        self._open: dict[int, _Open] = {}  # by request
        self._log: list[Replay] = []  # steps that are to be sorted into blocks
        self._log_rows = 0
        self._chains: dict[int, Chain] = {}  # of the requests in the log
        self._open_chains: Mapping[int, Chain] = {}

    def record(self, settled: Settled, encoded: Encoded, chains: Mapping[int, Chain]) -> None:
        """Keeps a step's rows. ``chains``: of the open requests whose tokens are known."""
        if not np.isfinite(encoded.value).all():  # no batch may hold such a value: a fault of ours, told by its own
            return
        self._log.append((settled, encoded))
        self._log_rows += len(settled.row)
        self._open_chains = chains
        self._chains |= chains
        if self._log_rows >= LOG_ROWS or len(self._log) >= LOG_STEPS:
            self.flush()

    def flush(self) -> None:
        """Sorts what was recorded into blocks."""
        if not self._log:
            return
        for request, index, offset, counts, slots, values in _pieces(self._log, self.block):
            one = self._opened(request, index) if offset == 0 else self._open.get(request)
            if one is None or one.index != index or len(one.counts) != offset * _COUNT.itemsize:
                continue  # rows before these were lost, or skipped
            one.counts += counts
            one.slots += slots
            one.values += values
            self.bytes += len(counts) + len(slots) + len(values)
            if len(one.counts) == self.block * _COUNT.itemsize:
                self._close(request, one)
        self._log, self._log_rows, self._chains = [], 0, {}
        for request in self._open.keys() - self._open_chains.keys():  # they have ended
            self._drop(request)
        self._trim()

    def replay(self, span: Skipped, chain: Chain | None) -> Replay | None:
        """What is kept of ``span``, as if a step had computed it; None for nothing. What is not kept is in no row."""
        self.flush()
        indexes = range(span.first // self.block, -(-span.stop // self.block))
        # From the last to the first, so that beginnings, which most requests share, are what was used last.
        found = [(index, entry) for index in reversed(indexes) if (entry := self._take(chain, index))]
        return _step_of(span, self.block, found[::-1]) if found else None

    def clear(self) -> None:
        """Forgets everything: from here on another dictionary, watch set or mode, or a model with other weights."""
        self._kept.clear()
        self._open.clear()
        self._log, self._log_rows, self._chains = [], 0, {}
        self.bytes = 0

    def _drop(self, request: int) -> None:
        one = self._open.pop(request, None)
        if one is not None:
            self.bytes -= one.nbytes

    def _opened(self, request: int, index: int) -> _Open | None:
        self._drop(request)
        if request not in self._chains:
            return None
        one = self._open[request] = _Open(index)
        return one

    def _close(self, request: int, one: _Open) -> None:
        self._drop(request)
        digest = self._chains[request].digest(one.index) if request in self._chains else None
        if digest is None:
            return
        if digest not in self._kept:
            self._kept[digest] = bytes(one.counts + one.slots + one.values)
            self.bytes += one.nbytes + ENTRY_BYTES
        self._kept.move_to_end(digest)

    def _take(self, chain: Chain | None, index: int) -> bytes | None:
        digest = chain.digest(index) if chain is not None else None
        if digest is None or digest not in self._kept:
            return None
        self._kept.move_to_end(digest)
        return self._kept[digest]

    def _trim(self) -> None:
        while self.bytes > self.bound and self._kept:
            _, entry = self._kept.popitem(last=False)
            self.bytes -= len(entry) + ENTRY_BYTES
        if self.bytes > self.bound:  # open blocks alone
            self.clear()


def _pieces(steps: Sequence[Replay], block: int) -> Iterator[Piece]:
    """Rows of the ``steps`` that may be kept, by request; what lies between two pieces of one is lost."""
    settled, encoded = _joined(steps)
    fired = np.bincount(encoded.row, minlength=len(encoded.excluded))  # by row of the buffer
    whole = encoded.excluded | (~encoded.overflowed & (fired < EXCLUDED))
    taken = np.flatnonzero((settled.origin == Origin.COMPUTED) & whole[settled.row])
    taken = taken[np.argsort(settled.request[taken], kind="stable")]
    row, request, position = settled.row[taken], settled.request[taken], settled.position[taken]
    excluded = encoded.excluded[row]
    count = np.where(excluded, 0, fired[row])
    upto = np.cumsum(count)
    at = np.arange(count.sum()) + np.repeat((np.cumsum(fired) - fired)[row] - (upto - count), count)
    counts = np.where(excluded, EXCLUDED, count).astype(_COUNT).tobytes()
    slots, values = encoded.slot[at].astype(_SLOT).tobytes(), encoded.value[at].astype(_VALUE).tobytes()
    first = span_starts(request, position, position // block)
    stop = np.append(first[1:], len(row))[: len(first)]
    index, offset = np.divmod(position[first], block)
    begin, end = (upto - count)[first], upto[stop - 1]
    columns = [column.tolist() for column in (request[first], index, offset, first, stop, begin, end)]
    for number, of, place, low, high, start, last in zip(*columns, strict=True):
        yield number, of, place, counts[2 * low : 2 * high], slots[2 * start : 2 * last], values[4 * start : 4 * last]


def _joined(steps: Sequence[Replay]) -> Replay:
    """Several steps as one, whose buffer holds theirs one behind the other."""
    if len(steps) == 1:
        return steps[0]
    settled, encoded = [one for one, _ in steps], [one for _, one in steps]
    base = np.cumsum([0, *(len(one.excluded) for one in encoded[:-1])], dtype=np.int32)

    def rows(parts: Sequence[Settled | Encoded]) -> I32:
        return np.concatenate([part.row + first for part, first in zip(parts, base, strict=True)])

    def column(parts: Sequence[Settled | Encoded], name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    return (
        replace(
            settled[0],
            row=rows(settled),
            **{name: column(settled, name) for name in ("request", "position", "origin")},
        ),
        Encoded(rows(encoded), *(column(encoded, name) for name in ("slot", "value", "excluded", "overflowed"))),
    )


def _step_of(span: Skipped, block: int, found: Sequence[tuple[int, bytes]]) -> Replay:
    """The blocks as a step's rows, of which those in ``span`` count."""
    head = block * _COUNT.itemsize
    cuts = [head + (len(entry) - head) // (_SLOT.itemsize + _VALUE.itemsize) * _SLOT.itemsize for _, entry in found]
    counts = np.frombuffer(b"".join(entry[:head] for _, entry in found), _COUNT)
    slots = b"".join(entry[head:cut] for (_, entry), cut in zip(found, cuts, strict=True))
    values = b"".join(entry[cut:] for (_, entry), cut in zip(found, cuts, strict=True))
    position = (np.array([index for index, _ in found])[:, None] * block + np.arange(block)).reshape(-1)
    row = np.flatnonzero((position >= span.first) & (position < span.stop))
    excluded = counts == EXCLUDED
    settled = Settled(
        started=(),
        ended=(),
        fed=0,
        missed=(),
        row=row.astype(np.int32),
        request=np.full(len(row), span.request, np.uint32),
        position=position[row].astype(np.int32),
        origin=np.full(len(row), Origin.REUSED, np.uint8),
    )
    fired = np.repeat(np.arange(len(counts), dtype=np.int32), np.where(excluded, 0, counts))
    return settled, Encoded(
        row=fired,
        slot=np.frombuffer(slots, _SLOT),
        value=np.frombuffer(values, _VALUE),
        excluded=excluded,
        overflowed=np.zeros(len(counts), dtype=bool),
    )
