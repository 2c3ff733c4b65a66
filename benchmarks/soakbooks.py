"""A sidecar that only adds up: every beat's books, and each request's rows beside what was fed of it.

What is watched may change meanwhile, as it commands (`soakchanges`): streams end and others open, each with books of
its own, and a request's rows are of any of them. No slot may be of another watch set than its batch says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soakchanges import Changes
from benchmarks.soakload import Answer
from saewatch.core.batch import FiringBatch, Origin, WatchSet
from saewatch.core.records import Ack, Beat, Record, RequestEnd, RequestStart, Result, StreamBeat, StreamEnd, StreamOpen
from saewatch.edge.sources import SocketSource


@dataclass(slots=True, eq=False)
class Booked:
    """One request."""

    name: str
    tokens: int = 0  # that came, as rows or as missed
    frontier: int = 0  # behind its last computed row
    fed: int = -1  # told when it ended


@dataclass(slots=True, eq=False)
class Streamed:
    """One stream."""

    opening: StreamOpen
    slots: dict[int, int] = field(default_factory=dict)  # by watch set
    seq: int = 0
    rows: Counter[Origin] = field(default_factory=Counter)
    final: StreamBeat | None = None


class SoakBooks:
    """Listens on ``path`` until `stop`; for one engine. The consumer of its own source."""

    def __init__(self, path: Path, changes: Changes | None = None) -> None:
        self.beats = 0
        self.ship_seconds = 0.0
        """CPU time of the engine's shipper."""
        self.requests: list[Booked] = []
        self.streams: dict[int, Streamed] = {}
        self._changes = changes
        self._found: list[str] = []
        self._numbers: dict[int, Booked] = {}
        self._source = SocketSource(path=str(path), consumer=self)
        self._source.start()

    def stop(self) -> None:
        """Reads what is left and stops."""
        self._source.stop()

    def connect(self, link: int) -> None:
        """The engine connects."""

    def disconnect(self, link: int) -> None:
        """It is gone."""

    def tick(self) -> None:
        """Nothing waits for time."""

    def acknowledge(self, link: int, stream: int) -> Ack | None:  # noqa: ARG002 - there is one link
        """All that came."""
        one = self.streams[stream]
        return Ack(stream=stream, epoch=one.opening.epoch, seq=one.seq)

    def receive(self, link: int, record: Record) -> None:
        """Adds it up."""
        match record:
            case StreamOpen():
                self.streams[record.stream] = Streamed(record)
            case WatchSet():
                self.streams[record.stream].slots[record.watch] = record.total
            case RequestStart():
                self._numbers[record.request] = Booked(record.engine_id.partition("-")[0])
                self.requests.append(self._numbers[record.request])
            case RequestEnd():
                self._numbers[record.request].fed = record.fed
                self._command(link)
            case FiringBatch():
                self._batch(self.streams[record.stream], record)
            case Beat():
                self.beats += 1
                self.ship_seconds = record.stage_seconds.get("ship", 0.0)
                for books in record.streams:
                    self._balance(f"beat {self.beats}", books)
            case StreamEnd():
                self.streams[record.stream].final = record.final
                self._balance("the last books", record.final)
            case Result() if self._changes:
                self._changes.answered(record)

    @property
    def ended(self) -> bool:
        """Whether every stream has."""
        return bool(self.streams) and all(one.final for one in self.streams.values())

    @property
    def rows(self) -> Counter[Origin]:
        """Of all streams."""
        return sum((one.rows for one in self.streams.values()), Counter[Origin]())

    def sums(self) -> dict[str, float]:
        """Of the streams' last books, how many rows came again, and what was changed."""
        total = Counter[str](fed=0, encoded=0, reused=0)
        missed = Counter[str]()
        for final in (one.final for one in self.streams.values() if one.final):
            total.update(fed=final.fed, encoded=final.encoded, reused=final.reused)
            missed.update({f"missed_{reason}": tokens for reason, tokens in final.missed.items()})
        return {**total, **dict(sorted(missed.items())), "recomputed": self.rows[Origin.RECOMPUTED]}

    def faults(self, answers: Mapping[str, Answer], *, surplus: int = 0) -> Iterator[str]:
        """Every violation. ``surplus``: tokens that may be on their way to a client when it leaves."""
        yield from self._found
        refused = {name: count for name, count in self._source.counters.items() if count}
        if refused:
            yield f"the sidecar refused {refused}"
        fed: Counter[str] = Counter()
        for one in self.requests:
            fed[one.name] += one.fed
            if one.tokens != one.fed:
                yield f"request {one.name}: {one.fed} fed, and {one.tokens} told of"
        for name, answer in answers.items():
            if not answer.fed <= fed[name] <= answer.fed + surplus * answer.left:
                yield f"request {name}: {fed[name]} fed, and its client knows of {answer.fed}"
        yield from self._last(fed.total())

    def _last(self, fed: int) -> Iterator[str]:
        off = "off" if self._changes and self._changes.off else ""
        for number, one in self.streams.items():
            final, rows = one.final, one.rows
            if final is None:
                yield f"stream {number} never ended"
            elif (final.encoded, final.reused) != (rows[Origin.COMPUTED], rows[Origin.REUSED]):
                told = f"{final.encoded} encoded, {final.reused} reused"
                yield f"stream {number}: {told} by its last books, and rows {dict(rows)}"
            elif final.in_flight or final.blind not in ("", off):
                yield f"stream {number}: at the end {final.in_flight} in flight, and blind: {final.blind!r}"
        booked = sum(one.final.fed for one in self.streams.values() if one.final)
        if booked != fed or not self.streams:
            yield f"{booked} fed by the last books; {fed} fed by the requests"

    def _batch(self, stream: Streamed, batch: FiringBatch) -> None:
        stream.seq = batch.seq
        if batch.firings and int(batch.slot.max()) >= stream.slots.get(batch.watch, 0):
            self._found.append(f"batch {batch.seq}: slot {batch.slot.max()} of watch set {batch.watch}")
        columns = (batch.request, batch.position, batch.lengths, batch.origin)
        for number, position, rows, kind in zip(*(column.tolist() for column in columns), strict=True):
            one, origin = self._numbers[number], Origin(kind)
            stream.rows[origin] += rows
            if origin == Origin.RECOMPUTED:
                continue
            one.tokens += rows
            if origin == Origin.COMPUTED:
                if position < one.frontier:
                    self._found.append(f"request {one.name}: position {position} came as new again")
                one.frontier = position + rows
        for number, tokens in zip(batch.missed_request.tolist(), batch.missed_tokens.tolist(), strict=True):
            self._numbers[number].tokens += tokens

    def _balance(self, when: str, books: StreamBeat) -> None:
        if books.imbalance:
            self._found.append(f"{when}, stream {books.stream}: {books.fed} fed, {books.accounted} accounted for")

    def _command(self, link: int) -> None:
        command = self._changes.request_ended() if self._changes else None
        if command is not None:
            self._source.send(link, command)
