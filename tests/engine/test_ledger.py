"""The ledger against the simulated engine, which knows what was really fed; and one case for each rule by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.core.batch import Origin, Reason
from saewatch.engine.ledger import Ledger, NewRequest, Repetition, Settled, Skipped, Step
from tests.simulate.engine import Engine, Traffic

TRAFFIC = st.builds(
    Traffic,
    requests=st.integers(1, 12),
    prompt_max=st.sampled_from([1, 20, 600]),
    output_max=st.sampled_from([1, 20, 100]),
    running_max=st.sampled_from([1, 4, 16]),
    budget=st.sampled_from([7, 64, 512]),
    stops=st.sampled_from([0.0, 0.05, 0.5]),
    cached=st.sampled_from([0.0, 0.5]),
    block=st.sampled_from([1, 16]),
    preempted=st.sampled_from([0.0, 0.02, 0.2]),
    aborted=st.sampled_from([0.0, 0.02]),
    uncaptured=st.sampled_from([0.0, 0.2, 1.0]),
    drafts=st.sampled_from([0, 1, 4]),
    asynchronous=st.booleans(),
    children=st.sampled_from([0.0, 0.5]),
)


class Observed:
    """What a consumer of a ledger has been told."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.names: dict[int, str] = {}
        self.first: dict[tuple[str, int], int] = {}  # how often a position was reported as computed
        self.missed: Counter[str] = Counter()
        self.fed = 0
        self.ended: dict[str, int] = {}

    def settle(self, step: Step) -> tuple[list[tuple[int, str, int, int]], dict[tuple[str, Reason], int]]:
        settled = self.ledger.settle(step)
        self.names |= {start.request: start.engine_id for start in settled.started}
        self.fed += settled.fed
        self.ended |= {self.names[end.request]: end.fed for end in settled.ended}
        rows = rows_of(settled, self.names)
        for _, name, position, origin in rows:
            if origin == Origin.COMPUTED:
                self.first[name, position] = self.first.get((name, position), 0) + 1
        missed: Counter[tuple[str, Reason]] = Counter()
        skipped = [(span.request, Reason.CACHED, span.tokens) for span in settled.skipped]
        for request, reason, tokens in [*settled.missed, *skipped]:
            missed[self.names[request], reason] += tokens
            self.missed[self.names[request]] += tokens
        return rows, dict(missed)


def rows_of(settled: Settled, names: dict[int, str]) -> list[tuple[int, str, int, int]]:
    columns = (settled.row.tolist(), settled.request.tolist(), settled.position.tolist(), settled.origin.tolist())
    return [(row, names[request], position, origin) for row, request, position, origin in zip(*columns, strict=True)]


@settings(max_examples=80)
@given(traffic=TRAFFIC, seed=st.integers(0, 2**32))
def test_what_is_reported_is_exactly_what_was_fed(traffic: Traffic, seed: int) -> None:
    engine, observed = Engine(traffic, seed), Observed()
    for simulated in engine.steps():
        rows, missed = observed.settle(simulated.step)
        assert rows == simulated.rows  # rejected drafts and surplus rows are not among them
        assert missed == simulated.missed
        computed_or_missed = len(observed.first) + sum(observed.missed.values())
        assert observed.fed == computed_or_missed == sum(len(request.seen) for request in engine.requests.values())
    assert set(observed.first.values()) <= {1}
    for name, request in engine.requests.items():
        if request.known:
            assert observed.ended[name] == len(request.seen)
    assert observed.ledger.starts == []


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_an_engine_that_captures_nothing_still_counts_what_was_fed(seed: int) -> None:
    engine, observed = Engine(Traffic(requests=8, uncaptured=1.0, drafts=2), seed), Observed()
    for simulated in engine.steps():
        assert observed.settle(simulated.step)[0] == []
    assert observed.fed == sum(observed.missed.values()) == sum(len(item.seen) for item in engine.requests.values())


def captured(number: int, name: str, first: int, rows: int, **facts: object) -> Step:
    """A step with one request."""
    return Step(
        number=number,
        time_ns=number,
        order=[name],
        starts=np.array([0, rows], dtype=np.int32),
        positions=np.arange(first, first + rows, dtype=np.int32),
        **facts,  # type: ignore[arg-type]  # a step's own fields
    )


def new(name: str, prompt_len: int, computed: int = 0, **facts: object) -> NewRequest:
    return NewRequest(engine_id=name, prompt_len=prompt_len, computed=computed, **facts)  # type: ignore[arg-type]  # its own fields


def positions(settled: Settled) -> list[int]:
    return [int(position) for position in settled.position]


