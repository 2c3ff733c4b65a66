"""The books of one stream, kept so that the design's equality holds at every moment.

    fed = encoded + reused + sum(missed) + in_flight

A token that was fed is *in flight* until its batch was acknowledged (*encoded* or *reused*, as its row says) or given
up (*missed*). Losses are kept until they were told: they travel in the missed columns of the next batch that goes out,
so that a sidecar that adds up batches arrives at the same numbers. Owned by the shipper's thread.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from saewatch.core import limits
from saewatch.core.batch import NO_REQUEST, FiringBatch, Origin, Reason, WatchSet
from saewatch.core.records import Beat, StreamBeat, StreamEnd, StreamOpen
from saewatch.engine.batching import Encoded, build
from saewatch.engine.chain import Chain
from saewatch.engine.ledger import Missed, Settled, Skipped, Step
from saewatch.engine.pool import Pool
from saewatch.engine.reuse import Replay, Reuse

OFF = "off"
"""The word for streams that are blind because somebody switched watching off."""
UNACKNOWLEDGED = 4096
"""Batches on their way: a minute of steps. A sidecar that reads and never acknowledges is sent no more after it."""
UNTOLD = 65_536
"""Losses that wait to be told, by request and reason. Beyond it they are booked to no request."""
STREAMS_ENDING = 16
"""Streams of one engine that have ended and were not told in full: their books are in each beat. Eight hook points
through two reloads, and far below `limits.STREAMS_KEPT`. Oldest out first, and the engine's log names it."""

_REASONS = tuple(Reason)


@dataclass(frozen=True, slots=True)
class Pending:
    """A batch that was queued and is not acknowledged: its rows, without what fired in them."""

    connection: int
    batch: FiringBatch
    rows: int  # that count
    firings: int


