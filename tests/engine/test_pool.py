"""Pooled probes over a simulated engine, against torch's softmax over each request's whole sequence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.core.batch import Origin, Reason, SlotKind, WatchSet
from saewatch.core.head import ATTENTION, HeadSheet
from saewatch.core.records import RequestEnd
from saewatch.engine.batching import Encoded, losses
from saewatch.engine.books import Stream
from saewatch.engine.heads import Pooled
from saewatch.engine.ledger import Ledger, Settled, Skipped, Step
from saewatch.engine.pool import Pool, scan
from saewatch.engine.reuse import Reuse
from tests.engine.shipping import opening
from tests.simulate.engine import Engine, Traffic

Array = np.ndarray[Any, np.dtype[Any]]
UNITS = (1, 3)  # heads of two probes
HEADS = sum(UNITS)
BIAS = (0.1, -0.2)
FLOOR = 0.25


def probes() -> list[Pooled]:
    return [
        Pooled(
            sheet=HeadSheet(direction=number, kind=ATTENTION, units=units),
            q=torch.zeros(units, 4),
            v=torch.zeros(units, 4),
            b=torch.tensor([BIAS[number]]),
        )
        for number, units in enumerate(UNITS)
    ]


def watch_set(directions: Sequence[int] = (0, 1), floors: Sequence[float] = (0.0, FLOOR)) -> WatchSet:
    return WatchSet(
        stream=1,
        watch=1,
        digest="sha256:" + "0" * 64,
        first=0,
        total=len(directions),
        row=np.array(directions, np.uint32),
        floor=np.array(floors, np.float32),
        kind=np.full(len(directions), SlotKind.DIRECTION, np.uint8),
    )


def pool(watch: WatchSet | None = None) -> Pool:
    found = Pool(probes())
    found.watch([watch or watch_set()])
    return found


def numbers(name: str, positions: Array) -> Array:
    """What the device gives for positions of a request, ``[n, 2 * HEADS]``: anything, but always the same."""
    return np.asarray(_table(name)[positions], np.float32)


@lru_cache(maxsize=64)
def _table(name: str) -> Array:
    return np.random.default_rng(crc32(name.encode())).normal(size=(2048, 2 * HEADS)) * 3.0


def is_excluded(positions: Array) -> Array:
    return np.asarray(positions % 13 == 0)


def oracle(name: str, tokens: int) -> Array:
    """Both probes' values at each position, ``[tokens, 2]``: a softmax over the whole sequence up to it, by torch."""
    positions = np.arange(tokens)
    given = torch.from_numpy(numbers(name, positions)).double()
    score = given[None, :, :HEADS].expand(tokens, tokens, HEADS)  # [at a position, of a position, head]
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    hidden = later | torch.from_numpy(is_excluded(positions))
    weights = torch.nn.functional.softmax(score.masked_fill(hidden[:, :, None], -torch.inf), dim=1)
    values = torch.einsum("aph,ph->ah", weights, given[:, HEADS:])
    return np.stack([part.sum(1).numpy() + bias for part, bias in zip(values.split(UNITS, 1), BIAS, strict=True)], 1)


def encoded_of(step: Step) -> Encoded:
    assert step.starts is not None
    assert step.positions is not None
    rows = int(step.starts[-1])
    found = np.zeros((rows, 2 * HEADS), np.float32)
    for name, first, last in zip(step.order, step.starts[:-1], step.starts[1:], strict=True):
        found[first:last] = numbers(name, np.minimum(step.positions[first:last], 2047))
    empty = Encoded.empty()
    return Encoded(
        empty.row, empty.slot, empty.value, is_excluded(step.positions[:rows]), np.zeros(rows, bool), pooled=found
    )


TRAFFICS = [
    Traffic(requests=14, prompt_max=120, output_max=40),
    Traffic(requests=14, prompt_max=120, output_max=40, budget=16, preempted=0.2, cached=0.0, uncaptured=0.0),
    Traffic(requests=14, prompt_max=120, output_max=40, drafts=3, asynchronous=True, uncaptured=0.02, aborted=0.03),
    Traffic(requests=14, prompt_max=300, output_max=30, budget=512, running_max=64, cached=0.1, uncaptured=0.01),
]


