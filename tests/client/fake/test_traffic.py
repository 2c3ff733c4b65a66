"""Made-up requests."""

from __future__ import annotations

from random import Random

from saewatch.client.fake.rows import Rows
from saewatch.client.fake.state import State
from saewatch.client.fake.traffic import Traffic


def run(seed: int, tokens: int) -> State:
    state = State()
    traffic = Traffic(state, Random(seed))
    for _ in range(tokens // 10):
        traffic.step(10)
    return state


def test_as_many_tokens_as_asked_and_requests_that_end() -> None:
    state = run(0, 1000)
    items = [entry.item for entry in state.log.entries()]
    batches = [one for one in items if isinstance(one, Rows)]
    assert sum(one.tokens for one in batches) == 1000
    ends = [one.ended for one in items if not isinstance(one, Rows)]
    assert len(ends) > 10
    for end in ends:
        own = [one for one in batches if one.request.client_id == end.request.client_id]
        assert end.fed == sum(one.tokens_told for one in own) > end.request.prompt_len
    fired = {slot for one in batches for _, slot, _ in one.firings}
    assert fired == {0, 2, 3}


def test_one_seed_is_one_traffic() -> None:
    assert [run(seed, 300).books().firings for seed in (1, 1)] == [run(1, 300).books().firings] * 2
    assert [entry.after for entry in run(1, 300).log.entries()] != [entry.after for entry in run(2, 300).log.entries()]