def test_what_was_computed_elsewhere_is_told_apart() -> None:
    ledger = Ledger()
    step = captured(1, "a", 8, 2, new=[new("a", 10, 8, external=True)], computed={"a": 10}, emitted={"a": [5]})
    settled = ledger.settle(step)
    assert [(start.cached, start.cached_from) for start in settled.started] == [(8, "external")]
    assert settled.skipped == (Skipped(1, 0, 8, external=True),)
    assert positions(settled) == [8, 9]
    again = new("a", 0, 12, external=True)  # preempted, and some of its answer was brought back too
    settled = ledger.settle(captured(2, "a", 12, 1, new=[again], computed={"a": 13}, emitted={"a": [5, 5, 5]}))
    assert settled.skipped == (Skipped(1, 10, 12, external=True),)
    assert settled.fed == 3


def test_the_surplus_row_after_a_stop_token_is_not_reported() -> None:
    ledger = Ledger()
    ledger.settle(
        captured(1, "a", 0, 3, new=[new("a", 3, stop_tokens=frozenset({9}))], computed={"a": 3}, emitted={"a": [9]})
    )
    surplus = ledger.settle(captured(2, "a", 3, 1, computed={"a": 4}, emitted={"a": [5]}))
    assert (positions(surplus), surplus.fed) == ([], 0)
    (end,) = ledger.settle(Step(number=3, time_ns=3, finished=["a"])).ended
    assert (end.fed, end.emitted) == (3, 1)


def test_the_surplus_row_after_the_last_token_is_not_reported() -> None:
    ledger = Ledger()
    ledger.settle(captured(1, "a", 0, 3, new=[new("a", 3, max_tokens=1)], computed={"a": 3}, emitted={"a": [1]}))
    assert positions(ledger.settle(captured(2, "a", 3, 1, computed={"a": 4}, emitted={"a": [5]}))) == []


def test_rejected_drafts_are_not_reported_and_come_again_as_computed() -> None:
    ledger = Ledger()
    ledger.settle(captured(1, "a", 0, 3, new=[new("a", 3)], computed={"a": 3}, emitted={"a": [1]}))
    drafted = ledger.settle(captured(2, "a", 3, 4, computed={"a": 7}, emitted={"a": [1, 2]}))  # one of three was right
    assert (positions(drafted), drafted.fed) == ([3, 4], 2)
    after = ledger.settle(captured(3, "a", 5, 1, computed={"a": 8}, emitted={"a": [3]}))
    assert (positions(after), after.origin.tolist()) == ([5], [Origin.COMPUTED])


def test_a_cached_prefix_is_fed_and_skipped() -> None:
    first = Ledger().settle(captured(1, "a", 32, 8, new=[new("a", 40, 32)], computed={"a": 40}, emitted={"a": [1]}))
    assert (first.fed, first.missed, positions(first)) == (40, (), list(range(32, 40)))
    assert first.skipped == (Skipped(1, 0, 32),)
    assert first.started[0].cached == 32
    assert first.started[0].cached_from == "prefix"


def test_only_what_was_never_seen_is_skipped_when_a_preempted_prompt_comes_back_with_a_longer_cached_prefix() -> None:
    ledger = Ledger()
    ledger.settle(captured(1, "a", 0, 10, new=[new("a", 40)], computed={"a": 10}))
    back = ledger.settle(captured(2, "a", 16, 24, new=[new("a", 0, 16)], computed={"a": 40}, emitted={"a": [1]}))
    assert (back.fed, back.skipped, back.started) == (30, (Skipped(1, 10, 16),), ())


def test_an_id_that_ends_and_comes_again_in_one_step_is_another_request() -> None:
    ledger = Ledger()
    ledger.settle(captured(1, "a", 0, 3, new=[new("a", 3)], computed={"a": 3}, emitted={"a": [1]}))
    again = ledger.settle(
        captured(2, "a", 0, 5, new=[new("a", 5)], finished=["a"], computed={"a": 5}, emitted={"a": [1]})
    )
    assert [start.request for start in again.started] == [2]
    assert again.request.tolist() == [2] * 5
    assert again.fed == 5


def test_a_step_without_tokens_ends_requests() -> None:
    ledger = Ledger()
    ledger.settle(captured(1, "a", 0, 3, new=[new("a", 9)], computed={"a": 3}))
    settled = ledger.settle(Step(number=2, time_ns=2, finished=["a", "unknown"]))
    assert [(end.request, end.fed, end.emitted) for end in settled.ended] == [(1, 3, 0)]
    assert (settled.fed, settled.missed, positions(settled)) == (0, (), [])


