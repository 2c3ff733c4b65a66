"""Records of a fake sidecar."""

from __future__ import annotations

import math

import pytest

from saewatch.client.fake.state import State
from saewatch.client.fake.tallies import record


def test_a_record() -> None:
    state = State()
    firings = [(1, "greeting.g1", 2.0), (3, "greeting.g1", 0.75), (5, "greeting.g1", 3.0)]
    state.tokens(6, missed={"cached": 2}, firings=firings)
    state.tokens(1, position=1, recomputed=True, firings=[(0, "greeting.g1", 9.0)])
    state.fires("violence.p1", request="r2")
    running = record(state, "chatcmpl-r1")
    assert running is not None
    assert not running.HasField("end_time")
    state.ends("r1", emitted=4)
    found = record(state, "r1")
    assert found is not None
    assert (found.fed, found.emitted, found.status, found.lost) == (8, 4, 200, False)
    (stream,) = found.streams
    assert (stream.prompt_tokens, stream.answer_tokens, stream.recomputed_tokens) == (4, 2, 1)
    assert [one.tokens for one in stream.missed] == [2]
    greeting, hesitation = stream.features
    assert (greeting.feature_id, greeting.prompt.count, greeting.answer.count) == ("greeting.g1", 2, 1)
    assert (greeting.prompt.max_value, greeting.prompt.first_position, greeting.prompt.peak_position) == (2.0, 1, 1)
    assert greeting.prompt.log_sum == pytest.approx(math.log1p(2.0) + math.log1p(0.75))
    assert (hesitation.prompt.count, hesitation.answer.count) == (1, 1)


@pytest.mark.parametrize("name", ["", "r9"])
def test_nobody(name: str) -> None:
    state = State()
    state.tokens(1)
    assert record(state, name) is None
