"""The sink that subscribers read from: gathers events, keeps the last ones in a ring, and encodes each once.

Lives on the event loop alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from saewatch.core import limits
from saewatch.edge.pb import firing_pb2
from saewatch.edge.pipeline import Dropped, Item
from saewatch.edge.rpc import messages, wire
from saewatch.edge.rpc.bell import Bell
from saewatch.edge.rpc.filters import Filter
from saewatch.edge.rpc.gather import Gathered, Gatherer
from saewatch.edge.rpc.places import Account
from saewatch.edge.rpc.ring import Entry, Ring
from saewatch.monitor.events import Observed, RequestEnded, Standing

Shown = Gathered | RequestEnded | Standing | Dropped

BATCH, TABLE, COVERAGE, GAP, HEARTBEAT, ENDED, DRAIN = range(1, 8)
"""Fields of WatchFiringsResponse.event."""


@dataclass(slots=True, eq=False)
class Readers:
    """The subscribers that have the same filter."""

    wanted: Filter
    count: int = 0


class Feed:
    """Events for subscribers. ``on_lag`` is told, in seconds, how long each batch took from its step to the ring.

    ``clock`` is the one that the steps were timed with, in nanoseconds since 1970.
    """

    name = "grpc"

    def __init__(
        self,
        *,
        on_lag: Callable[[Sequence[float]], None],
        bound: int = limits.REPLAY_BYTES,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.ring: Ring[Shown] = Ring(bound)
        self.account = Account()
        self._clock = clock
        self._on_lag = on_lag
        self._gatherer = Gatherer()
        self._timer: asyncio.TimerHandle | None = None
        self._lags: list[int] = []  # times of the steps that wait
        self.bell = Bell()
        self._readers: dict[Filter, Readers] = {}
        self._encoded: OrderedDict[tuple[int, Readers], bytes | None] = OrderedDict()
        self.encodings = 0
        """Events encoded so far."""
        self.encoded_bytes = 0
        """Bytes of the encodings that are kept."""

    def take(self, items: Iterable[Item]) -> None:
        """Takes what the pipeline has."""
        for item in items:
            if isinstance(item, Observed):
                self._lags.append(item.batch.time_ns)
                if self._gatherer.add(item, time.monotonic_ns()):
                    self.flush()
            elif isinstance(item, RequestEnded | Standing | Dropped):
                self.flush()
                self._append(item)
        self._set_timer()

    def flush(self) -> None:
        """Everything gathered goes into the ring."""
        for gathered in self._gatherer.flush():
            self._append(gathered)
        if self._lags:
            now = self._clock()
            self._on_lag([max(now - then, 0) / 1e9 for then in self._lags])
            self._lags.clear()

    @property
    def encodings_kept(self) -> int:
        """Events that are kept encoded, or found to be of no interest."""
        return len(self._encoded)

    def enter(self, wanted: Filter) -> Readers:
        """A subscriber comes."""
        readers = self._readers.setdefault(wanted, Readers(wanted))
        readers.count += 1
        return readers

    def leave(self, readers: Readers) -> None:
        """It goes; with the last one of its filter what was encoded for it."""
        readers.count -= 1
        if not readers.count:
            del self._readers[readers.wanted]
            for key in [key for key in self._encoded if key[1] is readers]:
                self.encoded_bytes -= len(self._encoded.pop(key) or b"")

    def encoded(self, entry: Entry[Shown], readers: Readers) -> bytes | None:
        """The event as a field of WatchFiringsResponse; None when nothing of it is wanted."""
        key = (entry.at.event, readers)
        if key not in self._encoded:
            data = self._encoded[key] = _encode(entry, readers.wanted)
            self.encodings += 1
            self.encoded_bytes += len(data or b"")
            while self.encoded_bytes > limits.ENCODINGS_BYTES or len(self._encoded) > 4096:
                _, old = self._encoded.popitem(last=False)
                self.encoded_bytes -= len(old or b"")
            return data
        return self._encoded[key]

    def _append(self, item: Shown) -> None:
        if isinstance(item, Gathered | Dropped):
            self.account.give(item)
        elif isinstance(item, Standing):
            self.account.learn(item)
        places = self.account.places
        if isinstance(item, Gathered):
            self.ring.append(item, size=item.nbytes, tokens=item.tokens, firings=item.batch.firings, places=places)
        elif isinstance(item, Dropped):
            self.ring.append(item, size=64, tokens=item.tokens, firings=item.firings, places=places)
        else:
            self.ring.append(item, size=512, places=places)
        self.bell.ring()

    def _set_timer(self) -> None:
        due = self._gatherer.due_ns
        if due is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(due - time.monotonic_ns(), 0) / 1e9, self.flush)


def _encode(entry: Entry[Shown], wanted: Filter) -> bytes | None:
    item = entry.item
    if isinstance(item, Standing):
        return wire.delimited(COVERAGE, messages.coverage(item).SerializeToString())
    if isinstance(item, Dropped):
        gap = firing_pb2.Gap(
            reason=firing_pb2.GAP_REASON_OVERLOAD,
            first_event=entry.at.event,
            last_event=entry.at.event,
            tokens=item.tokens,
            firings=item.firings,
        )
        return wire.delimited(GAP, gap.SerializeToString())
    if isinstance(item, RequestEnded):
        wants = wanted.wants(item.identity)
        return wire.delimited(ENDED, messages.ended(item).SerializeToString()) if wants else None
    left = wanted.apply(item) if wanted.chooses_requests or wanted.chooses_firings else item
    return wire.delimited(BATCH, _batch(left)) if left else None


def _batch(gathered: Gathered) -> bytes:
    attested = gathered.table.stream.adapters
    return wire.firing_batch(
        gathered.batch,
        table=gathered.table.number,
        stream=gathered.table.stream.number,
        requests=[messages.request_field(one, attested) for one in gathered.requests],
        first_seq=gathered.first_seq,
        first_time_ns=gathered.first_time_ns,
    )
