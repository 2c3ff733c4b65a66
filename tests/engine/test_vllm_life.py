"""The watched worker's calls that put weights away or change them, on vLLM's own class over a stand-in base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from saewatch.engine import vllm as adapter
from saewatch.engine.ranks import Echo, Ranks
from saewatch.engine.vllm import TapWorker, Watch
from tests.engine.standin import a_request, a_section, a_worker, sampled, scheduled
from tests.waiting import wait_until

BASE = TapWorker.__mro__[1]
Opened = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Makes watched workers whose base does nothing but say what was called, ``base`` in its place."""
    made: list[Any] = []

    def make(base: Callable[[str], None] = lambda _name: None, **changes: Any) -> Any:
        worker: Any = TapWorker.__new__(TapWorker)
        standin = a_worker(tmp_path, a_section(tmp_path, **changes))
        worker.__dict__.update(vars(standin), called=[])
        for name in ("load_model", "compile_or_warm_up_model", "sleep", "wake_up", "reload_weights", "reset_weights"):

            def call(self: Any, *args: Any, name: str = name, **named: Any) -> None:
                base(name)
                self.called.append((name, *args, *named.items()))

            monkeypatch.setattr(BASE, name, call, raising=False)
        for name in ("get_model", "execute_dummy_batch"):
            monkeypatch.setattr(BASE, name, getattr(type(standin), name))
        worker.load_model()
        worker.compile_or_warm_up_model()
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.saewatch.close()


def step(worker: Any, name: str) -> None:
    """One prompt of three tokens, and another request's of one."""
    watch = worker.saewatch
    watch.after_forward(scheduled(new=[a_request("b", 3), a_request("a", 1)], finished=[name]), sampling=True)
    watch.after_sampling(sampled(b=[7], a=[8]))


def books(worker: Any, streams: int) -> list[Any]:
    """Of the open streams; what has ended stays until a sidecar was told."""
    wait_until(lambda: len(worker.saewatch.tap.books) == streams)
    return list(worker.saewatch.tap.books)


CALLS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "sleep": (("sleep", 1), ("wake_up", None)),
    "reload": (("reload_weights",),),
}


@pytest.mark.parametrize("what", CALLS)
def test_it_is_blind_meanwhile_and_watched_again_afterwards(opened: Opened, what: str) -> None:
    worker = opened()
    blind: list[bool] = []
    for name, *args in CALLS[what]:
        getattr(worker, name)(*args)
        blind.append(not worker.saewatch.tap.watched)
    assert blind[:-1] == [True] * (len(CALLS[what]) - 1)
    old, new = books(worker, 2)
    wait_until(lambda: bool(worker.saewatch.tap.watched))
    assert (old.stream, old.blind, new.stream, new.blind) == (1, what, 2, "")
    calls = worker.called[2:]
    assert calls == [tuple(call) for call in CALLS[what]], "vLLM's own were called, with what was given"


def test_a_reload_is_blind_before_vllm_begins_with_it(opened: Opened) -> None:
    seen: list[bool] = []

    def look(name: str) -> None:
        if name == "reload_weights":
            seen.append(bool(worker.saewatch.tap.watched))

    worker: Any = opened(look)
    worker.reload_weights()
    assert seen == [False]


@pytest.mark.parametrize(
    ("name", "args", "named"),
    [
        ("reload_weights", (), {"weights_iterator": [("a", torch.ones(1))]}),
        ("reload_weights", ([("a", torch.ones(1))],), {}),
        ("reload_weights", (), {"is_checkpoint_format": False}),
        ("reset_weights", (), {}),
        ("sleep", (2,), {}),
    ],
)
def test_weights_that_nobody_knows_are_not_watched(
    opened: Opened, name: str, args: tuple[Any, ...], named: dict[str, Any]
) -> None:
    worker = opened()
    getattr(worker, name)(*args, **named)
    worker.wake_up()
    wait_until(lambda: [one.blind for one in worker.saewatch.tap.books] == ["weights_changed"])
    step(worker, "gone")
    worker.saewatch.close()
    assert [one.missed for one in worker.saewatch.tap.books] == [{"blind": 4}]


def test_weights_of_another_folder_are_not_watched(opened: Opened, tmp_path: Path) -> None:
    worker = opened()
    worker.model_config.model = str(tmp_path)  # as vLLM's ``reload_weights`` leaves it
    worker.reload_weights(weights_path=str(tmp_path))
    wait_until(lambda: [one.blind for one in worker.saewatch.tap.books] == ["weights_changed"])


def test_a_reload_that_fails_is_vllms_own_and_stays_blind(opened: Opened) -> None:
    def broken(name: str) -> None:
        if name == "reload_weights":
            raise RuntimeError("no such file")

    worker = opened(broken)
    with pytest.raises(RuntimeError, match="no such file"):
        worker.reload_weights()
    wait_until(lambda: [one.blind for one in worker.saewatch.tap.books] == ["reload"])


@pytest.mark.parametrize("where", ["pass", "sink"])
def test_a_proof_that_fails_afterwards_never_reaches_the_engine(
    opened: Opened, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = opened()

    def broken(_worker: Any) -> None:
        if where == "pass":
            raise RuntimeError("planted")

    worker.sleep()
    monkeypatch.setattr(BASE, "execute_dummy_batch", broken)
    worker.wake_up()
    reason = {"pass": "fault", "sink": "self_test_failed"}[where]
    wait_until(lambda: [one.blind for one in worker.saewatch.tap.books] == [reason])
    monkeypatch.undo()


def test_a_tap_that_was_blind_from_the_start_stays_so(opened: Opened) -> None:
    worker = opened(on_failure="serve", dictionaries=[{"path": "/nowhere"}])
    worker.sleep()
    worker.wake_up()
    assert isinstance(worker.saewatch, Watch)
    assert [one.blind for one in worker.saewatch.tap.books] == ["manifest_error"]


@pytest.mark.parametrize("tp", [0, 1])
def test_every_rank_takes_part_in_the_proof(opened: Opened, tp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def gather(mine: Any) -> list[Any]:
        said.append(mine)
        return [mine, mine]

    monkeypatch.setattr(adapter, "ranks_of", lambda _worker: Ranks(tp=tp, parallel=True, gather=gather))
    worker = opened()
    assert isinstance(worker.saewatch, Echo if tp else Watch)
    worker.sleep(2)
    worker.wake_up(["weights"])
    worker.reload_weights()
    assert len(said) == 1, "not before all of it is awake"
    worker.wake_up(["kv_cache"])
    assert len(said) == 2
    if tp == 0:
        assert [one.blind for one in books(worker, 2)] == ["reload", ""]


def test_a_rank_that_cannot_take_part_serves_on(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        adapter, "ranks_of", lambda _worker: Ranks(tp=1, parallel=True, gather=lambda mine: [mine, mine])
    )
    worker = opened()
    worker.sleep()
    monkeypatch.setattr(BASE, "execute_dummy_batch", lambda _worker: 1 / 0)
    worker.wake_up()
