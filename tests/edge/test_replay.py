"""A replay of what a sidecar received comes to what the sidecar came to, at whatever pace."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from saewatch.core import limits
from saewatch.core.errors import EngineError
from saewatch.core.marks import Happening, RecordingHead
from saewatch.core.recording import Recording, Writer
from saewatch.core.records import Record, RequestStart
from saewatch.edge import dictionaries
from saewatch.edge.pipeline import Item, Pipeline, SinkQueue
from saewatch.edge.replay import RecordedClock, ReplaySource
from saewatch.monitor.events import Observed
from tests import fakes
from tests.edge.taped import KNOWN, Taped, metrics, replies, told, watched
from tests.waiting import wait_until

S = 1_000_000_000


class Replayed:
    """A replay of ``data`` and what is behind it."""

    def __init__(self, data: bytes, *, queue: SinkQueue | None = None, **options: Any) -> None:
        self.recording = Recording(io.BytesIO(data))
        files = self.recording.sheets.get(KNOWN.weights_digest)
        known = dictionaries.known(files, where="") if files else KNOWN
        self.clock = RecordedClock(self.recording.began_ns)
        self.queue = queue or SinkQueue("q", lambda: None, bound=100_000)
        self.items: list[Item] = []
        self.pipeline = Pipeline(dictionaries={known.weights_digest: known}, queues=[self.queue], clock=self.clock)
        self.source = ReplaySource(
            recording=self.recording, pipeline=self.pipeline, clock=self.clock, **{"speed": 0.0, **options}
        )

    def run(self) -> Replayed:
        """To its end."""
        self.source.start()
        while not self.source.progress.ended:
            self.items += self.queue.take()
            time.sleep(0.005)
        self.items += self.queue.take()
        assert self.source.failed is None
        return self

    def faults(self) -> dict[str, int]:
        """Counters that are not zero."""
        return {name: count for name, count in self.source.counters.items() if count}


Step = tuple[int, int, Happening | Record]
"""Link, time, and what happened."""


def recording(items: Iterable[Step], *, close: bool = True) -> bytes:
    """Link, time and what came, as a file."""
    file = io.BytesIO()
    writer = Writer(file, RecordingHead(program="0.1.0", began_ns=0))
    for link, time_ns, what in items:
        if isinstance(what, Happening):
            writer.happens(link, time_ns, what)
        else:
            writer.write(link, time_ns, what)
    if close:
        writer.close()
    return file.getvalue()


def beginning(link: int = 1, at_ns: int = 100 * S) -> list[Step]:
    """A connection with its stream."""
    ready = (fakes.stream_open(KNOWN), fakes.watch_set(KNOWN), fakes.beat())
    return [(link, at_ns, Happening.CONNECTED), *((link, at_ns, record) for record in ready)]


def steps(count: int, *, gap_ns: int) -> list[Step]:
    """One request of ``count`` tokens."""
    found = beginning()
    at = 100 * S
    found.append((1, at, RequestStart(request=7, engine_id="plain", prompt_len=4)))
    for number in range(count):
        at += gap_ns
        found.append((1, at, fakes.batch([(7, number, 1)], [(0, 1, 2.0)], seq=number + 1, time_ns=at)))
    return found


def has_frames(one: Replayed, frames: int) -> bool:
    return one.source.progress.totals.frames == frames


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[Taped, list[Item]]:
    """What a sidecar came to that recorded the scene."""
    one = Taped(tmp_path_factory.mktemp("live"))
    one.play()
    return one, one.queue.take()


async def test_it_comes_to_what_the_sidecar_came_to(live: tuple[Taped, list[Item]]) -> None:
    one, items = live
    again = Replayed(one.file.read_bytes()).run()
    assert told(again.items) == told(items)
    assert await watched(again.items) == await watched(items)
    assert len(await watched(items)) > 5
    assert len(told(items)) > 8
    assert replies(again.pipeline) == replies(one.pipeline)
    assert all(map(len, replies(one.pipeline)))
    was, now = one.status, again.pipeline.status()
    assert now.counters == was.counters
    assert {name for name, count in was.counters.items() if count} >= {"seq_gaps", "unattributed_tokens"}
    assert again.source.counters["refused_record"] == one.source.counters["refused_record"] == 1
    assert (now.open_requests, now.kept_records, now.queues) == (was.open_requests, was.kept_records, was.queues)
    for left, right in zip(now.streams, was.streams, strict=True):
        assert left.books == right.books
        assert (left.received_seq, left.received_rows, left.received_firings, left.received_missed) == (
            *(right.received_seq, right.received_rows, right.received_firings, right.received_missed),
        )
        assert (left.seq_gaps, left.connected, left.identity.opening) == (
            *(right.seq_gaps, right.connected, right.identity.opening),
        )
    assert metrics(again.items) == metrics(items)


def test_an_engine_that_had_to_connect_anew_does_so_in_the_recording_too() -> None:
    """Its name was another one's, which has gone for good: its next record closed its connection."""
    later: list[Step] = [
        (2, 101 * S, Happening.CONNECTED),
        (2, 101 * S, fakes.stream_open(KNOWN, epoch=2000)),
        (2, 102 * S, Happening.DISCONNECTED),
    ]
    freed = 103 * S + limits.LOST_ENGINE_NS
    again: list[Step] = [(1, freed, fakes.beat()), (1, freed, Happening.DISCONNECTED), *beginning(3, freed + S)]
    one = Replayed(recording([*beginning(), *later, *again])).run()
    assert one.pipeline.engines() == ["engine-0"]
    assert one.faults() == {"refused_record": 1}


