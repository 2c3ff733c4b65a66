"""A running tap is switched off and on, watches something else, and gets another dictionary: no batch is mixed."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from saewatch.core.batch import Census, FiringBatch, WatchSet
from saewatch.core.records import Ack, Beat, Result, StreamEnd, StreamOpen
from saewatch.core.tapconfig import DictionaryUse
from saewatch.core.wire import encode
from saewatch.engine import tap, watched
from saewatch.engine.control import Control
from saewatch.engine.dictionary_file import load_bundle
from tests.engine.changing import ROWS, Running, running_tap
from tests.engine.standin import BUNDLE, another_bundle
from tests.waiting import wait_until

POINT = load_bundle(BUNDLE).manifest.hook_point
WEIGHTS = load_bundle(BUNDLE).sheet.weights
FEATURES = [feature.id for feature in load_bundle(BUNDLE).catalogue.features]


def test_off_and_on_again(running: Running) -> None:
    running.step()
    assert running.asked("off").good
    beats = len(running.sidecar.of(Beat))
    running.step()
    wait_until(lambda: len(running.sidecar.of(Beat)) > beats)
    assert running.sidecar.of(Beat)[-1].streams[0].blind == "off"
    assert running.asked("on").good
    running.step()
    (end,) = running.closed().values()
    assert (end.final.fed, end.final.imbalance, end.final.blind) == (30, 0, "")
    assert (end.final.encoded, end.final.missed) == (18, {"excluded": 2, "blind": ROWS})


def test_an_idle_engine_is_switched_at_once(running: Running) -> None:
    running.step()
    assert running.asked("off").good
    assert running.asked("off").good, "twice is once"
    assert running.asked("on").good


def test_another_watch_set(running: Running) -> None:
    running.step(50)
    chosen = FEATURES[:2]
    found = running.asked("watch", weights=WEIGHTS, watch=json.dumps(chosen))
    assert found.good, found.message
    running.step(50)
    assert running.asked("watch", weights=WEIGHTS, hook_point=POINT, watch="").good
    running.step(50)
    (end,) = running.closed().values()
    assert (end.final.fed, end.final.imbalance) == (150, 0)
    sets = {one.watch: one for one in running.sidecar.of(WatchSet)}
    assert sets.keys() == {1, 2, 3}
    assert found.details["watch"] == sets[2].digest != sets[1].digest == sets[3].digest
    assert sets[2].total == int(found.details["slots"]) < sets[1].total
    for number, one in sets.items():
        firings = [slot for batch in running.batches(watch=number) for slot in batch.slot.tolist()]
        assert firings, "the fixture fires on such rows"
        assert max(firings) < one.total
    assert {batch.stream for batch in running.batches()} == {1}


def test_what_fires_is_what_the_same_features_fired_before(running: Running) -> None:
    """The rows of a watch set are those of the dictionary, whatever slots they have."""
    running.step(50)
    running.asked("watch", weights=WEIGHTS, watch=json.dumps(FEATURES[-2:]))
    running.steps = 0  # the same rows again
    running.tap.step(**{**running.enqueued(50), "finished": ("r1",)})
    running.closed()
    before, after = ({one.watch: one for one in running.sidecar.of(WatchSet)}[number] for number in (1, 2))
    (first,), (second,) = running.batches(watch=1), running.batches(watch=2)
    rows = {(int(k), int(r)) for k, r in zip(after.kind, after.row, strict=True)}

    def fired(batch: FiringBatch, names: WatchSet) -> dict[tuple[int, int, int], float]:
        keys = [(int(r), int(names.kind[s]), int(names.row[s])) for r, s in zip(batch.row, batch.slot, strict=True)]
        return dict(zip(keys, batch.value.tolist(), strict=True))

    expected = {key: value for key, value in fired(first, before).items() if key[1:] in rows}
    assert fired(second, after) == pytest.approx(expected, rel=1e-5, abs=1e-5)  # another shape, another order of sums
    assert expected


def test_another_dictionary(running: Running, tmp_path: Path) -> None:
    folder = another_bundle(tmp_path / "other", POINT, features=3)
    weights = load_bundle(folder).sheet.weights
    running.step(50)
    found = running.asked("load", replace=WEIGHTS, path=str(folder), weights=weights)
    assert found.good, found.message
    assert (found.details["opened"], found.details["weights"]) == ("2", weights)
    running.step(50)
    ends = running.closed()
    assert (ends[1].reason, ends[2].reason) == ("swap", "shutdown")
    assert [(ends[number].final.fed, ends[number].final.imbalance) for number in (1, 2)] == [(50, 0), (50, 0)]
    opened = running.sidecar.of(StreamOpen)[-1]
    assert (opened.stream, opened.hook_point, opened.blind) == (2, POINT, "")
    assert {batch.stream for batch in running.batches()} == {1, 2}
    told = (Result, WatchSet, StreamOpen, StreamEnd)
    kinds = [type(one) for one in running.sidecar.records if isinstance(one, told)]
    assert kinds == [StreamOpen, WatchSet, StreamOpen, WatchSet, Result, StreamEnd, StreamEnd]


def test_a_dictionary_that_was_replaced_leaves_the_memory_of_an_idle_engine(running: Running, tmp_path: Path) -> None:
    folder = another_bundle(tmp_path / "other", POINT, features=3)
    for _ in range(8):  # each slot has had it
        running.step()
        wait_until(lambda: running.tap.books[0].fed == running.steps * ROWS)
    before = weakref.ref(running.tap.watched[0].encoder)
    assert running.asked("load", replace=WEIGHTS, path=str(folder)).good
    wait_until(lambda: (gc.collect(), before() is None)[1])


def test_another_dictionary_is_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its census is made in inference mode, and taken where the engine may be in none: vLLM's model runner V2."""
    monkeypatch.setattr(watched, "CENSUS_EVERY_NS", 0)
    folder = another_bundle(tmp_path / "other", POINT, features=3)
    with running_tap(tmp_path, dictionaries=(DictionaryUse(path=str(BUNDLE), census=1.0),)) as running:
        found = running.asked("load", replace=WEIGHTS, path=str(folder))
        assert found.good, found.message
        for _ in range(4):
            running.step(50)
        ends = running.closed()
        counted = [one.tokens for one in running.sidecar.of(Census) if (one.stream, one.first) == (2, 0)]
    assert (ends[2].final.fed, ends[2].final.blind) == (200, "")
    assert counted == [98, 49, 49], "all but first tokens; the first step begins a period"


