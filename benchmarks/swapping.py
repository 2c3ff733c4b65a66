"""What a client received across swaps of the dictionary, judged batch by batch under the digest that its stream names.

A batch is *mixed* when a firing in it is not what the dictionary of its stream gives for that token: too many, too few,
or another value. A token is *lost* when its client knows that it was fed and no batch shows it, unless the dictionary's
own data sheet leaves it out.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.oracle import Expected, Tally
from deploy.demo.chat import Answer
from deploy.demo.collect import Collector
from saewatch.client import Client
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb.saewatch.v1 import common_pb2, firing_pb2

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Encode = Callable[[Sequence[int]], Expected]
"""What one dictionary should give for a request's tokens."""
LEFT_OUT = common_pb2.MISSED_REASON_EXCLUDED
LOGIT_BAND = 1e-4
"""Difference of two logits, over the largest, within which float32 does not decide which token is next."""


class KeepingCollector(Collector):
    """Keeps every batch beside what it comes to."""

    def __init__(self, address: str) -> None:
        self.batches: list[firing_pb2.FiringBatch] = []
        super().__init__(address)

    def _batch(self, batch: firing_pb2.FiringBatch) -> None:
        self.batches.append(batch)
        super()._batch(batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One span of a batch."""

    batch: int
    table: int
    position: I64
    row: I64  # of each firing, from the span's first
    slot: I64
    value: F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What the slots of a feature table read: columns of `Expected`, and the floors."""

    weights: str
    unit: I64
    floor: F32


@dataclass(slots=True)
class Judged:
    """What came of it."""

    tally: Tally = field(default_factory=Tally)
    batches: int = 0
    mixed: set[int] = field(default_factory=set)
    """Batches, by their place."""
    lost: int = 0
    twice: int = 0
    unknown: int = 0
    """Requests that were answered and never seen."""
    rows: dict[str, int] = field(default_factory=dict)
    """Rows by the weights digest under which they came."""
    crossed: int = 0
    """Requests with rows under more than one stream."""


def parts_of(batches: Sequence[firing_pb2.FiringBatch]) -> dict[str, list[Part]]:
    """The spans by the client's id of their request; by the engine's where its label came too late to be counted."""
    found: dict[str, list[Part]] = defaultdict(list)
    for place, batch in enumerate(batches):
        tokens = np.array(batch.span_tokens, np.int64)
        starts = np.concatenate([[0], np.cumsum(tokens)])
        row, slot = np.array(batch.row, np.int64), np.array(batch.slot, np.int64)
        value = np.array(batch.value, np.float32)
        bounds = np.searchsorted(row, starts)
        for index, (request, position) in enumerate(zip(batch.span_request, batch.span_position, strict=True)):
            own = slice(bounds[index], bounds[index + 1])
            asked = batch.requests[request]
            found[asked.client_id or asked.engine_id].append(
                Part(
                    batch=place,
                    table=batch.table,
                    position=np.arange(position, position + tokens[index]),
                    row=row[own] - starts[index],
                    slot=slot[own],
                    value=value[own],
                )
            )
    return found


def table_of(table: firing_pb2.FeatureTable, *, latents: int) -> Table:
    """As batches need it; directions come after the dictionary's latents."""
    unit = np.array(table.slot_unit, np.int64)
    latent = np.array(table.slot_kind) == common_pb2.UNIT_KIND_LATENT
    floor = np.array(table.slot_floor, np.float32)
    return Table(weights=table.stream.weights_digest, unit=np.where(latent, unit, unit + latents), floor=floor)


def judge(
    answers: Mapping[str, Answer],
    batches: Sequence[firing_pb2.FiringBatch],
    tables: Mapping[int, Table],
    oracles: Mapping[str, Encode],
    *,
    left_out: Mapping[str, int],
    late: Mapping[str, str],
) -> Judged:
    """All batches, by the answers of the clients.

    Args:
        answers: by the client's id.
        batches: as they came.
        tables: by number.
        oracles: by weights digest.
        left_out: tokens of a request that its data sheet leaves out, as they were told; by the same name as its spans.
        late: the engine's id of requests whose label came too late, by the client's id.
    """
    judged = Judged(batches=len(batches))
    parts = parts_of(batches)
    for name, answer in answers.items():
        fed = [*answer.prompt, *answer.tokens[:-1]]
        known = late.get(name, name)
        own = parts.get(known, [])
        judged.unknown += not own
        positions = np.concatenate([np.zeros(0, np.int64), *(part.position for part in own)])
        seen = np.unique(positions)
        judged.twice += len(positions) - len(seen)
        judged.lost += len(fed) - len(seen) - left_out.get(known, 0)
        judged.crossed += len({part.table for part in own}) > 1
        _compare(judged, own, tables, oracles, fed)
    return judged


def _compare(
    judged: Judged, parts: Sequence[Part], tables: Mapping[int, Table], oracles: Mapping[str, Encode], fed: list[int]
) -> None:
    """One request's parts, each under the dictionary of its stream."""
    expected: dict[str, Expected] = {}
    for part in parts:
        table = tables[part.table]
        if table.weights not in expected:
            expected[table.weights] = oracles[table.weights](fed)
        dense = np.zeros((len(part.position), len(table.unit)), np.float32)
        dense[part.row, part.slot] = part.value
        before = judged.tally.mismatched
        judged.tally.add(dense, _rows(expected[table.weights], part.position), table.floor, table.unit)
        if judged.tally.mismatched > before:
            judged.mixed.add(part.batch)
        judged.rows[table.weights] = judged.rows.get(table.weights, 0) + len(part.position)


def _rows(expected: Expected, position: I64) -> Expected:
    columns = (expected.value, expected.margin, expected.largest, expected.norm)
    return Expected(*(column[position] for column in columns))


def late_of(client: Client, answers: Collection[str], collector: Collector) -> dict[str, str]:
    """The engine's id of those answered requests that no batch names by the client's id: the record knows both."""
    seen = {name for name, _ in collector.seen}
    found = {}
    for name in answers:
        if name not in seen:
            with contextlib.suppress(SaewatchError):  # of a request that was never seen there is no record
                found[name] = client.record(name)[0].request.engine_id
    return found


def left_out_of(collector: Collector) -> dict[str, int]:
    """Tokens that the data sheet leaves out, by the name of their request as `parts_of` has it."""
    return {name: int(seen.missed[LEFT_OUT]) for (name, _), seen in collector.seen.items()}


def differing(
    answers: Mapping[str, Answer], reference: Mapping[str, Answer], of: Callable[[str], str]
) -> Iterator[tuple[list[int], int, int]]:
    """Where an answer leaves that of the run without swaps: the tokens before, and the next one of either.

    ``of``: the name in ``reference`` of the same request.
    """
    for name, answer in answers.items():
        other = reference[of(name)]
        if answer.tokens == other.tokens:
            continue
        same = next(
            (at for at, (a, b) in enumerate(zip(answer.tokens, other.tokens, strict=False)) if a != b),
            min(len(answer.tokens), len(other.tokens)),
        )
        pair = [one.tokens[same] if same < len(one.tokens) else -1 for one in (answer, other)]
        yield [*answer.prompt, *answer.tokens[:same]], pair[0], pair[1]


def near(logits: Any, left: int, right: int) -> bool:
    """Whether float32 does not decide between two tokens, with these logits for the next one."""
    return bool(min(left, right) >= 0 and abs(logits[left] - logits[right]) <= LOGIT_BAND * abs(logits).max())