class Books:
    """One stream's counters, unacknowledged batches and untold losses."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.seq = 0
        self.fed = 0
        self.encoded = 0
        self.reused = 0
        self.firings = 0
        self.told = 0
        self.told_firings = 0
        self.sink_calls = 0
        self.fault = ""  # why it is blind for good
        self.paused = ""  # why it is blind for now
        self.missed: Counter[Reason] = Counter()
        self.untold: Counter[tuple[int, Reason]] = Counter()
        self._in_flight = 0
        self._known: set[int] = set()  # requests that the present connection was opened with
        self._pending: deque[Pending] = deque()

    @property
    def blind(self) -> str:
        """Why the stream sees nothing; empty: it sees."""
        return self.fault or self.paused

    @property
    def unacknowledged(self) -> int:
        """Batches on their way."""
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether no batch should be sent before one was acknowledged."""
        return len(self._pending) >= UNACKNOWLEDGED

    @property
    def settled(self) -> bool:
        """Whether everything has arrived or is missed, and was told."""
        return not self._pending and not self.untold

    def unresolved(self, connection: int) -> bool:
        """Whether it is not known yet what of an earlier connection than this one has arrived.

        No batch may be sent meanwhile: an acknowledgement is a highest number, and would cover the lost ones below it.
        """
        return bool(self._pending) and self._pending[0].connection < connection

    def owes(self, request: int) -> bool:
        """Whether a loss of ``request`` was not told yet."""
        return any((request, reason) in self.untold for reason in _REASONS)

    def take(self, fed: int, rows: int, missed: Iterable[Missed]) -> None:
        """A step was settled: ``fed`` tokens, of which ``rows`` have a batch to come and the others are missed."""
        self.fed += fed
        self._in_flight += rows
        self._book(missed)

    def skip(self, span: Skipped, rows: int) -> None:
        """Positions passed no layer; of ``rows`` of them it is known what fired, and that has a batch to come."""
        unseen, reason = span.tokens - rows, Reason.EXTERNAL if span.external else Reason.CACHED
        self.take(span.tokens, rows, [(span.request, reason, unseen)] if unseen else [])

    def leave_out(self, missed: Iterable[Missed]) -> None:
        """Tokens that were taken, and have no batch to come after all."""
        for request, reason, tokens in missed:
            self._in_flight -= tokens
            self._book([(request, reason, tokens)])

    def write_off(self, reason: Reason) -> None:
        """Tokens in flight that are in no batch: a fault came between. Nobody knows whose they were."""
        lost = self._in_flight - sum(item.rows for item in self._pending)
        if lost:
            self.leave_out([(NO_REQUEST, reason, lost)])

    def send(self, batch: FiringBatch, connection: int) -> None:
        """``batch`` was queued."""
        self.firings += batch.firings
        rows_only = replace(batch, row=batch.row[:0].copy(), slot=batch.slot[:0].copy(), value=batch.value[:0].copy())
        self._pending.append(Pending(connection, rows_only, batch.fresh_rows, batch.firings))

    def lose(self, batch: FiringBatch, reason: Reason, known: set[int] | None = None) -> None:
        """``batch`` will not arrive: its rows are missed, and what it told of other losses is to be told again.

        Requests that are not ``known`` to the present connection become NO_REQUEST.
        """
        self._in_flight -= batch.fresh_rows
        for request, tokens in counted_by_request(batch):
            self.missed[reason] += tokens
            self._untell(request, reason, tokens, known)
        for request, told, tokens in zip(batch.missed_request, batch.missed_reason, batch.missed_tokens, strict=True):
            self._untell(int(request), Reason(told), int(tokens), known)

    def acknowledge(self, seq: int, connection: int) -> None:
        """Everything up to ``seq`` has arrived. What an earlier connection took and is not among it is lost."""
        while self._pending and (self._pending[0].batch.seq <= seq or self._pending[0].connection < connection):
            item = self._pending.popleft()
            if item.batch.seq <= seq:
                reused = item.batch.reused_rows
                self._in_flight -= item.rows
                self.encoded += item.rows - reused
                self.reused += reused
                self.told += item.rows + int(item.batch.missed_tokens.sum())
                self.told_firings += item.firings
            else:
                self.firings -= item.firings
                self.lose(item.batch, Reason.GAP, self._known)

    def give_up(self, reason: Reason) -> None:
        """Nothing that is on its way will be acknowledged."""
        while self._pending:
            item = self._pending.popleft()
            self.firings -= item.firings
            self.lose(item.batch, reason)

    def forget(self, requests: set[int], *, known: bool) -> None:
        """Untold losses of all but the known ``requests`` (or of the unknown ones) are booked to no request."""
        if known:
            self._known = requests
            gone = [key for key in self.untold if key[0] not in requests]
        else:
            gone = [key for request in requests for reason in _REASONS if (key := (request, reason)) in self.untold]
        for request, reason in gone:
            self._owe(NO_REQUEST, reason, self.untold.pop((request, reason)))

    def tell(self, limit: int) -> list[Missed]:
        """Untold losses for the next batch, at most ``limit``."""
        told: list[Missed] = []
        for (request, reason), tokens in list(islice(self.untold.items(), limit)):
            now = min(tokens, limits.POSITION_MAX)  # the column is i32; what no request owns may be more
            told.append((request, reason, now))
            self.untold[request, reason] -= now
            if not self.untold[request, reason]:
                del self.untold[request, reason]
        return told

    def untell(self, told: Iterable[Missed]) -> None:
        """The batch that was to tell these losses did not come about."""
        for request, reason, tokens in told:
            self._owe(request, reason, tokens)

    def beat(self) -> StreamBeat:
        """The books as they stand."""
        return StreamBeat(
            stream=self.stream,
            seq=self.seq,
            fed=self.fed,
            encoded=self.encoded,
            reused=self.reused,
            missed={reason.label: tokens for reason, tokens in sorted(self.missed.items()) if tokens},
            in_flight=self._in_flight,
            firings=self.firings,
            told=self.told,
            told_firings=self.told_firings,
            sink_calls=self.sink_calls,
            blind=self.blind,
        )

    def _book(self, missed: Iterable[Missed]) -> None:
        for request, reason, tokens in missed:
            self.missed[reason] += tokens
            self._owe(request, reason, tokens)

    def _untell(self, request: int, reason: Reason, tokens: int, known: set[int] | None) -> None:
        self._owe(request if known is None or request in known else NO_REQUEST, reason, tokens)

    def _owe(self, request: int, reason: Reason, tokens: int) -> None:
        within = len(self.untold) < UNTOLD or (request, reason) in self.untold
        self.untold[request if within else NO_REQUEST, reason] += tokens


