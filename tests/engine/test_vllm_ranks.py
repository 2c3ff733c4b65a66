"""Workers that are one of several ranks: who reports, who is silent, and what a stage that does not sample books."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saewatch.engine import vllm as adapter
from saewatch.engine.ranks import Echo, Ranks
from saewatch.engine.vllm import Watch, open_watch
from tests.engine.standin import LlamaForCausalLM, a_request, a_section, a_worker, scheduled


def ranked(monkeypatch: pytest.MonkeyPatch, worker: Any, *, tp: int = 0, pp: int = 0, last: bool = True) -> list[Any]:
    """Makes ``worker`` one of two ranks; what it says to the other one."""
    said: list[Any] = []

    def gather(mine: Any) -> list[Any]:
        said.append(mine)
        return [mine, mine]

    found = Ranks(tp=tp, pp=pp, parallel=True, samples=last, gather=gather)
    monkeypatch.setattr(adapter, "ranks_of", lambda _worker: found)
    return said


def test_a_rank_that_another_speaks_for_has_the_sinks_and_nothing_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = a_worker(tmp_path)
    said = ranked(monkeypatch, worker, tp=1)
    watch = open_watch(worker)
    assert isinstance(watch, Echo)
    assert [name for name, _ in worker.network.named_modules() if "saewatch" in name]
    assert worker.vllm_config.additional_config["saewatch"]["sinks"][0][0] == "resid_post.2"
    watch.prove()
    ((point, _),) = said[0].items()
    assert point == "resid_post.2"
    watch.after_forward(scheduled(new=[a_request("a", 3)]), sampling=True)
    assert watch.after_sampling("theirs") == "theirs"
    watch.close()


def test_the_rank_that_reports_compares_and_says_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = a_worker(tmp_path, a_section(tmp_path, instance="e"))
    said = ranked(monkeypatch, worker, pp=1)
    watch = open_watch(worker)
    assert isinstance(watch, Watch)
    (watched,) = watch.tap.watched
    assert (watched.opening.engine, watched.opening.pp_rank, watched.opening.tp_rank) == ("e/pp1", 1, 0)
    watch.prove()
    assert len(said) == 1
    watch.close()


def test_a_stage_without_the_hook_point_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = LlamaForCausalLM()
    network.model.layers[2] = type("PPMissingLayer", (torch.nn.Identity,), {})()  # type: ignore[operator]  # a list of blocks
    worker = a_worker(tmp_path, network=network)
    ranked(monkeypatch, worker)
    assert isinstance(open_watch(worker), Echo)


def test_a_stage_that_does_not_sample_books_what_the_scheduler_gave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = a_worker(tmp_path)
    ranked(monkeypatch, worker, last=False)
    watch = open_watch(worker)
    assert isinstance(watch, Watch)
    watch.prove()
    watch.after_forward(scheduled(new=[a_request("b", 3), a_request("a", 1)]), sampling=True)
    assert watch.after_sampling("what a stage hands on") == "what a stage hands on"
    watch.after_forward(scheduled(cached={"b": 3, "a": 1}), sampling=True)
    watch.after_sampling(None)
    watch.close()
    (books,) = watch.tap.books
    assert (books.fed, books.blind) == (6, "")


def test_a_rank_that_cannot_watch_and_was_told_to_serve_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = a_worker(tmp_path, a_section(tmp_path, on_failure="serve"), enable_sleep_mode=True)
    said = ranked(monkeypatch, worker, tp=1)
    watch = open_watch(worker)
    assert isinstance(watch, Echo)
    watch.prove()
    assert said == [{}], "it takes part: the other rank waits for it"


def test_a_replica_is_told_apart_by_its_number(tmp_path: Path) -> None:
    watch = open_watch(a_worker(tmp_path, a_section(tmp_path, instance="e"), data_parallel_index=2))
    assert isinstance(watch, Watch)
    (watched,) = watch.tap.watched
    assert (watched.opening.engine, watched.opening.dp_rank) == ("e/dp2", 2)
