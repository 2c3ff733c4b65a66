"""A shipper with a real socket, the engine that feeds it, and what must be true of what arrives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import NO_REQUEST, FiringBatch, Origin, Reason, SlotKind, WatchSet
from saewatch.core.records import (
    Beat,
    RequestEnd,
    RequestStart,
    StreamBeat,
    StreamOpen,
)
from saewatch.engine.batching import Encoded
from saewatch.engine.books import Stream
from saewatch.engine.commands import Carried
from saewatch.engine.ledger import NewRequest, Step
from saewatch.engine.outbox import Outbox
from saewatch.engine.reuse import Reuse
from saewatch.engine.shipper import Shipper
from saewatch.engine.staging import Note
from tests.simulate.engine import Engine, Simulated, Traffic
from tests.simulate.sidecar import FakeSidecar, last_beat
from tests.waiting import wait_until

SLOTS = 8
BUSY = Traffic(requests=150, prompt_max=600, output_max=5, budget=4096, running_max=64, arrivals=1.0)
"""Much more than the queue and the kernel take."""
TRAFFIC = Traffic(requests=12, prompt_max=200, output_max=60, stops=0.005, preempted=0.02, drafts=2, asynchronous=True)


def watch_set(stream: int) -> WatchSet:
    every = np.arange(SLOTS, dtype=np.uint32)
    kinds = np.full(SLOTS, SlotKind.LATENT, np.uint8)
    floors = np.zeros(SLOTS, np.float32)
    return WatchSet(
        stream=stream, watch=9, digest="sha256:" + "0" * 64, first=0, total=SLOTS, row=every, floor=floors, kind=kinds
    )


def opening(stream: int) -> StreamOpen:
    return StreamOpen(stream=stream, engine="engine-0", epoch=77, hook_point="resid_post.1", model_name="m")


def firings_at(position: int) -> dict[int, float]:
    """What fires at a position, by slot."""
    return {slot: position + slot / 8 for slot in range(SLOTS) if (7 * position + 3 * slot) % 5 == 0}


def left_out(position: int) -> Reason | None:
    return Reason.EXCLUDED if position % 97 == 5 else Reason.OVERFLOW if position % 101 == 7 else None


def encoded_of(step: Step) -> Encoded:
    """The firings of a step's rows, rejected drafts and all."""
    assert step.starts is not None
    assert step.positions is not None
    positions = step.positions[: int(step.starts[-1])].astype(np.int64)
    fires = (7 * positions[:, None] + 3 * np.arange(SLOTS)) % 5 == 0
    row, slot = np.nonzero(fires)
    return Encoded(
        row=row.astype(np.int32),
        slot=slot.astype(np.uint16),
        value=(positions[row] + slot / 8).astype(np.float32),
        excluded=positions % 97 == 5,
        overflowed=positions % 101 == 7,
    )


@dataclass(slots=True)
class Run:
    """A shipper, and the engine that feeds it."""

    shipper: Shipper
    streams: list[Stream]
    engine: Engine
    steps: list[Simulated]
    released: int = 0
    captured: int = 0

    @property
    def books(self) -> StreamBeat:
        return self.streams[0].books.beat()

    @property
    def fed(self) -> int:
        """The truth."""
        return sum(len(request.seen) for request in self.engine.requests.values())

    def put(self, count: int | None = None) -> None:
        """The next ``count`` steps, or all that are left."""
        count = len(self.steps) if count is None else count
        for simulated in self.steps[:count]:
            self.put_step(simulated.step)
        del self.steps[:count]

    def put_step(self, step: Step) -> None:
        if step.positions is None:
            self.shipper.put(Note(step=step))
            return
        self.captured += 1
        encoded, positions = [encoded_of(step)] * len(self.streams), step.positions
        self.shipper.put(
            Note(
                step=replace(step, positions=None),
                read=lambda: encoded,
                positions=lambda: positions,
                release=self._release,
            )
        )

    def _release(self) -> None:
        self.released += 1


