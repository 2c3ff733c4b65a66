"""Outputs that come later: steps are reported in their order, each with its own rows and tokens."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from vllm.v1.outputs import AsyncModelRunnerOutput

from saewatch.core import limits
from saewatch.engine.vllm import Fetched, Watch, open_watch
from tests.engine.standin import a_request, a_section, a_worker, sampled, scheduled
from tests.waiting import wait_until


def opened(tmp_path: Path, *, section: dict[str, Any] | None = None, **changes: Any) -> tuple[Any, Watch]:
    worker = a_worker(tmp_path, a_section(tmp_path, **(section or {})), **changes)
    watch = open_watch(worker)
    assert isinstance(watch, Watch)
    return worker, watch


class Later(AsyncModelRunnerOutput):  # type: ignore[misc]  # vLLM is not typed here
    """What an engine that schedules ahead hands on."""

    def __init__(self, output: Any) -> None:
        self._output = output

    def get_output(self) -> Any:
        return self._output


def test_an_output_at_once_is_reported_at_once_and_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, watch = opened(tmp_path)
    assert watch.after_sampling("of the warm-up") == "of the warm-up"
    watch.prove()
    steps: list[Any] = []
    monkeypatch.setattr(watch.tap._shipper, "put", lambda note: steps.append(note.step.emitted))  # noqa: SLF001 - what the shipper is given
    watch.after_forward(scheduled(new=[a_request("b", 3), a_request("a", 1)]), sampling=True)
    output = sampled(b=[7], a=[8, 9])
    assert watch.after_sampling(output) is output
    assert steps == [{"b": [7], "a": [8, 9]}]
    assert watch.after_sampling(None) is None, "a step that is over"
    watch.after_forward(scheduled(cached={"b": 3}), sampling=True)
    assert watch.after_sampling(None) is None, "a step that failed"
    watch.after_forward(scheduled(cached={"b": 3}), sampling=False)
    assert steps[1:] == [{}, {}]
    watch.tap.close()


def test_a_step_is_reported_when_the_engine_fetches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, watch = opened(tmp_path)
    watch.prove()
    steps: list[Any] = []
    monkeypatch.setattr(watch.tap._shipper, "put", lambda note: steps.append(note.step.emitted))  # noqa: SLF001 - what the shipper is given
    watch.after_forward(scheduled(new=[a_request("b", 3), a_request("a", 1)]), sampling=True)
    output = sampled(b=[7], a=[8])
    handed = watch.after_sampling(Later(output))
    assert isinstance(handed, Fetched)
    assert steps == []
    assert handed.get_output() is output
    assert steps == [{"b": [7], "a": [8]}]
    watch.tap.close()


def begun_by(watch: Watch, request: str, *, first: bool = False) -> Later:
    """A step of one request, and its output, which nobody has fetched."""
    step = scheduled(new=[a_request("b", 3), a_request("a", 1)]) if first else scheduled(cached={"b": 3, "a": 1})
    watch.after_forward(step, sampling=True)
    found = watch.after_sampling(Later(sampled(**{request: [7]})))
    assert isinstance(found, Fetched)
    return found


def test_steps_that_run_ahead_are_reported_in_their_order_each_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, watch = opened(tmp_path, max_concurrent_batches=2)
    watch.prove()
    notes: list[Any] = []
    monkeypatch.setattr(watch.tap._shipper, "put", notes.append)  # noqa: SLF001 - what the shipper is given, and when
    first, second = begun_by(watch, "b", first=True), begun_by(watch, "a")
    assert notes == []
    threading.Thread(target=second.get_output).start()
    wait_until(lambda: watch.tap._begun[1].known)  # noqa: SLF001 - the later one is fetched, and waits
    assert notes == []
    first.get_output()
    assert [(note.step.number, note.step.emitted) for note in notes] == [(1, {"b": [7]}), (2, {"a": [7]})]
    assert all(note.read for note in notes), "both were captured"
    watch.tap.close()


def test_there_are_slots_for_all_steps_that_are_under_way(tmp_path: Path) -> None:
    _, watch = opened(tmp_path, section={"slots": 1}, max_concurrent_batches=4)
    assert watch.tap.config.slots == 5


def test_a_step_without_tokens_does_not_overtake_one_that_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, watch = opened(tmp_path)
    watch.prove()
    notes: list[Any] = []
    monkeypatch.setattr(watch.tap._shipper, "put", notes.append)  # noqa: SLF001 - what the shipper is given, and when
    first = begun_by(watch, "b", first=True)
    watch.after_forward(scheduled(finished=["a"]), sampling=False)
    assert notes == []
    first.get_output()
    assert [note.step.number for note in notes] == [1, 2]
    watch.tap.close()


def test_a_step_that_is_never_fetched_does_not_hold_up_the_others_for_ever(tmp_path: Path) -> None:
    _, watch = opened(tmp_path)
    watch.prove()
    lost = begun_by(watch, "b", first=True)
    for _ in range(limits.STEPS_BEGUN):
        begun_by(watch, "a").get_output()
    late = lost.get_output()
    assert late.sampled_token_ids == [[7]], "the engine has its tokens all the same"
    watch.tap.close()
    (books,) = watch.tap.books
    assert (books.blind, books.fed) == ("step_lost", 3 + 16), "the others were counted: a prompt of 1 and 16 tokens"


def test_an_output_that_fails_fails_for_the_engine_and_holds_up_nothing(tmp_path: Path) -> None:
    class Broken(Later):
        def get_output(self) -> Any:
            raise RuntimeError("the device is gone")

    _, watch = opened(tmp_path)
    watch.prove()
    watch.after_forward(scheduled(new=[a_request("b", 3), a_request("a", 1)]), sampling=True)
    broken = watch.after_sampling(Broken(None))
    after = begun_by(watch, "a")
    with pytest.raises(RuntimeError, match="the device is gone"):
        broken.get_output()
    after.get_output()
    watch.tap.close()
    (books,) = watch.tap.books
    assert (books.fed, books.blind) == (4, ""), "both prompts"


def test_an_engine_that_runs_ahead_is_counted_when_it_is_blind(tmp_path: Path) -> None:
    watch = open_watch(a_worker(tmp_path, a_section(tmp_path, on_failure="serve"), enable_sleep_mode=True))
    assert isinstance(watch, Watch)
    watch.prove()
    watch.after_forward(scheduled(new=[a_request("a", 3)]), sampling=True)
    first = watch.after_sampling(Later(sampled(a=[7])))
    watch.after_forward(scheduled(cached={"a": 3}), sampling=True)
    second = watch.after_sampling(Later(sampled(a=[8])))
    first.get_output()
    second.get_output()
    watch.tap.close()
    (books,) = watch.tap.books
    assert (books.fed, books.missed, books.blind) == (4, {"blind": 4}, "unsupported_mode")