@pytest.mark.parametrize("traffic", TRAFFICS)
@pytest.mark.parametrize("seed", range(4))
def test_every_token_of_a_request_seen_whole_has_its_softmax_and_no_other_has_one(traffic: Traffic, seed: int) -> None:
    engine = Engine(traffic, seed)
    stream = Stream(opening=opening(1), watch=[watch_set()], pool=Pool(probes()))
    fired = served(engine, stream)
    expected: Counter[Reason | None] = Counter()  # tokens by what became of them
    for request in engine.requests.values():
        why: Reason | None = None
        right = oracle(request.name, max(request.seen, default=-1) + 1)
        for position in sorted(request.seen):
            why = request.seen[position] if why is None else why
            out = is_excluded(np.array(position)) and why is None
            own = request.seen[position]
            expected[Reason.EXCLUDED if out else why if own is None else own] += 1
            assert ((request.name, position) in fired) == (why is None and not out)
            if (request.name, position) in fired:
                agree(fired[request.name, position], right[position])
    assert expected[None] > 300
    assert (sum(expected.values()) > expected[None] + expected[Reason.EXCLUDED]) == bool(
        traffic.cached + traffic.uncaptured
    )
    books = stream.books.beat()
    assert books.missed == {reason.label: count for reason, count in expected.items() if reason is not None}
    assert (books.fed, books.in_flight) == (sum(expected.values()), expected[None])


def served(engine: Engine, stream: Stream) -> dict[tuple[str, int], dict[int, float]]:
    """What fired on each token that has a value, by request and position, after all steps of the engine."""
    ledger, fired = Ledger(), dict[tuple[str, int], dict[int, float]]()
    names: dict[int, str] = {}
    for simulated in engine.steps():
        settled = ledger.settle(simulated.step)
        names |= {start.request: start.engine_id for start in settled.started}
        encoded = None if simulated.step.positions is None else encoded_of(simulated.step)
        fed = settled.fed
        for span, _ in stream.replays(settled, encoded, ledger.chains):
            fed -= span.tokens
            stream.books.skip(span, 0)
        stream.books.take(fed, int((settled.origin != Origin.RECOMPUTED).sum()), settled.missed)
        if encoded is None:
            continue
        kept, found = stream.pooled(settled, encoded)
        stream.books.leave_out(losses(kept, found))
        for row, number, position in zip(kept.row, kept.request, kept.position, strict=True):
            if not found.excluded[row]:
                assert (names[int(number)], int(position)) not in fired, "each token counts once"
                here = found.row == row
                values = dict(zip(found.slot[here].tolist(), found.value[here].tolist(), strict=True))
                fired[names[int(number)], int(position)] = values
    return fired


def agree(found: dict[int, float], expected: Array) -> None:
    for slot, floor in enumerate((0.0, FLOOR)):
        if abs(expected[slot] - floor) > 1e-5:
            assert (slot in found) == (expected[slot] > floor)
        if slot in found:
            assert math.isclose(found[slot], expected[slot], rel_tol=1e-6, abs_tol=1e-6)