def test_what_comes_out_does_not_depend_on_the_pace(live: tuple[Taped, list[Item]]) -> None:
    data = live[0].file.read_bytes()
    fast, paced, part = (Replayed(data, speed=speed, begin_s=0.0).run() for speed in (0.0, 50.0, 7.0))
    for other in (paced, part):
        assert told(other.items) == told(fast.items)
        assert [type(item) for item in other.items] == [type(item) for item in fast.items]
        assert replies(other.pipeline) == replies(fast.pipeline)
        assert other.pipeline.status().counters == fast.pipeline.status().counters
        assert other.source.counters == fast.source.counters
        assert metrics(other.items) == metrics(fast.items)
        assert other.clock.now_ns == fast.clock.now_ns


def test_the_pace_is_the_recorded_one_times_the_speed() -> None:
    data = recording(steps(11, gap_ns=30 * S))
    for speed, seconds in ((600.0, 0.5), (3000.0, 0.1)):
        one = Replayed(data, speed=speed, begin_s=0.0)
        began = time.monotonic()
        one.source.start()
        wait_until(partial(has_frames, one, 15))  # as it was recorded it takes 330 s
        assert time.monotonic() - began >= seconds
        one.source.stop()


def test_what_comes_before_the_first_request_is_not_waited_for() -> None:
    late = [(link, at + 600 * S, what) for link, at, what in steps(3, gap_ns=S // 10)]
    one = Replayed(recording([*beginning(), *late[4:]]), speed=1.0)
    one.source.start()
    wait_until(lambda: one.source.progress.totals.firings == 1)
    wait_until(lambda: one.source.progress.seconds > 600)  # the next step is a tenth of a second behind
    one.source.stop()


def test_a_part_of_it() -> None:
    data = recording(steps(100, gap_ns=S))
    one = Replayed(data, speed=0.1, begin_s=40.0)
    one.source.start()
    wait_until(lambda: one.source.progress.seconds >= 40.0)
    time.sleep(0.3)
    assert one.source.progress.seconds == 40.0
    one.source.stop()
    ended = Replayed(data, end_s=40.5).run()
    assert (ended.source.progress.totals.rows, ended.source.progress.seconds) == (40, 40.0)


def test_at_its_end_time_stands_still_and_nobody_is_disconnected() -> None:
    one = Replayed(recording(steps(5, gap_ns=S // 10))).run()
    now = one.clock.now_ns
    assert now == 100 * S + S // 2 + S + S // 10
    time.sleep(0.2)
    assert one.clock.now_ns == now
    assert one.source.alive
    status = one.pipeline.status()
    assert (status.links, status.open_requests, status.blind) == (1, 1, ())
    assert status.streams[0].connected


def test_what_waits_for_a_label_at_the_end_is_told() -> None:
    items = beginning()
    items.append((1, 100 * S, RequestStart(request=7, engine_id=fakes.engine_id(7), prompt_len=4)))
    items.append((1, 100 * S, fakes.batch([(7, 0, 4)], [(1, 2, 3.0)])))
    one = Replayed(recording(items)).run()
    assert [item.requests[0].traffic_class for item in one.items if isinstance(item, Observed)] == ["unlabelled"]


def test_a_silence_makes_a_stream_blind_as_it_did() -> None:
    items = [*beginning(), (1, 110 * S, fakes.batch([(7, 0, 1)]))]
    one = Replayed(recording(items)).run()
    assert [state.reason for state in one.pipeline.status().blind] == ["no_beat"]
    assert one.pipeline.status().blind[0].since_ns == 100 * S + 3 * S + S // 10


def test_a_clock_that_was_wrong_does_not_make_it_endless() -> None:
    items = [*beginning(), (1, 2**62, fakes.beat()), (1, 5, fakes.beat())]
    one = Replayed(recording(items, close=False))
    thread = threading.Thread(target=one.run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert one.clock.now_ns >= 2**62


def test_a_sink_that_is_slow_is_waited_for() -> None:
    queue = SinkQueue("slow", lambda: None)
    one = Replayed(recording(steps(3000, gap_ns=S // 1000)), queue=queue)
    one.source.start()
    wait_until(lambda: queue.state().waiting > limits.SINK_QUEUE_BATCHES // 2)
    time.sleep(0.2)
    assert queue.state().waiting < limits.SINK_QUEUE_BATCHES
    found = []
    while not one.source.progress.ended or queue.state().waiting:
        found += queue.take()
        time.sleep(0.001)
    assert queue.state().dropped == 0
    assert sum(isinstance(item, Observed) for item in found) == 3000


def test_it_stops_in_the_middle() -> None:
    one = Replayed(recording(steps(100, gap_ns=S)), speed=1.0)
    one.source.start()
    began = time.monotonic()
    one.source.stop()
    assert time.monotonic() - began < 50.0, "of 100 s"
    Replayed(recording([])).source.stop()  # before it was started


def test_a_recorded_engine_carries_nothing_out() -> None:
    one = Replayed(recording(steps(1, gap_ns=1))).run()
    asked, new = one.pipeline.ask("engine-0")
    assert new
    one.source.send(asked.link, asked.command)
    with pytest.raises(
        EngineError, match=r"a recording, which carries nothing out.*Ask the sidecar beside the engine\."
    ):
        asked.answer.result(1)


def test_a_recorded_self_test_is_observed(tmp_path: Path) -> None:
    one = Taped(tmp_path)
    one.source.start()
    with one.engine().ready() as engine:
        wait_until(lambda: one.pipeline.engines() == ["engine-0"])
        asked, _ = one.pipeline.ask("engine-0")
        one.source.send(asked.link, asked.command)
        engine.answer(fakes.self_test(failing="rows"))
        asked.answer.result(5)
        one.source.stop()
    again = Replayed(one.file.read_bytes()).run()
    assert [state.reason for state in again.pipeline.status().blind] == ["self_test_failed"]
    assert again.faults() == {}


def test_damage_is_counted_and_links_are_made_up_for() -> None:
    second = [(link, at + number * S // 100, what) for number, (link, at, what) in enumerate(beginning(2, 107 * S))]
    items = [*steps(5, gap_ns=S), (1, 106 * S, Happening.DISCONNECTED), *second]
    sound = recording(items)
    for position in range(0, len(sound) - 1, 37):
        data = bytearray(sound)
        data[position] ^= 1
        one = Replayed(bytes(data)).run()
        counters = one.source.counters
        assert one.recording.index is None or counters["damaged_frames"] >= 1 or position < 16
        assert counters["damaged_bytes"] > 0
        assert one.pipeline.status().links in {1, 2}
    assert Replayed(sound).run().faults() == {}


def test_what_damage_took_is_missed_for_everybody() -> None:
    items = steps(5, gap_ns=S)
    seventh = len(recording(items[:6], close=False))
    after = len(recording(items[:7], close=False))
    told = {"told": 5, "told_firings": 5, "firings": 5}
    items += [(1, 106 * S, fakes.beat(seq=5, fed=5, encoded=5, **told)), (1, 106 * S, Happening.DISCONNECTED)]
    data = bytearray(recording(items[:-1]))
    data[(seventh + after) // 2 + 20] ^= 1
    one = Replayed(bytes(data)).run()
    assert one.source.lost == {"tokens": 1, "rows": 1, "firings": 1}
    (stream,) = one.pipeline.status().streams
    assert stream.books is not None
    assert (stream.books.encoded, stream.books.missed, stream.books.imbalance) == (4, {"gap": 1}, 0)
    seen = [item.batch for item in one.items if isinstance(item, Observed)]
    assert [(batch.rows, batch.missed_tokens.tolist()) for batch in seen] == [(1, []), *[(1, [])] * 3, (0, [1])]


def test_without_an_index() -> None:
    sound = Replayed(recording(steps(20, gap_ns=S))).run()
    killed = Replayed(recording(steps(20, gap_ns=S), close=False)[:-5]).run()
    assert told(killed.items) == told(sound.items)[:-1]
    assert killed.faults() == {"damaged_frames": 1, "damaged_bytes": killed.recording.damaged_bytes}