@dataclass(slots=True, kw_only=True)
class Bench:
    """Makes shippers on one socket path and stops them."""

    path: Path
    runs: list[Run]

    def open(
        self,
        *,
        seed: int = 0,
        traffic: Traffic = TRAFFIC,
        streams: int = 1,
        bound: int = limits.QUEUE_BYTES,
        beat_s: float = 0.02,
        commands: Mapping[str, Carried] | None = None,
        reuse: int = 0,
    ) -> Run:
        """``reuse``: tokens of a block of the prefix cache, whose firings are kept."""
        several = [
            Stream(
                opening=opening(stream),
                watch=[watch_set(stream)],
                reuse=Reuse(block=reuse, bound=limits.REUSE_BYTES) if reuse else None,
            )
            for stream in range(streams)
        ]
        shipper = Shipper(
            outbox=Outbox(path=str(self.path), bound=bound),
            streams=several,
            counters=lambda: [5] * streams,
            stages=lambda: {"encode": 0.5},
            commands=commands,
            beat_every_s=beat_s,
            connect_every_s=0.02,
        )
        engine = Engine(traffic, seed)
        run = Run(shipper, several, engine, list(engine.steps()))
        self.runs.append(run)
        shipper.start()
        return run


def at_rest(run: Run, sidecar: FakeSidecar) -> StreamBeat:
    """The books when the sidecar has been told of everything that was fed."""

    def rests() -> bool:
        beat = last_beat(sidecar.records)
        return beat is not None and all(
            books.in_flight == 0 and books.fed == run.fed and not run.streams[books.stream].books.untold
            for books in beat.streams
        )

    wait_until(rests)
    beat = last_beat(sidecar.records)
    assert beat is not None
    assert all(books.imbalance == 0 for item in sidecar.of(Beat) for books in item.streams)
    return beat.streams[0]


def check_connections(run: Run, sidecar: FakeSidecar) -> Counter[tuple[str, int]]:
    """Each connection explains its numbers first, and each row says the right thing. Gives the rows that came."""
    came: Counter[tuple[str, int]] = Counter()
    for records in sidecar.connections:
        names: dict[int, str] = {}
        seq = dict.fromkeys(range(len(run.streams)), 0)
        for record in records:
            if isinstance(record, RequestStart):
                names[record.request] = record.engine_id
            elif isinstance(record, FiringBatch):
                assert record.seq > seq[record.stream]
                seq[record.stream] = record.seq
                assert set(record.missed_request.tolist()) <= {NO_REQUEST, *names}
                came += rows_came(record, names) if record.stream == 0 else Counter()
            elif isinstance(record, RequestEnd):
                assert record.fed == len(run.engine.requests[names[record.request]].seen)
    return came


def rows_came(batch: FiringBatch, names: dict[int, str]) -> Counter[tuple[str, int]]:
    came: Counter[tuple[str, int]] = Counter()
    requests, positions = batch.row_positions()
    origins = np.repeat(batch.origin, np.diff(batch.span_start))
    for row, (request, position) in enumerate(zip(requests.tolist(), positions.tolist(), strict=True)):
        at = batch.row == row
        assert dict(zip(batch.slot[at].tolist(), batch.value[at].tolist(), strict=True)) == firings_at(position)
        if origins[row] == Origin.COMPUTED:
            came[names[request], position] += 1
    return came


def seen_rows(run: Run) -> set[tuple[str, int]]:
    """Rows that a sidecar which loses nothing gets."""
    return {
        (request.name, position)
        for request in run.engine.requests.values()
        for position, reason in request.seen.items()
        if reason is None and left_out(position) is None
    }


def long_step(rows: int, firings: int, number: int = 1) -> tuple[Step, Encoded]:
    """A prompt of ``rows`` tokens of which each fires ``firings`` times."""
    step = Step(
        number=number,
        time_ns=1,
        new=[NewRequest(engine_id=f"long-{number}", prompt_len=rows, computed=0)],
        computed={f"long-{number}": rows},
        emitted={f"long-{number}": (1,)},
        order=[f"long-{number}"],
        starts=np.array([0, rows], np.int32),
        positions=np.arange(rows, dtype=np.int32),
    )
    none = np.zeros(rows, bool)
    row = np.repeat(np.arange(rows, dtype=np.int32), firings)
    slot = np.tile(np.arange(firings, dtype=np.uint16), rows)
    return step, Encoded(row, slot, np.ones(rows * firings, np.float32), none, none)
