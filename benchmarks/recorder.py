"""A sidecar that only remembers: the records of one engine, read from a real socket, as `Comparison` wants them.

Each stage of a pipeline connects for itself, as an engine of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy.demo.collect import Seen
from saewatch.core.batch import FiringBatch, Origin, Reason, SlotKind, WatchSet
from saewatch.core.records import Ack, Record, RequestEnd, RequestStart, StreamBeat, StreamEnd, StreamOpen
from saewatch.edge.pb.saewatch.v1 import common_pb2
from saewatch.edge.sources import SocketSource


@dataclass(slots=True)
class Table:
    """A watch set, in the API's columns."""

    slot_unit: list[int] = field(default_factory=list)
    slot_kind: list[int] = field(default_factory=list)
    slot_floor: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Heard:
    """One stream; ``seen`` is keyed by the engine's id of a request and 0, and so is what was computed ``again``."""

    opening: StreamOpen
    table: Table = field(default_factory=Table)
    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)
    again: dict[tuple[str, int], Seen] = field(default_factory=dict)
    seq: int = 0
    final: StreamBeat | None = None

    @property
    def tables(self) -> dict[int, Table]:
        """As a collector has them."""
        return {1: self.table}


class Recorder:
    """Listens on ``path`` until `stop`. The consumer of its own source.

    ``streams`` has the streams by their numbers; those of a later stage of a pipeline count from 101.
    """

    def __init__(self, path: Path) -> None:
        self.streams: dict[int, Heard] = {}
        self.starts: dict[tuple[int, str], RequestStart] = {}
        """In their order, by stage and name; an id that comes again has the number of its turn behind it."""
        self.ends: dict[tuple[int, str], RequestEnd] = {}
        self._links: dict[tuple[int, int], Heard] = {}  # by connection and stream
        self._stage: dict[int, int] = {}  # of a connection
        self._names: dict[tuple[int, int], str] = {}  # by connection and request
        self._twice: Counter[str] = Counter()
        self._source = SocketSource(path=str(path), consumer=self)
        self._source.start()

    @property
    def refused(self) -> dict[str, int]:
        """Frames and records that made no sense, and streams that two processes claim as theirs."""
        return {name: count for name, count in self._source.counters.items() if count} | self._twice

    def stop(self) -> None:
        """Reads what is left and stops."""
        self._source.stop()

    def connect(self, link: int) -> None:
        """One engine connects, once."""

    def disconnect(self, link: int) -> None:
        """It is gone."""

    def tick(self) -> None:
        """Nothing waits for time."""

    def acknowledge(self, link: int, stream: int) -> Ack | None:
        """All that came."""
        heard = self._links.get((link, stream))
        return Ack(stream=stream, epoch=heard.opening.epoch, seq=heard.seq) if heard else None

    def receive(self, link: int, record: Record) -> None:
        """Keeps it."""
        match record:
            case StreamOpen():
                self._stage[link] = record.pp_rank
                number = 100 * record.pp_rank + record.stream
                self._twice.update({"opened twice": 1} if number in self.streams else {})
                self.streams[number] = self._links[link, record.stream] = Heard(record)
            case WatchSet():
                self._watch(self._links[link, record.stream].table, record)
            case RequestStart():
                self._start(link, record)
            case RequestEnd():
                self.ends[self._stage[link], self._names.get((link, record.request), "")] = record
            case FiringBatch():
                self._batch(link, record)
            case StreamEnd():
                self._links[link, record.stream].final = record.final

    def _watch(self, table: Table, part: WatchSet) -> None:
        table.slot_unit += part.row.tolist()
        table.slot_kind += [1 if kind == SlotKind.LATENT else 2 for kind in part.kind.tolist()]
        table.slot_floor += part.floor.tolist()

    def _start(self, link: int, record: RequestStart) -> None:
        stage, turns = self._stage[link], 1
        name = record.engine_id
        while (known := self.starts.get((stage, name))) and known.request != record.request:
            turns += 1
            name = f"{record.engine_id}#{turns}"
        self.starts[stage, name] = record
        self._names[link, record.request] = name

    def _batch(self, link: int, batch: FiringBatch) -> None:
        heard = self._links[link, batch.stream]
        heard.seq = batch.seq
        for span, number in enumerate(batch.request.tolist()):
            first, last = batch.span_start[span], batch.span_start[span + 1]
            fired = slice(*np.searchsorted(batch.row, [first, last]).tolist())
            kept = heard.again if batch.origin[span] == Origin.RECOMPUTED else heard.seen
            request = self._request(kept, link, number)
            request.position.append(int(batch.position[span]) + np.arange(last - first, dtype=np.int64))
            request.fired_position.append(batch.row[fired].astype(np.int64) - first + int(batch.position[span]))
            request.slot.append(batch.slot[fired].astype(np.int64))
            request.value.append(batch.value[fired].copy())
        for number, reason, tokens in zip(
            batch.missed_request.tolist(), batch.missed_reason.tolist(), batch.missed_tokens.tolist(), strict=True
        ):
            self._request(heard.seen, link, number).missed[_api_reason(reason)] += tokens

    def _request(self, kept: dict[tuple[str, int], Seen], link: int, number: int) -> Seen:
        return kept.setdefault((self._names.get((link, number), ""), 0), Seen(common_pb2.Request()))


def _api_reason(reason: int) -> int:
    name: Any = f"MISSED_REASON_{Reason(reason).name}"
    return int(common_pb2.MissedReason.Value(name))