def test_a_change_is_made_on_a_stream_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the model's stream would carry it out in front of the model; who uses it has to know it is done."""
    told: list[str] = []

    class Stream:
        def __init__(self, _: torch.device) -> None:
            pass

        def synchronize(self) -> None:
            told.append(f"{threading.current_thread().name} waits")

    @contextlib.contextmanager
    def current(stream: Any) -> Iterator[None]:
        told.append(f"{threading.current_thread().name} {type(stream).__name__}")
        yield

    monkeypatch.setattr(tap, "own_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", current)
    with running_tap(tmp_path) as running:
        assert running.asked("off").good
        running.again()
        wait_until(lambda: len(told) > 4)
    (shipper,), control = told[:1], [one for one in told if "control" in one]
    assert shipper == "saewatch-shipper Stream"
    assert control == ["saewatch-control Stream", "saewatch-control waits"] * 2


def test_of_two_streams_with_the_same_weights_the_role_says_which_is_meant(tmp_path: Path) -> None:
    folder = another_bundle(tmp_path / "other", POINT, features=3)
    uses = tuple(DictionaryUse(path=str(BUNDLE), role=role) for role in ("stable", "shadow"))
    with running_tap(tmp_path, dictionaries=uses) as running:
        running.step(50)
        found = running.asked("load", replace=WEIGHTS, hook_point=POINT, role="shadow", path=str(folder))
        assert found.good, found.message
        running.step(50)
        ends = running.closed()
        assert {number: end.reason for number, end in ends.items()} == {1: "shutdown", 2: "swap", 3: "shutdown"}
        assert [ends[number].final.fed for number in (1, 2, 3)] == [100, 50, 50]
        opened = running.sidecar.of(StreamOpen)[-1]
        assert (opened.stream, opened.role) == (3, "shadow")


