"""A sidecar that only adds up: every beat's books, and each request's rows beside what was fed of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soakload import Answer
from saewatch.core.batch import FiringBatch, Origin
from saewatch.core.records import Ack, Beat, Record, RequestEnd, RequestStart, StreamBeat, StreamEnd, StreamOpen
from saewatch.edge.sources import SocketSource


@dataclass(slots=True, eq=False)
class Booked:
    """One request."""

    name: str
    tokens: int = 0  # that came, as rows or as missed
    frontier: int = 0  # behind its last computed row
    fed: int = -1  # told when it ended


class SoakBooks:
    """Listens on ``path`` until `stop`; for one engine with one stream. The consumer of its own source."""

    def __init__(self, path: Path) -> None:
        self.beats = 0
        self.final: StreamBeat | None = None
        self.requests: list[Booked] = []
        self.rows: Counter[Origin] = Counter()
        self._found: list[str] = []
        self._numbers: dict[int, Booked] = {}
        self._opening: StreamOpen | None = None
        self._seq = 0
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
        return Ack(stream=stream, epoch=self._opening.epoch, seq=self._seq) if self._opening else None

    def receive(self, link: int, record: Record) -> None:  # noqa: ARG002 - there is one link
        """Adds it up."""
        match record:
            case StreamOpen():
                self._opening = record
            case RequestStart():
                self._numbers[record.request] = Booked(record.engine_id.partition("-")[0])
                self.requests.append(self._numbers[record.request])
            case RequestEnd():
                self._numbers[record.request].fed = record.fed
            case FiringBatch():
                self._batch(record)
            case Beat():
                self.beats += 1
                for books in record.streams:
                    self._balance(f"beat {self.beats}", books)
            case StreamEnd():
                self.final = record.final
                self._balance("the last books", record.final)

    def sums(self) -> dict[str, float]:
        """Of the last books, and how many rows came again."""
        final = self.final or StreamBeat(stream=0, seq=0)
        missed = {f"missed_{reason}": tokens for reason, tokens in sorted(final.missed.items())}
        fed = {"fed": final.fed, "encoded": final.encoded, "reused": final.reused, **missed}
        return {**fed, "recomputed": self.rows[Origin.RECOMPUTED]}

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
        final, rows = self.final, self.rows
        if final is None:
            yield "the stream never ended"
        elif (final.fed, final.encoded, final.reused) != (fed, rows[Origin.COMPUTED], rows[Origin.REUSED]):
            told = f"{final.fed} fed, {final.encoded} encoded, {final.reused} reused"
            yield f"{told} by the last books; {fed} fed by the requests, and rows {dict(rows)}"
        elif final.blind or final.in_flight:
            yield f"at the end {final.in_flight} in flight, and blind: {final.blind!r}"

    def _batch(self, batch: FiringBatch) -> None:
        self._seq = batch.seq
        columns = (batch.request, batch.position, batch.lengths, batch.origin)
        for number, position, rows, kind in zip(*(column.tolist() for column in columns), strict=True):
            one, origin = self._numbers[number], Origin(kind)
            self.rows[origin] += rows
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
            self._found.append(f"{when}: {books.fed} fed, and {books.accounted} accounted for")
