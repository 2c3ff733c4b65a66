"""By which calls a worker's weights are known, and when the watch may begin again; which checkpoints are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from saewatch.core.errors import MisfitError
from saewatch.engine.life import CHANGED, RELOAD, Checkpoint, Life, check_weights
from saewatch.engine.modelfacts import weights_digest
from tests.engine.standin import MODEL

AGAIN, FROM_DISK = "again after", "reloaded, again after"


class Told:
    """A watch that writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pause(self, reason: str) -> None:
        self.said.append(reason)

    def again(self, ending: str, *, reloaded: bool) -> None:
        self.said.append(f"{FROM_DISK if reloaded else AGAIN} {ending}")


def sleeps(level: int) -> Callable[[Life], None]:
    return lambda life: life.sleeps(level)


def wakes(*tags: str) -> Callable[[Life], None]:
    return lambda life: life.wakes(list(tags) or None)


def reloads(*args: object, **named: object) -> Callable[[Life], None]:
    def call(life: Life) -> None:
        life.changes(RELOAD)
        life.reloads(args, named)

    return call


def fails(life: Life) -> None:
    life.changes(RELOAD)


def zeroed(life: Life) -> None:
    life.changes(CHANGED)


LIVES: dict[str, tuple[list[Callable[[Life], None]], list[str]]] = {
    "a sleep that keeps the weights": ([sleeps(1), wakes()], ["sleep", f"{AGAIN} sleep"]),
    "one that is called twice": ([sleeps(1), sleeps(1), wakes()], ["sleep", "sleep", f"{AGAIN} sleep"]),
    "memory that comes back in parts": (
        [sleeps(1), wakes("weights"), wakes("kv_cache")],
        ["sleep", f"{AGAIN} sleep"],
    ),
    "a sleep that loses the weights": ([sleeps(2), wakes()], ["sleep", CHANGED]),
    "and they are reloaded later": ([sleeps(2), wakes(), reloads()], ["sleep", CHANGED, RELOAD, f"{FROM_DISK} reload"]),
    "and they are reloaded before all of it is awake": (
        [sleeps(2), wakes("weights"), reloads(), wakes("kv_cache")],
        ["sleep", RELOAD, f"{FROM_DISK} reload"],
    ),
    "a reload from where they were": ([reloads()], [RELOAD, f"{FROM_DISK} reload"]),
    "from another path": ([reloads(weights_path="/other")], [RELOAD, f"{FROM_DISK} reload"]),
    "by position": ([reloads(None, "/other", True)], [RELOAD, f"{FROM_DISK} reload"]),
    "of a caller's tensors": ([reloads(weights_iterator=[])], [RELOAD, CHANGED]),
    "of a caller's tensors by position": ([reloads([])], [RELOAD, CHANGED]),
    "of tensors in the layout of kernels": ([reloads(is_checkpoint_format=False)], [RELOAD, CHANGED]),
    "tensors, and then the checkpoint": (
        [reloads([]), reloads()],
        [RELOAD, CHANGED, RELOAD, f"{FROM_DISK} reload"],
    ),
    "the checkpoint, and then tensors before it is awake": (
        [sleeps(1), reloads(), reloads([]), wakes()],
        ["sleep", RELOAD, RELOAD, CHANGED],
    ),
    "a reload that fails": ([fails, sleeps(1), wakes()], [RELOAD, "sleep", CHANGED]),
    "weights of 0": (
        [zeroed, sleeps(1), wakes(), reloads()],
        [CHANGED, "sleep", CHANGED, RELOAD, f"{FROM_DISK} reload"],
    ),
    "a second reload is one of its own": ([reloads(), reloads()], 2 * [RELOAD, f"{FROM_DISK} reload"]),
    "a sleep after a reload reads nothing": (
        [reloads(), sleeps(1), wakes()],
        [RELOAD, f"{FROM_DISK} reload", "sleep", f"{AGAIN} sleep"],
    ),
    "an engine that was awake": ([wakes()], []),
}


@pytest.mark.parametrize("life", LIVES)
def test_what_the_watch_is_told(life: str) -> None:
    calls, expected = LIVES[life]
    watch = Told()
    one = Life(watch)
    for call in calls:
        call(one)
    assert watch.said == expected


@pytest.mark.parametrize("life", LIVES)
def test_without_a_watch_nobody_is_told(life: str) -> None:
    one = Life(None)
    for call in LIVES[life][0]:
        call(one)


START = Checkpoint(model=str(MODEL), revision="1")


def test_the_same_weights_are_the_same_wherever_they_lie(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "copy")
    check_weights(Checkpoint(str(tmp_path / "copy")), start=START, digest=weights_digest(MODEL))


def test_others_are_not_even_in_the_same_place() -> None:
    with pytest.raises(MisfitError, match=r"model weights: found sha256:\w+, expected sha256:0000"):
        check_weights(START, start=START, digest=f"sha256:{'0' * 64}")


def test_weights_that_cannot_be_read_are_not_the_same(tmp_path: Path) -> None:
    gone = Checkpoint(str(tmp_path))
    with pytest.raises(MisfitError, match="of unknown digest"):
        check_weights(gone, start=gone, digest=weights_digest(MODEL))


def test_where_nobody_knows_the_digest_they_must_come_from_the_same_place(tmp_path: Path) -> None:
    named = Checkpoint("org/model", "1")
    check_weights(named, start=named, digest="")
    for other in (Checkpoint("org/model"), Checkpoint("org/other", "1"), Checkpoint("org/model", "1", "s3://there")):
        with pytest.raises(MisfitError, match="expected those of org/model"):
            check_weights(other, start=named, digest="")
    with pytest.raises(MisfitError, match="expected those of"):
        check_weights(START, start=Checkpoint(str(tmp_path)), digest="")