def test_a_stream_that_was_swapped_out_ends_when_all_of_it_is_acknowledged(running: Running, tmp_path: Path) -> None:
    folder = another_bundle(tmp_path / "other", POINT, features=3)
    running.sidecar.acks = False
    running.step(50)
    assert running.asked("load", replace=WEIGHTS, path=str(folder)).good
    time.sleep(0.2)
    assert not running.sidecar.of(StreamEnd)
    running.sidecar.acks = True
    running.sidecar.say(encode(Ack(stream=1, epoch=7, seq=1)))
    wait_until(lambda: bool(running.sidecar.of(StreamEnd)))
    (end,) = running.sidecar.of(StreamEnd)
    assert (end.stream, end.reason, end.final.encoded, end.final.in_flight) == (1, "swap", 49, 0)


def test_a_swap_survives_a_sidecar_that_hangs_up(running: Running, tmp_path: Path) -> None:
    folder = another_bundle(tmp_path / "other", POINT, features=3)
    running.sidecar.acks = False
    running.step(50)
    assert running.asked("load", replace=WEIGHTS, path=str(folder)).good
    running.step(50)
    running.sidecar.hang_up()
    wait_until(lambda: len(running.sidecar.connections) == 2)
    wait_until(lambda: 1 in {end.stream for end in running.sidecar.of(StreamEnd)})
    ends = running.closed()
    assert all(end.final.imbalance == 0 for end in ends.values())
    assert [ends[number].final.fed for number in (1, 2)] == [50, 50]


@pytest.mark.parametrize(
    ("verb", "arguments", "says"),
    [
        ("watch", {"weights": "sha256:other", "watch": ""}, "stream: found sha256:other, expected one of"),
        ("watch", {"weights": WEIGHTS, "hook_point": "resid_post.9"}, "resid_post.9"),
        ("watch", {"weights": WEIGHTS, "watch": json.dumps(["nobody"])}, "nobody"),
        ("watch", {"weights": WEIGHTS, "watch": "["}, "broke with JSONDecodeError"),
        ("load", {"replace": WEIGHTS, "path": "/nowhere"}, "/nowhere"),
        ("load", {"replace": WEIGHTS, "role": "shadow", "path": str(BUNDLE)}, f"found {WEIGHTS} shadow"),
        ("load", {"replace": WEIGHTS, "path": str(BUNDLE), "weights": "sha256:other"}, "expected sha256:other"),
    ],
)
def test_what_is_refused_changes_nothing(running: Running, verb: str, arguments: dict[str, str], says: str) -> None:
    found = running.asked(verb, **arguments)
    assert not found.good
    assert says in found.message
    running.step()
    (end,) = running.closed().values()
    assert (end.final.fed, end.final.encoded, end.final.blind) == (ROWS, ROWS - 1, "")
    assert {one.watch for one in running.sidecar.of(WatchSet)} == {1}


def test_a_dictionary_for_another_hook_point_is_refused(running: Running, tmp_path: Path) -> None:
    folder = another_bundle(tmp_path / "other", "resid_post.3")
    found = running.asked("load", replace=WEIGHTS, path=str(folder))
    assert not found.good
    assert f"hook_point: found resid_post.3, expected {POINT}" in found.message


def test_a_tap_that_failed_is_not_brought_back(running: Running) -> None:
    running.tap.disable("fault")
    running.step()
    found = running.asked("on")
    assert not found.good
    assert "blind: fault" in found.message
    running.step()
    (end,) = running.closed().values()
    assert (end.final.missed, end.final.blind) == ({"blind": 2 * ROWS}, "fault")


