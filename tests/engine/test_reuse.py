"""Replayed firings against the simulated engine: a warm cache gives a request the record that a cold one gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core.batch import Origin, Reason
from saewatch.engine.batching import Encoded, losses
from saewatch.engine.chain import Chain
from saewatch.engine.ledger import Settled, Skipped
from saewatch.engine.reuse import ENTRY_BYTES, EXCLUDED, LOG_ROWS, LOG_STEPS, Reuse
from tests.engine.replaying import ENDLESS, World
from tests.simulate.engine import Traffic

TRAFFIC = st.builds(
    Traffic,
    requests=st.integers(2, 12),
    prompt_max=st.sampled_from([20, 120]),
    output_max=st.sampled_from([1, 40]),
    running_max=st.sampled_from([1, 4, 16]),
    budget=st.sampled_from([7, 64, 512]),
    stops=st.sampled_from([0.0, 0.05]),
    cached=st.sampled_from([0.3, 1.0]),
    block=st.just(8),
    preempted=st.sampled_from([0.0, 0.1]),
    aborted=st.sampled_from([0.0, 0.02]),
    uncaptured=st.sampled_from([0.0, 0.2]),
    drafts=st.sampled_from([0, 3]),
    asynchronous=st.booleans(),
    children=st.sampled_from([0.0, 0.5]),
    shared=st.sampled_from([0.5, 1.0]),
)
SEED = st.integers(0, 2**32)


@settings(max_examples=60)
@given(traffic=TRAFFIC, seed=SEED, block=st.sampled_from([4, 8]), overflows=st.sampled_from([0.0, 0.02]))
def test_a_request_that_skips_what_is_known_has_the_record_of_one_that_computed_it(
    traffic: Traffic, seed: int, block: int, overflows: float
) -> None:
    world = World(traffic, seed, block, overflows=overflows)
    expected: set[tuple[str, int]] = set()
    for simulated in world.steps:
        settled, encoded = world.settle(simulated)
        world.learn(settled, encoded)
        expected |= {place for span in settled.skipped for place in world.known(span)}
        assert world.reused == expected
    world.check()


@settings(max_examples=40)
@given(traffic=TRAFFIC, seed=SEED, block=st.sampled_from([4, 32]), bound=st.integers(0, 20_000))
def test_what_was_forgotten_is_missed_and_nothing_else_is_told(
    traffic: Traffic, seed: int, block: int, bound: int
) -> None:
    world = World(traffic, seed, block, bound=bound)
    reuse = world.stream.reuse
    assert reuse is not None
    for simulated in world.steps:
        settled, encoded = world.settle(simulated)
        world.learn(settled, encoded)
        reuse.flush()
        assert reuse.bytes <= bound
        assert world.reused <= {place for name in world.rows for place in _places(world, name)}
        if world.random.random() < 0.05:
            reuse.clear()
    world.check()


def _places(world: World, name: str) -> set[tuple[str, int]]:
    return {(name, position) for position in range(len(world.rows[name]))}


def test_many_requests_that_begin_alike_are_replayed() -> None:
    """The properties above would hold of a cache that keeps nothing."""
    world = World(Traffic(requests=40, cached=1.0, shared=1.0, block=8, preempted=0.0, uncaptured=0.0), 3, 8)
    for simulated in world.steps:
        world.settle(simulated)
    world.check()
    assert len(world.reused) > 1000


# --- by hand ----------------------------------------------------------------------------------------------------------
def step_of(request: int, first: int, rows: int, *, origin: Origin = Origin.COMPUTED) -> Settled:
    return Settled(
        started=(),
        ended=(),
        fed=rows,
        missed=(),
        row=np.arange(rows, dtype=np.int32),
        request=np.full(rows, request, np.uint32),
        position=np.arange(first, first + rows, dtype=np.int32),
        origin=np.full(rows, origin, np.uint8),
    )


def fired(rows: int, value: float = 1.0, *, excluded: Sequence[int] = (), overflowed: Sequence[int] = ()) -> Encoded:
    """One firing in each row, in slot 3."""
    every = np.arange(rows)
    return Encoded(
        row=every.astype(np.int32),
        slot=np.full(rows, 3, np.uint16),
        value=np.full(rows, value, np.float32),
        excluded=np.isin(every, excluded),
        overflowed=np.isin(every, overflowed),
    )


def chains(**tokens: list[int]) -> dict[int, Chain]:
    return {int(name[1:]): Chain(ids, block=4) for name, ids in tokens.items()}


IDS = [7, 8, 9, 10, 11, 12, 13, 14]


def positions(reuse: Reuse, first: int, stop: int, ids: list[int] = IDS) -> list[int]:
    """That are replayed."""
    found = reuse.replay(Skipped(9, first, stop), Chain(ids, block=4))
    return found[0].position.tolist() if found else []


def test_a_block_that_came_in_pieces_is_kept_when_its_last_row_came() -> None:
    reuse, open_chains = Reuse(block=4, bound=ENDLESS), chains(r1=IDS)
    reuse.record(step_of(1, 0, 3), fired(3), open_chains)
    assert positions(reuse, 0, 4) == []
    reuse.record(step_of(1, 3, 3), fired(3), open_chains)
    assert positions(reuse, 0, 8) == [0, 1, 2, 3]
    reuse.record(step_of(1, 6, 2), fired(2), open_chains)
    assert positions(reuse, 0, 8) == list(range(8))


@pytest.mark.parametrize(
    ("second", "overflowed"),
    [
        (step_of(1, 3, 1), [0]),
        (step_of(1, 3, 1, origin=Origin.RECOMPUTED), []),
        (step_of(1, 7, 1), []),
        (step_of(2, 3, 1), []),
    ],
    ids=["a row with too many firings", "a recomputed row", "the next block's row", "another request's row"],
)
def test_a_block_with_a_row_that_is_not_its_own_or_lost_is_not_kept(second: Settled, overflowed: list[int]) -> None:
    reuse, open_chains = Reuse(block=4, bound=ENDLESS), chains(r1=IDS, r2=[0, *IDS])
    reuse.record(step_of(1, 0, 3), fired(3), open_chains)
    reuse.record(second, fired(1, overflowed=overflowed), open_chains)
    assert positions(reuse, 0, 8) == []


def test_an_excluded_row_is_replayed_as_excluded() -> None:
    reuse = Reuse(block=4, bound=ENDLESS)
    reuse.record(step_of(1, 0, 4), fired(4, excluded=[0, 2], overflowed=[2]), chains(r1=IDS))
    found = reuse.replay(Skipped(9, 0, 4), Chain(IDS, block=4))
    assert found is not None
    settled, encoded = found
    assert (settled.origin.tolist(), settled.request.tolist()) == ([Origin.REUSED] * 4, [9] * 4)
    assert encoded.excluded.tolist() == [True, False, True, False]
    assert (encoded.row.tolist(), encoded.slot.tolist(), encoded.value.tolist()) == ([1, 3], [3, 3], [1.0, 1.0])
    assert losses(settled, encoded) == [(9, Reason.EXCLUDED, 2)]


def test_a_part_of_a_block_is_replayed_where_the_tokens_after_it_are_the_same() -> None:
    reuse = Reuse(block=4, bound=ENDLESS)
    reuse.record(step_of(1, 0, 8), fired(8), chains(r1=IDS))
    assert positions(reuse, 2, 6) == [2, 3, 4, 5]
    assert positions(reuse, 2, 6, [*IDS[:6], 0, 0]) == [2, 3]
    assert positions(reuse, 2, 6, IDS[:6]) == [2, 3]


def test_a_request_whose_tokens_are_not_known_is_neither_kept_nor_replayed() -> None:
    reuse = Reuse(block=4, bound=ENDLESS)
    reuse.record(step_of(1, 0, 8), fired(8), {})
    assert (positions(reuse, 0, 8), reuse.bytes) == ([], 0)
    reuse.record(step_of(1, 0, 8), fired(8), chains(r1=IDS))
    assert reuse.replay(Skipped(9, 0, 8), None) is None


def test_what_was_used_longest_ago_goes_first_and_beginnings_last() -> None:
    one = 4 * (2 + 6) + ENTRY_BYTES
    reuse = Reuse(block=4, bound=3 * one)
    others = [[index] * 4 for index in range(3)]
    for number, ids in enumerate([IDS, *others[:1]], start=1):
        reuse.record(step_of(number, 0, len(ids)), fired(len(ids)), {number: Chain(ids, block=4)})
    reuse.flush()
    assert reuse.bytes == 3 * one
    assert positions(reuse, 0, 8) == list(range(8))  # used
    for number, ids in enumerate(others[1:], start=3):
        reuse.record(step_of(number, 0, 4), fired(4), {number: Chain(ids, block=4)})
    assert positions(reuse, 0, 4, others[0]) == []
    assert positions(reuse, 0, 8) == [0, 1, 2, 3]  # the beginning went after the end
    assert reuse.bytes == 3 * one


def test_the_same_block_twice_is_kept_once() -> None:
    reuse = Reuse(block=4, bound=ENDLESS)
    reuse.record(step_of(1, 0, 4), fired(4), chains(r1=IDS))
    reuse.flush()
    before = reuse.bytes
    reuse.record(step_of(2, 0, 4), fired(4, value=2.0), chains(r2=IDS))
    reuse.flush()
    assert reuse.bytes == before


def test_open_blocks_count_and_go_with_their_requests() -> None:
    reuse = Reuse(block=4, bound=ENDLESS)
    reuse.record(step_of(1, 0, 2), fired(2), chains(r1=IDS, r2=IDS))
    reuse.record(step_of(2, 0, 3), fired(3), chains(r1=IDS, r2=IDS))
    reuse.flush()
    assert reuse.bytes == 5 * (2 + 6)
    reuse.record(step_of(2, 3, 0), fired(0), chains(r2=IDS))
    reuse.flush()
    assert reuse.bytes == 3 * (2 + 6)


def test_more_open_blocks_than_fit_are_forgotten() -> None:
    reuse, open_chains = Reuse(block=4, bound=20), chains(r1=IDS)
    reuse.record(step_of(1, 0, 3), fired(3), open_chains)
    reuse.flush()
    assert reuse.bytes == 0
    reuse.record(step_of(1, 3, 1), fired(1), open_chains)
    assert positions(reuse, 0, 4) == []


@pytest.mark.parametrize("sorted_in", [True, False])
def test_another_dictionary_knows_nothing_of_the_last_ones(*, sorted_in: bool) -> None:
    reuse, open_chains = Reuse(block=4, bound=ENDLESS), chains(r1=IDS)
    reuse.record(step_of(1, 0, 6), fired(6), open_chains)
    if sorted_in:
        reuse.flush()
    reuse.clear()
    assert reuse.bytes == 0
    reuse.record(step_of(1, 6, 2), fired(2), open_chains)
    assert positions(reuse, 0, 8) == []


def test_values_that_no_batch_may_hold_are_not_kept() -> None:
    reuse = Reuse(block=4, bound=ENDLESS)
    reuse.record(step_of(1, 0, 4), fired(4, value=float("nan")), chains(r1=IDS))
    assert positions(reuse, 0, 4) == []


def test_a_row_with_more_firings_than_can_be_told_is_not_kept() -> None:
    reuse, count = Reuse(block=1, bound=ENDLESS), EXCLUDED
    none = np.zeros(2, bool)
    row = np.repeat(np.array([0, 1], np.int32), [count, count - 1])
    slot = np.concatenate([np.arange(count), np.arange(count - 1)]).astype(np.uint16)
    encoded = Encoded(row, slot, np.ones(len(row), np.float32), none, none)
    reuse.record(step_of(1, 0, 2), encoded, {1: Chain([1, 2], block=1)})
    found = reuse.replay(Skipped(9, 0, 2), Chain([1, 2], block=1))
    assert found is not None
    assert (found[0].position.tolist(), len(found[1].row)) == ([1], count - 1)


def test_steps_are_sorted_into_blocks_together_and_before_the_log_grows() -> None:
    reuse, several = Reuse(block=4, bound=ENDLESS), {number: Chain([number, *IDS], block=4) for number in range(1, 4)}
    for index in range(LOG_STEPS):
        step = replace(
            step_of(1, 0, 3),
            request=np.arange(1, 4, dtype=np.uint32),
            position=np.full(3, index % 9, np.int32),
        )
        reuse.record(step, fired(3, value=float(index)), several)
        assert (reuse.bytes > 0) == (index == LOG_STEPS - 1)
    found = reuse.replay(Skipped(9, 0, 8), several[2])
    assert found is not None
    assert found[1].value.tolist() == [float(value) for value in range(8)]
    reuse.clear()
    reuse.record(step_of(1, 0, LOG_ROWS), fired(LOG_ROWS), {1: Chain([1] * LOG_ROWS, block=4)})
    assert reuse.bytes > 0


def test_the_last_block_of_a_request_that_has_ended_is_kept() -> None:
    reuse = Reuse(block=4, bound=ENDLESS)
    reuse.record(step_of(1, 0, 4), fired(4), chains(r1=IDS))
    reuse.record(step_of(2, 0, 1), fired(1), chains(r2=IDS))
    assert positions(reuse, 0, 4) == [0, 1, 2, 3]
