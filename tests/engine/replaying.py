"""One stream of the simulated engine with firings that are kept and replayed, and what a plain cache would know."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from saewatch.core.batch import FiringBatch, Origin, Reason
from saewatch.engine.batching import Encoded, losses
from saewatch.engine.books import Stream
from saewatch.engine.ledger import Ledger, Settled, Skipped, Step
from saewatch.engine.reuse import Reuse
from tests.engine.shipping import opening
from tests.simulate.engine import Engine, Simulated, Traffic

SLOTS = 6
ENDLESS = 2**30
Row = dict[int, float]
"""What fires on a position, by slot."""


def adapter_of(name: str) -> str:
    return "tuned" if zlib.crc32(name.encode()) % 3 == 0 else ""


def truth(ids: list[int], adapter: str) -> list[Row | None]:
    """What fires on each position, by everything up to it; None where the dictionary excludes it."""
    rows: list[Row | None] = []
    state = zlib.crc32(adapter.encode())
    for position, token in enumerate(ids):
        state = zlib.crc32(token.to_bytes(2, "little"), state)
        fired = {slot: (state >> 16) / 2**16 + slot for slot in range(SLOTS) if (state >> slot) & 3 == 0}
        rows.append(None if position == 0 or token % 13 == 5 else fired)
    return rows


def encoded_of(rows: list[Row | None], overflowed: list[bool]) -> Encoded:
    """As the encoder gives it: an excluded row has firings all the same, which nobody may see."""
    fired = [
        (index, slot, value)
        for index, row in enumerate(rows)
        for slot, value in (row if row is not None else {0: -1.0}).items()
    ]
    fired = [item for item in fired if not overflowed[item[0]]]
    return Encoded(
        row=np.array([index for index, _, _ in fired], np.int32),
        slot=np.array([slot for _, slot, _ in fired], np.uint16),
        value=np.array([value for _, _, value in fired], np.float32),
        excluded=np.array([row is None for row in rows], bool),
        overflowed=np.array(overflowed, bool),
    )


@dataclass
class World:
    """One stream of a simulated engine, and a sidecar that acknowledges all that it gets."""

    traffic: Traffic
    seed: int
    block: int
    bound: int = ENDLESS
    overflows: float = 0.0
    told: dict[tuple[str, int], Row] = field(default_factory=dict)
    counted: set[tuple[str, int]] = field(default_factory=set)
    missed: Counter[tuple[str, Reason]] = field(default_factory=Counter)
    reused: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.engine = Engine(self.traffic, self.seed)
        self.steps = list(self.engine.steps())
        self.random = Random(self.seed)
        self.ledger = Ledger(block=self.block)
        self.stream = Stream(opening=opening(0), reuse=Reuse(block=self.block, bound=self.bound))
        self.names: dict[int, str] = {}
        self.whole: set[tuple[str, tuple[int, ...]]] = set()  # what a cache without bounds knows
        self.good: dict[str, set[int]] = {}  # positions that may be kept
        self.rows = {name: truth(request.ids, adapter_of(name)) for name, request in self.engine.requests.items()}

    def settle(self, simulated: Simulated) -> tuple[Settled, Encoded | None]:
        """As the shipper does; nothing is lost on the way."""
        new = [replace(item, adapter=adapter_of(item.engine_id)) for item in simulated.step.new]
        step = replace(simulated.step, new=new)
        settled, encoded = self.ledger.settle(step), self._encoded(step, simulated)
        self.names |= {start.request: start.engine_id for start in settled.started}
        books, fed = self.stream.books, settled.fed
        for span, known in self.stream.replays(settled, encoded, self.ledger.chains):
            fed -= span.tokens
            books.skip(span, len(known[0].row) if known else 0)
            self._miss([(span.request, Reason.CACHED, span.tokens - (len(known[0].row) if known else 0))])
            if known:
                self._report(step, *known)
        books.take(fed, int((settled.origin != Origin.RECOMPUTED).sum()), settled.missed)
        self._miss(list(settled.missed))
        if encoded is not None:
            self._report(step, settled, encoded)
        assert (books.beat().imbalance, books.beat().in_flight) == (0, 0)
        return settled, encoded

    def _encoded(self, step: Step, simulated: Simulated) -> Encoded | None:
        """Rows that do not count, such as rejected drafts, fire too."""
        if step.positions is None or step.starts is None:
            return None
        rows: list[Row | None] = [{SLOTS: 1e9}] * int(step.starts[-1])
        for row, name, position, _ in simulated.rows:
            rows[row] = self.rows[name][position]
        return encoded_of(rows, [self.random.random() < self.overflows for _ in rows])

    def _miss(self, missed: list[tuple[int, Reason, int]]) -> None:
        for request, reason, tokens in missed:
            self.missed[self.names[request], reason] += tokens

    def _report(self, step: Step, settled: Settled, encoded: Encoded) -> None:
        left_out = losses(settled, encoded)
        self.stream.books.leave_out(left_out)
        self._miss(left_out)
        batch = self.stream.batch(step, settled, encoded, self.stream.books.tell(1000))
        batch.check()
        self.stream.books.seq += 1
        self.stream.books.send(batch, 1)
        self.stream.books.acknowledge(batch.seq, 1)
        self._take(batch)

    def _take(self, batch: FiringBatch) -> None:
        """What a sidecar learns of it."""
        requests, positions = batch.row_positions()
        origins = np.repeat(batch.origin, batch.lengths).tolist()
        fired: list[Row] = [{} for _ in origins]
        for row, slot, value in zip(batch.row.tolist(), batch.slot.tolist(), batch.value.tolist(), strict=True):
            fired[row][slot] = value
        for number, position, origin, row in zip(requests.tolist(), positions.tolist(), origins, fired, strict=True):
            place = self.names[number], position
            if origin != Origin.RECOMPUTED:
                assert place not in self.counted, "each position once"
                self.counted.add(place)
            self.told[place] = row
            self.reused |= {place} if origin == Origin.REUSED else set()

    def learn(self, settled: Settled, encoded: Encoded | None) -> None:
        """What a plain cache without bounds would know now."""
        if encoded is None:
            return
        for row, number, position, origin in zip(
            settled.row.tolist(), settled.request.tolist(), settled.position.tolist(), settled.origin, strict=True
        ):
            lost = encoded.overflowed[row] and not encoded.excluded[row]
            if origin == Origin.COMPUTED and not lost:
                name = self.names[number]
                good = self.good.setdefault(name, set())
                good.add(position)
                first = position // self.block * self.block
                if good.issuperset(range(first, first + self.block)):
                    ids = self.engine.requests[name].ids[: first + self.block]
                    self.whole.add((adapter_of(name), tuple(ids)))

    def known(self, span: Skipped) -> set[tuple[str, int]]:
        """Positions of a span that such a cache would replay."""
        name = self.names[span.request]
        ids = self.engine.requests[name].ids
        ends = {position: (position // self.block + 1) * self.block for position in range(span.first, span.stop)}
        return {
            (name, position)
            for position, end in ends.items()
            if (adapter_of(name), tuple(ids[:end])) in self.whole and self.rows[name][position] is not None
        }

    def check(self) -> None:
        """Every row says what fired; every fed position was told or missed, with its reason."""
        for (name, position), row in self.told.items():
            expected = self.rows[name][position]
            assert row == expected
        for name, request in self.engine.requests.items():
            told = sum((name, position) in self.counted for position in request.seen)
            assert told + sum(self.missed[name, reason] for reason in Reason) == len(request.seen)