@dataclass(slots=True, kw_only=True, eq=False)
class Stream:
    """One stream as the sidecar is told of it, its books, and what fired before, for requests that skip it."""

    opening: StreamOpen
    watch: Sequence[WatchSet] = ()
    reuse: Reuse | None = None
    pool: Pool | None = None
    """Where it has pooled probes: then what fired is not kept for reuse, since it takes a request as a whole."""
    ending: str = ""
    """Why it ends: no step is booked to it any more."""
    books: Books = field(init=False)

    def __post_init__(self) -> None:
        self.books = Books(self.opening.stream)
        self.books.fault = self.opening.blind
        if self.pool is not None:
            self.reuse = None
            self.pool.watch(self.watch)

    def end(self, ending: str) -> None:
        """No step is booked to it any more: it keeps its books, and nothing that fired before."""
        self.ending, self.reuse, self.pool = ending, None, None

    def ended(self, reason: str) -> StreamEnd:
        """Its end, with the books as they stand."""
        final = self.books.beat()
        return StreamEnd(stream=final.stream, reason=reason, final=final)

    def fresh_reuse(self) -> Reuse | None:
        """An empty one of the same size, for a stream in the place of this one."""
        return None if self.reuse is None else Reuse(block=self.reuse.block, bound=self.reuse.bound)

    def turn(self, watch: Sequence[WatchSet]) -> None:
        """Another watch set from here on."""
        self.watch = watch
        if self.pool is not None:
            self.pool.watch(watch)
        if self.reuse is not None:
            self.reuse.clear()

    def replays(
        self, settled: Settled, encoded: Encoded | None, chains: Mapping[int, Chain]
    ) -> list[tuple[Skipped, Replay | None]]:
        """Keeps what fired in a step, and gives each span that it skipped what fired there before, if that is known."""
        if self.pool is not None:
            self.pool.follow(settled)
        # Where a stream is blind, a step may be lost, and then nobody knows the tokens that followed.
        reuse = None if self.books.blind else self.reuse
        if reuse is None:
            return [(span, None) for span in settled.skipped]
        if encoded is not None:  # first: a request may skip the very rows that another has in this step
            reuse.record(settled, encoded, chains)
        return [
            (span, None if span.external else reuse.replay(span, chains.get(span.request))) for span in settled.skipped
        ]

    def pooled(self, settled: Settled, encoded: Encoded) -> tuple[Settled, Encoded]:
        """A step with the values of pooled probes; tokens that have none are booked as missed."""
        if self.pool is None:
            return settled, encoded
        settled, encoded, lost = self.pool.take(settled, encoded)
        self.books.leave_out(lost)
        return settled, encoded

    def batch(self, step: Step, settled: Settled, encoded: Encoded, missed: Sequence[Missed]) -> FiringBatch:
        """The stream's next one."""
        return build(
            settled,
            encoded,
            stream=self.opening.stream,
            watch=self.watch[0].watch if self.watch else 0,
            seq=self.books.seq + 1,
            step=step.number,
            time_ns=step.time_ns,
            missed=missed,
        )


class Sight:
    """Why an engine's streams see nothing: for good (``fault``), for now (``pause``), or because somebody said *off*.

    ``fault`` and ``pause``, which has its number, are set on any thread.
    """

    def __init__(self) -> None:
        self.fault = ""
        self.pause = self._told = (0, "")
        self._resumed = 0
        self._off = False

    @property
    def news(self) -> bool:
        """Whether there is a pause that no stream was told of."""
        return self.pause is not self._told

    def turn(self, *, off: bool, resumes: int) -> None:
        """Steps of another state begin: switched off or not, and with the pause of that number over."""
        self._off, self._resumed = off, max(self._resumed, resumes)

    def tell(self, streams: Sequence[Stream]) -> bool:
        """Writes it into the books of ``streams``; True where it is news."""
        number, reason = self._told = self.pause
        paused = reason if number > self._resumed else OFF if self._off else ""
        before = [stream.books.blind for stream in streams]
        for stream in streams:
            stream.books.fault, stream.books.paused = stream.books.fault or self.fault, paused
        return before != [stream.books.blind for stream in streams]


def beat_of(streams: Sequence[Stream], *, time_ns: int, queue_bytes: int, stage_seconds: Mapping[str, float]) -> Beat:
    """The books of one engine's streams as they stand."""
    first = streams[0].opening
    return Beat(
        engine=first.engine,
        epoch=first.epoch,
        time_ns=time_ns,
        streams=tuple(stream.books.beat() for stream in streams),
        queue_bytes=queue_bytes,
        stage_seconds=stage_seconds,
    )


def counted_by_request(batch: FiringBatch) -> list[tuple[int, int]]:
    """Rows that were not reported before, by request."""
    kept = batch.origin != Origin.RECOMPUTED
    return list(zip(batch.request[kept].tolist(), batch.lengths[kept].tolist(), strict=True))