@pytest.mark.parametrize("reason", [Reason.NO_SLOT, Reason.BLIND])
def test_what_was_not_captured_is_missed_for_the_steps_reason_and_then_recomputed(reason: Reason) -> None:
    ledger = Ledger()
    unseen = ledger.settle(Step(number=1, time_ns=1, new=[new("a", 8)], computed={"a": 5}, reason=reason))
    assert (unseen.fed, unseen.missed) == (5, ((1, reason, 5),))
    again = ledger.settle(captured(2, "a", 0, 8, computed={"a": 8}, emitted={"a": [1]}))
    assert again.origin.tolist() == [Origin.RECOMPUTED] * 5 + [Origin.COMPUTED] * 3


def test_an_id_that_no_frame_would_take_is_cut() -> None:
    (start,) = Ledger().settle(Step(number=1, time_ns=1, new=[new("a" * 10**6, 8, adapter="b" * 10**6)])).started
    assert start.engine_id == "a" * limits.TEXT_BYTES
    assert start.adapter == "b" * limits.TEXT_BYTES


def test_tokens_after_the_models_own_limit_are_not_emitted() -> None:
    ledger = Ledger()
    ledger.settle(captured(1, "a", 0, 3, new=[new("a", 3, max_tokens=2)], computed={"a": 3}, emitted={"a": [1]}))
    drafted = ledger.settle(captured(2, "a", 3, 4, computed={"a": 7}, emitted={"a": [1, 2, 3]}))
    assert positions(drafted) == [3], "the second token is the last one, and is never fed"


REPEATS = [
    ((1, 1, 3), [5, 5, 5], 3),
    ((1, 1, 3), [5, 5, 6, 5, 5], None),
    ((2, 2, 2), [5, 6, 5, 6], 4),
    ((2, 2, 2), [5, 5, 5], None),
    ((0, 3, 2), [1, 2, 3, 1, 2, 3], 6),
    ((1, 3, 2), [4, 7, 7], 3),
    ((1, 1, 2, 4), [5, 5, 5, 5], 4),
]


@pytest.mark.parametrize(("rule", "tokens", "end"), REPEATS)
def test_a_request_ends_where_it_repeats_itself(rule: tuple[int, ...], tokens: list[int], end: int | None) -> None:
    ledger, asked = Ledger(), new("a", 3, repetition=Repetition(*rule))
    ledger.settle(captured(1, "a", 0, 3, new=[asked], computed={"a": 3}, emitted={"a": tokens[:1]}))
    ledger.settle(captured(2, "a", 3, len(tokens), computed={"a": 9}, emitted={"a": [*tokens[1:], 8, 9]}))
    (found,) = ledger.settle(Step(number=3, time_ns=3, finished=["a"])).ended
    assert found.emitted == (end or len(tokens) + 2)


def test_a_stage_that_sees_no_tokens_counts_what_the_scheduler_gave_out() -> None:
    ledger = Ledger()
    first = ledger.settle(captured(1, "a", 0, 2, new=[new("a", 3)], computed={"a": 2}, emitted=None))
    assert (positions(first), first.fed) == ([0, 1], 2)
    last = ledger.settle(captured(2, "a", 2, 1, computed={"a": 3}, emitted=None))
    assert (positions(last), last.fed) == ([2], 1)
    assert positions(ledger.settle(captured(3, "a", 3, 1, computed={"a": 4}, emitted=None))) == [3]
    back = ledger.settle(captured(4, "a", 0, 4, new=[new("a", 0)], computed={"a": 4}, emitted=None))
    assert (positions(back), back.fed, set(back.origin.tolist())) == ([0, 1, 2, 3], 0, {Origin.RECOMPUTED})
    (end,) = ledger.settle(Step(number=5, time_ns=5, finished=["a"])).ended
    assert (end.fed, end.emitted) == (4, 2)


def test_a_session_that_goes_on_is_another_request_whose_past_is_cached() -> None:
    ledger = Ledger()
    ledger.settle(captured(1, "a", 0, 3, new=[new("a", 3, max_tokens=2)], computed={"a": 3}, emitted={"a": [1]}))
    ledger.settle(captured(2, "a", 3, 1, computed={"a": 4}, emitted={"a": [2]}))
    turn = ledger.settle(captured(3, "a", 4, 5, new=[new("a", 9, 4)], computed={"a": 9}, emitted={"a": [1]}))
    assert [(end.request, end.fed, end.emitted) for end in turn.ended] == [(1, 4, 2)]
    assert [(start.request, start.prompt_len, start.cached) for start in turn.started] == [(2, 9, 4)]
    assert (turn.fed, turn.skipped, positions(turn)) == (9, (Skipped(2, 0, 4),), [4, 5, 6, 7, 8])
    assert set(turn.request.tolist()) == {2}
