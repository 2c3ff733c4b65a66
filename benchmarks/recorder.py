"""A sidecar that only remembers: the records of one engine, read from a real socket, as `Comparison` wants them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy.demo.collect import Seen
from saewatch.core.batch import FiringBatch, Reason, SlotKind, WatchSet
from saewatch.core.records import Ack, Record, RequestStart, StreamBeat, StreamEnd, StreamOpen
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
    """One stream; ``seen`` is keyed by the engine's id of a request and 0."""

    opening: StreamOpen
    table: Table = field(default_factory=Table)
    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)
    seq: int = 0
    final: StreamBeat | None = None

    @property
    def tables(self) -> dict[int, Table]:
        """As a collector has them."""
        return {1: self.table}


class Recorder:
    """Listens on ``path`` until `stop`. The consumer of its own source."""

    def __init__(self, path: Path) -> None:
        self.streams: dict[int, Heard] = {}
        self._names: dict[int, str] = {}
        self._source = SocketSource(path=str(path), consumer=self)
        self._source.start()

    @property
    def refused(self) -> dict[str, int]:
        """Frames and records that made no sense."""
        return {name: count for name, count in self._source.counters.items() if count}

    def stop(self) -> None:
        """Reads what is left and stops."""
        self._source.stop()

    def connect(self, link: int) -> None:
        """One engine connects, once."""

    def disconnect(self, link: int) -> None:
        """It is gone."""

    def tick(self) -> None:
        """Nothing waits for time."""

    def acknowledge(self, link: int, stream: int) -> Ack | None:  # noqa: ARG002 - there is one link
        """All that came."""
        heard = self.streams.get(stream)
        return Ack(stream=stream, epoch=heard.opening.epoch, seq=heard.seq) if heard else None

    def receive(self, link: int, record: Record) -> None:  # noqa: ARG002 - there is one link
        """Keeps it."""
        match record:
            case StreamOpen():
                self.streams[record.stream] = Heard(record)
            case WatchSet():
                self._watch(self.streams[record.stream].table, record)
            case RequestStart():
                self._names[record.request] = record.engine_id
            case FiringBatch():
                self._batch(self.streams[record.stream], record)
            case StreamEnd():
                self.streams[record.stream].final = record.final

    def _watch(self, table: Table, part: WatchSet) -> None:
        table.slot_unit += part.row.tolist()
        table.slot_kind += [1 if kind == SlotKind.LATENT else 2 for kind in part.kind.tolist()]
        table.slot_floor += part.floor.tolist()

    def _batch(self, heard: Heard, batch: FiringBatch) -> None:
        heard.seq = batch.seq
        for span, number in enumerate(batch.request.tolist()):
            first, last = batch.span_start[span], batch.span_start[span + 1]
            fired = slice(*np.searchsorted(batch.row, [first, last]).tolist())
            request = self._request(heard, number)
            request.position.append(int(batch.position[span]) + np.arange(last - first, dtype=np.int64))
            request.fired_position.append(batch.row[fired].astype(np.int64) - first + int(batch.position[span]))
            request.slot.append(batch.slot[fired].astype(np.int64))
            request.value.append(batch.value[fired].copy())
        for number, reason, tokens in zip(
            batch.missed_request.tolist(), batch.missed_reason.tolist(), batch.missed_tokens.tolist(), strict=True
        ):
            self._request(heard, number).missed[_api_reason(reason)] += tokens

    def _request(self, heard: Heard, number: int) -> Seen:
        return heard.seen.setdefault((self._names.get(number, ""), 0), Seen(common_pb2.Request()))


def _api_reason(reason: int) -> int:
    name: Any = f"MISSED_REASON_{Reason(reason).name}"
    return int(common_pb2.MissedReason.Value(name))