def test_one_change_at_a_time(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()
    prepared = Control._prepared  # noqa: SLF001 - to hold the first one up
    monkeypatch.setattr(Control, "_prepared", lambda *a: (ready.wait(10), prepared(*a))[1])
    first = running.command("off")
    found = running.asked("on")
    assert not found.good
    assert "off on its way" in found.message
    ready.set()
    wait_until(lambda: any(one.command == first and one.good for one in running.sidecar.of(Result)))


@pytest.mark.parametrize("arguments", [{"weights": WEIGHTS}, {"weights": "sha256:unknown"}], ids=["good", "refused"])
def test_an_answer_goes_to_the_sidecar_that_asked_and_to_no_other(
    running: Running, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, str]
) -> None:
    ready = threading.Event()
    prepared = Control._prepared  # noqa: SLF001 - to hold the first one up
    running.step()
    with monkeypatch.context() as slow:
        slow.setattr(Control, "_prepared", lambda *a: (ready.wait(10), prepared(*a))[1])
        first = running.command("watch", **arguments)
        begun = running.tap._control  # noqa: SLF001 - when it has begun, nothing says
        wait_until(lambda: begun._pending)  # noqa: SLF001 - as above
        running.sidecar.hang_up()
        wait_until(lambda: len(running.sidecar.connections) == 2)
        assert "watch on its way" in running.asked("on").message
        ready.set()
        wait_until(lambda: not begun._pending)  # noqa: SLF001 - as above
    last = running.asked("off")
    assert last.good
    told = [one.command for one in running.sidecar.of(Result)]
    assert first not in told
    assert told[-1] == last.command


def test_a_change_for_which_there_is_no_thread_does_not_keep_the_next_ones_waiting(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", full)
        found = running.asked("off")
    assert not found.good
    assert "broke with RuntimeError" in found.message
    assert running.asked("off").good
    running.tap.pause("reload")
    running.again("reload")
    wait_until(lambda: len(running.sidecar.of(StreamOpen)) == 2)


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_under_load_each_token_counts_once_and_no_batch_is_mixed(running: Running, tmp_path: Path, ahead: int) -> None:
    """``ahead``: forward passes that are enqueued before the tokens of the first of them come."""
    folder = another_bundle(tmp_path / "other", POINT, features=3)
    other = load_bundle(folder).sheet.weights
    changes = itertools.cycle(
        [
            ("watch", {"weights": WEIGHTS, "watch": json.dumps(FEATURES[:2])}),
            ("off", {}),
            ("on", {}),
            ("load", {"replace": WEIGHTS, "path": str(folder)}),
            ("load", {"replace": other, "path": str(BUNDLE)}),
        ]
    )
    waiting, asked = [], 0
    while running.steps < 120 or asked < 10:
        waiting.append(running.tap.begin(**{k: v for k, v in running.enqueued().items() if k != "emitted"}))
        if len(waiting) > ahead:
            running.tap.ship(waiting.pop(0), {f"r{running.steps - len(waiting)}": [7]})
        if len(running.sidecar.of(Result)) == asked:
            verb, arguments = next(changes)
            running.command(verb, **arguments)
            asked += 1
        time.sleep(0.005)
    while waiting:
        running.tap.ship(waiting.pop(0), {f"r{running.steps - len(waiting)}": [7]})
    ends = running.closed()
    assert all(one.good for one in running.sidecar.of(Result)), [one.message for one in running.sidecar.of(Result)]
    assert sum(end.final.fed for end in ends.values()) == running.steps * ROWS
    assert all(end.final.imbalance == 0 for end in ends.values())
    assert sum(end.final.missed.get("no_slot", 0) for end in ends.values()) < running.steps * ROWS
    slots = {(one.stream, one.watch): one.total for one in running.sidecar.of(WatchSet)}
    for batch in running.batches():
        assert not len(batch.slot) or batch.slot.max() < slots[batch.stream, batch.watch]
    order = [(batch.stream, batch.watch) for batch in running.batches()]
    assert order == sorted(order), "one state after the other"
