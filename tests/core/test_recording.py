"""A recording gives back what was written, when and where it came, and reads on around whatever damage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.core.batch import FiringBatch
from saewatch.core.errors import CorruptFrame, FrameError, VersionMismatch
from saewatch.core.marks import MARKS, Happening, Mark, RecordingHead
from saewatch.core.recording import Received, Recording, Totals, Writer
from saewatch.core.records import Ack, Record, RequestEnd, same
from saewatch.core.wire import VERSION, Reader, decode, encode
from tests import fakes
from tests.core.strategies import BY_KIND, framed

HEAD = RecordingHead(program="0.1.0", began_ns=5, note="for a test")
RECEIVED: st.SearchStrategy[Record] = st.one_of(*(one for kind, one in BY_KIND.items() if kind not in MARKS))
WEIGHTS = f"sha256:{'2' * 64}"
FILES = {"bundle.json": b"{}", "features.json": bytes(range(256)) * 700}
MS = 1_000_000

Item = tuple[int, int, Happening | Record]
"""Link, time, and what came."""


def written(items: Sequence[Item], *, close: bool = True) -> tuple[bytes, Writer]:
    """A recording of ``items``."""
    file = io.BytesIO()
    writer = Writer(file, HEAD)
    writer.sheets(WEIGHTS, FILES)
    for link, time_ns, what in items:
        if isinstance(what, Happening):
            writer.happens(link, time_ns, what)
        else:
            writer.write(link, time_ns, what)
    if close:
        writer.close()
    assert writer.bytes == len(file.getvalue())
    return file.getvalue(), writer


def read(data: bytes) -> tuple[Recording, list[Received]]:
    recording = Recording(io.BytesIO(data))
    return recording, list(recording.received())


def equal(found: Received, item: Item) -> bool:
    link, time_ns, what = item
    late = time_ns - found.mark.time_ns
    if isinstance(what, Happening):
        return found.record is None and found.mark.what == what and (found.mark.link, late) == (link, 0)
    return (
        found.record is not None
        and same(found.record, what)
        and found.mark.link == link
        and 0 <= late <= limits.MARK_INTERVAL_NS
    )


def sample(count: int = 40) -> list[Item]:
    """Two connections, taking turns."""
    items: list[Item] = [(1, 10 * MS, Happening.CONNECTED), (2, 11 * MS, Happening.CONNECTED)]
    for n in range(count):
        record = fakes.batch([(7, n, 3)], [(0, 1, 2.0), (2, 3, 1.0)], seq=n + 1, time_ns=n + 1)
        items.append((1 + n % 3 // 2, (12 + n // 4) * MS, record))
    items.append((1, 90 * MS, RequestEnd(request=7, fed=3, emitted=1)))
    return [*items, (2, 91 * MS, Happening.DISCONNECTED)]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2 * MS), RECEIVED | st.sampled_from(Happening))))
def test_everything_comes_back_in_order(steps: list[tuple[int, int, Happening | Record]]) -> None:
    items: list[Item] = []
    now = 1000
    for link, later, what in steps:
        now += later
        items.append((link, now, Happening.CONNECTED if what == Happening.FRAMES else what))
    data, _ = written(items)
    recording, found = read(data)
    assert recording.head == HEAD
    assert recording.sheets == {WEIGHTS: FILES}
    assert len(found) == len(items)
    assert all(map(equal, found, items))
    assert (recording.damaged_frames, recording.damaged_bytes) == (0, 0)
    index = recording.index
    assert index is not None
    records = [what for _, _, what in items if not isinstance(what, Happening)]
    batches = [one for one in records if isinstance(one, FiringBatch)]
    assert index.frames == len(records)
    assert index.rows == sum(one.rows for one in batches)
    assert index.missed == sum(int(one.missed_tokens.sum()) for one in batches)
    assert index.firings == sum(one.firings for one in batches)
    assert index.requests == sum(isinstance(one, RequestEnd) for one in records)
    assert index.duration_ns == (items[-1][1] - items[0][1] if items else 0)


def test_frames_within_a_millisecond_share_a_mark() -> None:
    ack = Ack(stream=1, epoch=2, seq=3)
    times = [5 * MS, 5 * MS + 1, 6 * MS, 6 * MS + 1, 9 * MS]
    data, _ = written([(1, time_ns, ack) for time_ns in times] + [(2, 9 * MS, ack)])
    marks = [item for item in Reader().feed(data) if isinstance(item, Mark)]
    assert [(one.link, one.time_ns) for one in marks] == [(1, 5 * MS), (1, 6 * MS + 1), (1, 9 * MS), (2, 9 * MS)]


def test_the_index_says_where_marks_are() -> None:
    data, writer = written(sample())
    index = Recording(io.BytesIO(data)).index
    assert index is not None
    assert len(index.offset) > 10
    for offset, time_ns in zip(index.offset.tolist(), index.time_ns.tolist(), strict=True):
        mark = next(iter(Reader().feed(data[offset:])))
        assert isinstance(mark, Mark)
        assert mark.time_ns == time_ns
    assert writer.duration_ns == index.duration_ns == 81 * MS


def test_the_index_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INDEX_MARKS", 8)
    for count in (7, 8, 9, 100, 1000):
        data, _ = written([(1, n * MS * 2, Ack(stream=1, epoch=2, seq=n)) for n in range(count)])
        index = Recording(io.BytesIO(data)).index
        assert index is not None
        assert min(count, 4) < len(index.offset) <= 8
        steps = np.diff(index.time_ns.astype(np.int64))
        assert len(set(steps.tolist())) == 1
        assert int(index.time_ns[-1]) + steps[0] >= count * 2 * MS


def test_what_was_lost_is_said_where_it_was() -> None:
    file = io.BytesIO()
    writer = Writer(file, HEAD)
    ack = Ack(stream=1, epoch=2, seq=3)
    writer.write(1, 5, ack)
    writer.write(1, 6, ack, lost=4)
    writer.close(lost=2)
    recording, found = read(file.getvalue())
    assert [one.mark.lost for one in found] == [0, 4]
    assert recording.index is not None
    assert recording.index.lost == writer.lost == 6


def test_without_an_index_it_is_read_all_the_same() -> None:
    items = sample()
    recording, found = read(written(items, close=False)[0])
    assert recording.index is None
    assert all(map(equal, found, items))
    assert len(found) == len(items)


def test_it_may_end_anywhere() -> None:
    items = sample(6)
    data, _ = written(items, close=False)
    starts = frame_starts(data)
    begin = starts[next(i for i, at in enumerate(starts) if isinstance(decode(frame_at(data, starts, i)), Mark))]
    for end in range(begin, len(data)):
        recording, found = read(data[:end])
        assert all(map(equal, found, items))
        whole = end in starts
        assert recording.damaged_frames == (not whole)
        assert recording.damaged_bytes == end - max(start for start in starts if start <= end)


def frame_starts(data: bytes) -> list[int]:
    starts, at = [], 0
    while at < len(data):
        starts.append(at)
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
    return starts


def frame_at(data: bytes, starts: list[int], number: int) -> bytes:
    return data[starts[number] : [*starts, len(data)][number + 1]]


@settings(max_examples=150)
@given(st.data())
def test_damage_anywhere_is_skipped_and_nothing_is_invented(data: st.DataObject) -> None:
    items = sample()
    sound, _ = written(items)
    position = data.draw(st.integers(0, len(sound) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=60))
    kind = data.draw(st.sampled_from(["change", "cut", "insert"]))
    if kind == "change":
        hurt = sound[:position] + bytes([sound[position] ^ noise[0] or 1]) + sound[position + 1 :]
    elif kind == "cut":
        hurt = sound[:position] + sound[position + len(noise) :]
    else:
        hurt = sound[:position] + noise + sound[position:]
    recording, found = read(hurt)
    left = iter(items)
    for one in found:  # each is one of what was written, in order and on its own connection
        assert any(equal(one, item) for item in left)
    assert len(found) >= len(items) - 10
    if len(found) < len(items):
        assert recording.damaged_frames > 0
        assert recording.damaged_bytes > 0


def test_after_damage_frames_wait_for_the_next_mark() -> None:
    """The mark that said whose they are may have been in it."""
    ack, other = Ack(stream=1, epoch=2, seq=3), Ack(stream=9, epoch=9, seq=9)
    data, _ = written([(1, MS, ack), (2, MS, other), (2, MS, other), (1, MS, ack)])
    starts = frame_starts(data)
    marks = [at for i, at in enumerate(starts) if isinstance(decode(frame_at(data, starts, i)), Mark)]
    hurt = bytearray(data)
    hurt[marks[1] + 20] ^= 1
    recording, found = read(bytes(hurt))
    assert [(one.mark.link, one.record) for one in found] == [(1, ack), (1, ack)]
    assert recording.damaged_frames == 3
    assert [one.partition("(")[0] for one in recording.defects()] == ["3 damaged frames "]
    torn, _ = read(data[:-30])
    assert "its end is missing" in torn.defects()[0]
    assert not read(data)[0].defects()
    assert recording.damaged_bytes == 2 * len(encode(other)) + starts[starts.index(marks[1]) + 1] - marks[1]


def test_a_damaged_sheet_is_left_out() -> None:
    data, _ = written(sample())
    starts = frame_starts(data)
    for number, lost in ((1, "bundle.json"), (2, "features.json"), (4, "features.json")):
        hurt = bytearray(data)
        hurt[starts[number] + 30] ^= 1
        recording, found = read(bytes(hurt))
        assert recording.sheets == {WEIGHTS: {name: file for name, file in FILES.items() if name != lost}}
        assert len(found) == len(sample())
        assert recording.damaged_frames == 1


def test_a_damaged_head_is_no_other_version() -> None:
    data, _ = written(sample())
    for position in range(60):
        hurt = bytearray(data)
        hurt[position] ^= 3
        recording, found = read(bytes(hurt))
        assert recording.head is None
        assert len(found) == len(sample())
        assert recording.damaged_frames >= 1


def test_another_version_is_refused() -> None:
    frame = framed(13, encode(HEAD)[16:], version=VERSION + 1)
    with pytest.raises(VersionMismatch) as caught:
        read(frame + framed(14, b"{}", version=VERSION + 1))
    assert (caught.value.found, caught.value.expected) == (VERSION + 1, f"1 to {VERSION}")
    assert "record anew" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "no frame"),
        (b"\x7fELF" * 1000, "no frame"),
        (b"SAEW", "no frame"),
        (encode(Ack(stream=1, epoch=1, seq=1)), "Ack"),
        (b"x" * limits.RECORDING_SEARCH_BYTES * 2 + encode(HEAD), "no frame"),
    ],
    ids=["empty", "program", "magic", "frames", "late"],
)
def test_a_file_that_is_no_recording_is_refused(data: bytes, found: str) -> None:
    with pytest.raises(CorruptFrame, match=found) as caught:
        read(data)
    assert "saewatch record" in caught.value.hint


def test_an_empty_recording() -> None:
    data, writer = written([])
    recording, found = read(data)
    assert found == []
    assert recording.index is not None
    assert (recording.began_ns, recording.index.duration_ns, writer.duration_ns) == (0, 0, 0)


def test_an_index_elsewhere_is_none(tmp_path: Path) -> None:
    data, _ = written(sample())
    for tail in (b"x", encode(Ack(stream=1, epoch=1, seq=1)), b"SAEW"):
        assert Recording(io.BytesIO(data + tail)).index is None
    path = tmp_path / "a.frames"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert Recording(file).index is not None


def test_totals_of_what_was_read_are_those_of_the_index() -> None:
    data, _ = written(sample())
    recording, found = read(data)
    totals = Totals()
    for one in found:
        if one.record is not None:
            totals.add(one.record)
    assert recording.index is not None
    assert totals == Totals(
        frames=recording.index.frames,
        rows=recording.index.rows,
        missed=recording.index.missed,
        firings=recording.index.firings,
        requests=recording.index.requests,
    )


def test_a_full_disk_passes_through() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        Writer(Full(), HEAD)


def test_an_error_is_one_of_ours() -> None:
    with pytest.raises(FrameError):
        read(b"junk")