# --- the running softmax ----------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 60),
    cuts=st.lists(st.integers(1, 59), max_size=8),
    spread=st.sampled_from([0.0, 1.0, 50.0, 1e4]),
    rises=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_split_of_the_rows_gives_the_softmax(
    count: int, cuts: list[int], spread: float, *, rises: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    score, value = random.normal(size=(count, 2)) * spread, random.normal(size=(count, 2))
    if rises:
        score += np.arange(count)[:, None] * spread
    state = np.array([[-np.inf] * 2, [0.0] * 2, [0.0] * 2])
    found = []
    edges = [0, *sorted({cut for cut in cuts if cut < count}), count]
    for first, last in pairwise(edges):
        state, part = scan(state, score[first:last], value[first:last])
        found.append(part)
    for at, row in enumerate(np.concatenate(found)):
        weights = torch.softmax(torch.from_numpy(score[: at + 1]), dim=0).numpy()
        expected = (weights * value[: at + 1]).sum(axis=0)
        assert (np.abs(row - expected) <= 1e-12 + 1e-9 * np.abs(expected)).all(), (at, row, expected)


# --- requests ---------------------------------------------------------------------------------------------------------
def settled(spans: Sequence[tuple[int, int, int]], *, again: bool = False, **changes: object) -> Settled:
    """Spans of (request, first position, rows), one after the other."""
    request = np.concatenate([np.zeros(0, np.uint32), *(np.full(rows, number, np.uint32) for number, _, rows in spans)])
    position = np.concatenate([np.zeros(0, np.int32), *(np.arange(a, a + n, dtype=np.int32) for _, a, n in spans)])
    origin = np.full(len(request), Origin.RECOMPUTED if again else Origin.COMPUTED, np.uint8)
    columns = {"row": np.arange(len(request), dtype=np.int32), "request": request, "position": position}
    common: dict[str, object] = {"started": (), "ended": (), "fed": len(request), "missed": (), "origin": origin}
    return Settled(**{**common, **columns, **changes})  # type: ignore[arg-type]  # by name


def taken(one: Pool, step: Settled, given: float = 1.0) -> tuple[int, dict[tuple[int, Reason], int]]:
    """Rows that have a value, and what was lost."""
    one.follow(step)
    none, rows = Encoded.empty(), len(step.row)
    flags = np.zeros(rows, bool)
    numbers = np.full((rows, 2 * HEADS), given, np.float32)
    kept, _, lost = one.take(step, Encoded(none.row, none.slot, none.value, flags, flags, pooled=numbers))
    return len(kept.row), {(request, reason): count for request, reason, count in lost}


def test_a_request_that_another_ones_rows_began_has_no_pool() -> None:
    one = pool()
    skip = settled([(1, 16, 4), (2, 0, 4)], skipped=(Skipped(1, 0, 16),))
    assert taken(one, skip) == (4, {(1, Reason.CACHED): 4})
    assert taken(one, settled([(1, 20, 1), (2, 4, 1)])) == (1, {(1, Reason.CACHED): 1})


@pytest.mark.parametrize("reason", [Reason.NO_SLOT, Reason.BLIND])
def test_behind_a_token_that_was_missed_all_are(reason: Reason) -> None:
    one = pool()
    assert taken(one, settled([(1, 0, 4)])) == (4, {})
    one.follow(settled([], missed=((1, reason, 2),)))
    assert taken(one, settled([(1, 6, 3)])) == (0, {(1, reason): 3})


def test_a_stream_that_begins_later_says_that_it_did_not_see() -> None:
    assert taken(pool(), settled([(1, 7, 2)])) == (0, {(1, Reason.BLIND): 2})


def test_a_recomputed_row_is_not_pooled_twice_and_not_reported_again() -> None:
    one = pool()
    taken(one, settled([(1, 0, 4)]))
    assert taken(one, settled([(1, 0, 4)], again=True), given=50.0) == (0, {})
    assert taken(one, settled([(1, 4, 1)])) == (1, {})


def test_the_place_of_a_request_that_ended_is_anothers() -> None:
    one = pool()
    for number in range(1, 300):
        end = RequestEnd(request=number - 1, fed=1, emitted=1)
        assert taken(one, settled([(number, 0, 2)], ended=(end,))) == (2, {})
    assert len(one._place) == 1  # noqa: SLF001 - what is kept must not grow
    assert len(one._next) <= 64  # noqa: SLF001 - the same


def test_requests_beyond_the_room_are_counted_and_one_that_comes_later_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "POOL_BYTES", 24 * HEADS * 100)
    one = pool()
    rows, lost = taken(one, settled([(number, 0, 1) for number in range(103)]))
    assert (rows, set(lost.values())) == (100, {1})
    assert {reason for _, reason in lost} == {Reason.OVERFLOW}
    ended = (RequestEnd(request=5, fed=1, emitted=1),)
    assert taken(one, settled([(200, 0, 1)], ended=ended)) == (1, {})


def test_another_watch_set_reads_the_same_pool() -> None:
    one = pool()
    taken(one, settled([(1, 0, 3)]))
    one.watch([watch_set((1,), (0.5,))])
    step = settled([(1, 3, 1)])
    numbers = np.concatenate([np.zeros((1, HEADS)), np.full((1, HEADS), 9.0)], axis=1).astype(np.float32)
    none, flags = Encoded.empty(), np.zeros(1, bool)
    _, found, _ = one.take(step, Encoded(none.row, none.slot, none.value, flags, flags, pooled=numbers))
    assert found.slot.tolist() == [0]
    weights = np.array([np.exp(1.0)] * 3 + [1.0])
    assert found.value[0] == pytest.approx(3 * (weights @ [1, 1, 1, 9] / weights.sum()) + BIAS[1], rel=1e-6)


def test_what_fired_is_not_kept_for_reuse() -> None:
    stream = Stream(opening=opening(1), watch=[watch_set()], reuse=Reuse(block=16, bound=1000), pool=Pool(probes()))
    assert stream.reuse is None
