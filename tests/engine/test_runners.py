"""What is read of vLLM's runners and scheduler: whose row is which, and a step in the ledger's words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from saewatch.core.errors import UnsupportedMode
from saewatch.engine.ledger import Repetition
from saewatch.engine.runners import VIEWS, V1View, V2View, facts_of, new_request, view_of
from tests.engine.standin import Runner, a_request, scheduled


class RunnerV2:
    """What `V2View` reads: a step's batch in arrays that are padded beyond its three requests of 1, 1 and 3 rows."""

    def __init__(self) -> None:
        self.req_states = SimpleNamespace()
        self.execute_model_state: Any = None

    def execute(self) -> None:
        """The forward pass: decodes come first, in an order that is not the scheduler's."""
        batch = SimpleNamespace(
            req_ids=["c", "a", "b"],
            num_reqs=3,
            num_reqs_after_padding=4,
            query_start_loc_np=np.array([0, 1, 2, 5, 5], np.int32),
            positions=torch.tensor([9, 4, 0, 1, 2, 0, 0, 0]),
            input_ids=torch.tensor([50, 51, 52, 53, 54, 0, 0, 0], dtype=torch.int32),
        )
        self.execute_model_state = SimpleNamespace(input_batch=batch)


def test_v1_rows_come_in_the_runners_order() -> None:
    rows = V1View(Runner()).rows()
    assert list(rows.order) == ["b", "a"]
    assert rows.starts.tolist() == [0, 3, 4]
    assert rows.positions.tolist() == [0, 1, 2, 7]
    assert rows.tokens.tolist() == [5, 6, 7, 8]


def test_v2_rows_come_in_the_runners_order_and_without_padding() -> None:
    runner = RunnerV2()
    view = view_of(runner)  # at start, before any step
    runner.execute()
    rows = view.rows()
    assert list(rows.order) == ["c", "a", "b"]
    assert rows.starts.tolist() == [0, 1, 2, 5]
    assert rows.positions.tolist() == [9, 4, 0, 1, 2]
    assert rows.tokens.tolist() == [50, 51, 52, 53, 54]


def starts_of(runner: Any) -> Any:
    if isinstance(runner, RunnerV2):
        runner.execute()
        return runner.execute_model_state.input_batch.query_start_loc_np
    return runner.query_start_loc.np


@pytest.mark.parametrize("make", [Runner, RunnerV2])
def test_the_next_step_does_not_change_what_was_read(make: type[Any]) -> None:
    """The runners write their buffers anew while the shipper still counts."""
    runner = make()
    starts = starts_of(runner)
    rows = view_of(runner).rows()
    before, order = rows.starts.tolist(), list(rows.order)
    starts[:] = 77
    batch = runner.input_batch if make is Runner else runner.execute_model_state.input_batch
    batch.req_ids[0] = "other"
    assert (rows.starts.tolist(), list(rows.order)) == (before, order)
    assert rows.starts.dtype == np.int32


@pytest.mark.parametrize(("make", "view"), [(Runner, V1View), (RunnerV2, V2View)])
def test_each_runner_has_its_view_and_no_other(make: type[Any], view: type[Any]) -> None:
    runner = make()
    assert type(view_of(runner)) is view
    assert [other for other in VIEWS if other.fits(runner)] == [view]
    runner = Runner()
    runner.execute_model_state, runner.req_states = None, {}  # type: ignore[attr-defined]  # V1 has one too
    assert [other for other in VIEWS if other.fits(runner)] == [V1View]


def test_an_unknown_runner_is_refused_by_name() -> None:
    class NovelRunner: ...

    with pytest.raises(UnsupportedMode, match=r"found .*NovelRunner, expected a runner that one of V1View, V2View can"):
        view_of(NovelRunner())


@pytest.mark.parametrize(("name", "child"), [("3_cmpl-1", 3), ("cmpl-1", 0), ("9" * 20 + "_0", 0), ("9" * 5000, 0)])
def test_which_answer_of_several_a_name_says(name: str, child: int) -> None:
    assert new_request(a_request(name, 4), 0, 64).child == child


def test_a_step_in_the_ledgers_words() -> None:
    step = scheduled(new=[a_request("a", 5, 2)], cached={"b": 7, "c": 3}, finished=["d"], resumed=["c"])
    facts = facts_of(step, model_len=64)
    assert facts["computed"] == {"a": 5, "b": 8, "c": 4}
    assert facts["finished"] == ("d",)
    assert [(item.engine_id, item.computed) for item in facts["new"]] == [("a", 2), ("c", 3)]


def test_a_request_in_the_ledgers_words() -> None:
    found = new_request(a_request("2_cmpl-x", 5, stop=[3], eos=None, max_tokens=4), 11, 64)
    assert (found.child, found.stop_tokens, found.max_tokens, found.prompt_len) == (2, frozenset({3}), 4, 5)
    assert (found.adapter, found.time_ns) == ("", 11)
    assert found.prompt_token_ids == [0, 1, 2, 3, 4]


def test_a_request_with_an_adapter_and_without_bounds() -> None:
    request = a_request("x", 5, stop=None, eos=9, max_tokens=None)
    request.lora_request = SimpleNamespace(lora_name="tuned")
    found = new_request(request, 0, 64)
    assert (found.adapter, found.stop_tokens, found.max_tokens) == ("tuned", frozenset({9}), 59)
    request.sampling_params = None
    request.prompt_token_ids = None
    assert new_request(request, 0, 64).prompt_token_ids == ()
    assert new_request(request, 0, 64).stop_tokens == frozenset()


def test_no_request_grows_beyond_the_models_own_limit() -> None:
    assert new_request(a_request("x", 60, max_tokens=40), 0, 64).max_tokens == 4
    assert new_request(a_request("x", 60, max_tokens=3), 0, 64).max_tokens == 3


def test_what_ends_a_request_that_repeats_itself() -> None:
    asked = SimpleNamespace(max_pattern_size=3, min_pattern_size=0, min_count=2)
    found = new_request(a_request("x", 5, repetition=asked, min_tokens=7), 0, 64)
    assert found.repetition == Repetition(0, 3, 2, 7)
    off = SimpleNamespace(max_pattern_size=0, min_pattern_size=0, min_count=0)
    assert new_request(a_request("x", 5, repetition=off), 0, 64).repetition is None


@pytest.mark.parametrize(("connector", "external"), [(None, False), (object(), True)])
def test_beside_a_connector_what_was_computed_may_have_been_computed_elsewhere(
    connector: Any, *, external: bool
) -> None:
    step = scheduled(new=[a_request("a", 5, 2)], cached={"c": 3}, resumed=["c"], connector=connector)
    assert [item.external for item in facts_of(step, model_len=64)["new"]] == [external, external]
