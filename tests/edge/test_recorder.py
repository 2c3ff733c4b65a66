"""What a sidecar receives, in a file: all of it, as it came, and never at the sidecar's cost."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saewatch.core import limits
from saewatch.core.errors import ConfigError, RecordError, UnreachableError
from saewatch.core.marks import Happening, Mark, RecordingHead
from saewatch.core.recording import Recording
from saewatch.core.records import Ack, Command, Record, StreamOpen
from saewatch.edge.recorder import FAILED, FULL, Recorder
from tests import fakes
from tests.edge.taped import KNOWN, Taped
from tests.waiting import wait_until


class Silent:
    """A consumer that takes everything."""

    def connect(self, link: int) -> None:
        """Nothing."""

    def receive(self, link: int, record: Record) -> None:
        """Nothing."""

    def acknowledge(self, link: int, stream: int) -> Ack | None:
        """Nothing."""
        return None

    def disconnect(self, link: int) -> None:
        """Nothing."""

    def tick(self) -> None:
        """Nothing."""


@pytest.fixture
def taped(tmp_path: Path) -> Iterator[Taped]:
    one = Taped(tmp_path, note="a test")
    one.source.start()
    yield one
    one.source.stop()
    assert one.source.failed is None


def kinds(one: Taped) -> list[str]:
    """What was recorded, in words."""
    return [type(got.record).__name__ if got.record else str(got.mark.what) for got in one.received()]


def test_what_is_received_is_in_the_file_and_behind_it(taped: Taped) -> None:
    began = time.time_ns()
    with taped.engine().ready() as engine:
        engine.start(7, name="plain")
        engine.batch([(7, 0, 4)], [(2, 1, 3.0)])
        assert engine.acked(1)
    wait_until(lambda: taped.pipeline.status().links == 0)
    taped.source.stop()
    assert kinds(taped) == [
        *("connected", "StreamOpen", "WatchSet", "Beat", "RequestStart", "FiringBatch", "disconnected")
    ]
    assert [item.batch.value.tolist() for item in taped.queue.take() if hasattr(item, "batch")] == [[3.0]]
    assert all(began <= got.mark.time_ns <= time.time_ns() for got in taped.received())
    with taped.file.open("rb") as file:
        recording = Recording(file)
    assert recording.head is not None
    assert recording.head.note == "a test"
    assert sorted(recording.sheets[KNOWN.weights_digest]) == ["bundle.json", "dictionary.json", "features.json"]
    assert recording.index is not None
    assert (recording.index.frames, recording.index.rows, recording.index.firings) == (5, 4, 1)
    state = taped.recorder.state()
    assert (state.totals.frames, state.bytes, state.ended) == (5, taped.file.stat().st_size, "")


def test_the_engines_stay_connected_at_its_end(taped: Taped) -> None:
    with taped.engine().ready():
        wait_until(lambda: taped.recorder.state().totals.frames == 3)
        taped.source.stop()
    assert kinds(taped)[-1] == "Beat"


def test_it_is_there_before_the_end(taped: Taped) -> None:
    """Whoever kills the sidecar leaves whole frames."""
    with taped.engine().ready():
        wait_until(lambda: taped.recorder.state().totals.frames == 3)
        wait_until(lambda: len(kinds(taped)) == 4)


def test_what_is_refused_behind_it_is_recorded_all_the_same(taped: Taped) -> None:
    with taped.engine().ready() as engine:
        engine.end(99)
        wait_until(lambda: taped.source.counters["refused_record"] == 1)
    taped.source.stop()
    assert "RequestEnd" in kinds(taped)


def test_an_engine_cannot_forge_a_mark(taped: Taped) -> None:
    with taped.engine().ready() as engine:
        engine.send(Mark(link=5, time_ns=1, what=Happening.DISCONNECTED), RecordingHead(program="x", began_ns=1))
        wait_until(lambda: taped.source.counters["refused_record"] == 2)
    taped.source.stop()
    assert {got.mark.link for got in taped.received()} == {1}
    assert "x" not in {got.record.engine for got in taped.received() if isinstance(got.record, StreamOpen)}


def test_the_file_is_its_owners_alone_and_new(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        one = Taped(tmp_path)
        one.source.start()
        assert stat.S_IMODE(one.file.stat().st_mode) == 0o600
        one.source.stop()
    finally:
        os.umask(before)
    content = one.file.read_bytes()
    with pytest.raises(ConfigError, match="File exists") as caught:
        Recorder(path=one.file, consumer=Silent(), bundles={}).start()
    assert "another name" in caught.value.hint
    assert one.file.read_bytes() == content


@pytest.mark.parametrize(("place", "error"), [("nowhere/a.frames", UnreachableError), (".", ConfigError)])
def test_a_file_that_cannot_be_made(tmp_path: Path, place: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Recorder(path=tmp_path / place, consumer=Silent(), bundles={}).start()


def test_a_source_that_was_not_started_is_stopped(tmp_path: Path) -> None:
    one = Taped(tmp_path)
    one.file.touch()
    with pytest.raises(ConfigError):
        one.source.start()
    one.source.stop()
    assert not Path(one.path).exists()


def test_what_the_queue_does_not_take_is_counted_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORDING_QUEUE_BYTES", 3000)
    recorder = Recorder(path=tmp_path / "a", consumer=Silent(), bundles={})
    for number in range(10):  # before the thread runs
        recorder.receive(1, fakes.batch([(7, number, 1)], seq=number + 1))
    assert recorder.state().dropped == 5
    recorder.start()
    wait_until(lambda: recorder.state().totals.frames == 5)
    for number in range(3):
        recorder.receive(1, fakes.batch([(7, number, 1)], seq=number + 11))
    recorder.close()
    with (tmp_path / "a").open("rb") as file:
        recording = Recording(file)
        lost = [got.mark.lost for got in recording.received()]
    assert lost[:6] == [0, 0, 0, 0, 0, 5]
    assert recording.index is not None
    assert recording.index.lost == 5


def test_it_ends_at_its_bound_and_the_sidecar_goes_on(tmp_path: Path) -> None:
    one = Taped(tmp_path, max_bytes=limits.FRAME_BYTES + 20_000)
    one.source.start()
    with one.engine().ready() as engine:
        engine.start(7, name="plain")
        for position in range(300):
            engine.batch([(7, position, 1)], [(0, 1, 1.0)])
        assert engine.acked(300)
        wait_until(lambda: one.recorder.state().ended == FULL)
        engine.batch([(7, 400, 1)])
        assert engine.acked(301)
    one.source.stop()
    assert one.file.stat().st_size <= limits.FRAME_BYTES + 20_000
    with one.file.open("rb") as file:
        index = Recording(file).index
    assert index is not None
    assert 20 < index.frames == one.recorder.state().totals.frames < 300
    assert one.source.counters["recording_failed"] == 0


def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    one = Taped(tmp_path)
    one.file.symlink_to("/dev/full")
    with pytest.raises(ConfigError):
        one.source.start()  # a link is never followed
    one.file.unlink()
    one.source.start()
    descriptor = os.open("/dev/full", os.O_WRONLY)
    os.dup2(descriptor, one.recorder._file.fileno())  # noqa: SLF001 - as if the disk filled up under it
    os.close(descriptor)
    with one.engine().ready() as engine:
        wait_until(lambda: one.recorder.state().ended == FAILED)
        engine.start(7, name="plain")
        engine.batch([(7, 0, 1)])
        assert engine.acked(1)
    one.source.stop()
    assert one.recorder.state().problem == "No space left on device"
    assert one.source.counters["recording_failed"] == 1
    assert one.source.failed is None


def test_commands_pass_through_it(taped: Taped) -> None:
    with taped.engine().ready() as engine:
        assert taped.source.alive
        taped.source.send(1, Command(command=1, verb="self_test"))
        assert engine.commanded().verb == "self_test"


def test_a_burst_is_written_whole_and_in_order(tmp_path: Path, threads_left: Callable[[], list[str]]) -> None:
    recorder = Recorder(path=tmp_path / "a", consumer=Silent(), bundles={})
    recorder.start()
    for number in range(5000):
        recorder.receive(1 + number % 3, fakes.batch([(7, number, 1)], seq=number + 1))
    recorder.close()
    with (tmp_path / "a").open("rb") as file:
        found = [(got.mark.link, got.record.seq) for got in Recording(file).received() if got.record]  # type: ignore[union-attr]  # batches only
    assert found == [(1 + number % 3, number + 1) for number in range(5000)]
    assert "saewatch-recorder" not in threads_left()


def test_refusals_of_the_consumer_pass_through(taped: Taped) -> None:
    taped.recorder.connect(5)
    with pytest.raises(RecordError):
        taped.recorder.receive(5, fakes.batch([(7, 0, 1)]))
    assert taped.recorder.acknowledge(5, 1) is None
    taped.recorder.disconnect(5)
