"""Recordings: frames one after another are read however they are cut, and around whatever damage."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from saewatch.core.errors import FrameError, TruncatedFrame
from saewatch.core.records import Ack, Record, same
from saewatch.core.wire import KINDS, PAYLOAD_BYTES, READS, VERSION, Reader, decode, encode
from tests.core.frames import make
from tests.core.strategies import BY_KIND, RECORDS, large_batch

FRAMES = {type(record).__name__: encode(record) for record in make.records()}
STORED = sorted((Path(__file__).parent / "frames").glob("v*/*.bin"))


def read_all(stream: bytes, cuts: Iterable[int] = ()) -> tuple[list[Record], list[FrameError], Reader]:
    """What a `Reader` makes of ``stream`` when it comes in pieces cut at ``cuts``."""
    reader, records, errors = Reader(), list[Record](), list[FrameError]()
    bounds = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:stop] for start, stop in pairwise(bounds)]
    for item in (*(item for piece in pieces for item in reader.feed(piece)), *reader.close()):
        if isinstance(item, FrameError):
            errors.append(item)
        else:
            records.append(item)
    return records, errors, reader


def all_same(left: list[Record], right: list[Record]) -> bool:
    return len(left) == len(right) and all(map(same, left, right))


@settings(max_examples=60)
@given(st.lists(RECORDS, max_size=6), st.data())
def test_a_sound_stream_is_read_whole_however_it_is_cut(records: list[Record], data: st.DataObject) -> None:
    stream = b"".join(map(encode, records))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    found, errors, reader = read_all(stream, cuts)
    assert all_same(found, records)
    assert not errors
    assert reader.skipped == 0


@settings(max_examples=80)
@given(st.data())
def test_records_around_damage_are_all_read_and_nothing_is_invented(data: st.DataObject) -> None:
    records = data.draw(st.lists(RECORDS, min_size=2, max_size=6))
    frames = [encode(record) for record in records]
    hit = data.draw(st.integers(0, len(frames) - 1))
    frame = frames[hit]
    position = data.draw(st.integers(0, len(frame) - 1) | st.integers(0, 15))
    damaged = data.draw(
        st.sampled_from(
            [
                frame[:position],
                frame[:position] + bytes([frame[position] ^ data.draw(st.integers(1, 255))]) + frame[position + 1 :],
                frame[:position] + frame[position + 1 :],
                frame[:position] + data.draw(st.binary(min_size=1, max_size=40)) + frame[position:],
            ]
        )
    )
    assume(frame not in damaged)  # an insert before or behind it: the next test
    stream = b"".join([*frames[:hit], damaged, *frames[hit + 1 :]])
    found, errors, reader = read_all(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    assert bool(errors) == bool(damaged)
    assert reader.skipped == len(damaged)
    assert all_same(found, records[:hit] + records[hit + 1 :])


@given(st.binary(min_size=1, max_size=300), st.data())
def test_noise_between_frames_is_one_error_and_is_counted(noise: bytes, data: st.DataObject) -> None:
    stream = FRAMES["Ack"] + noise + FRAMES["Result"]
    found, errors, reader = read_all(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    assert [type(record).__name__ for record in found] == ["Ack", "Result"]
    assert len(errors) == 1 + noise.count(b"SAEW", 1)
    assert reader.skipped == len(noise)


@settings(max_examples=30)
@given(st.integers(0, len(FRAMES["FiringBatch"]) - 1), st.integers(1, 255))
def test_what_is_said_does_not_depend_on_the_pieces(position: int, change: int) -> None:
    damaged = bytearray(FRAMES["FiringBatch"])
    damaged[position] ^= change
    stream = FRAMES["Ack"] + bytes(damaged) + b"SAE" + FRAMES["Beat"] + b"SAEWSAEW" + FRAMES["Result"] + b"SAEW\x01"
    whole = read_all(stream)
    for step in (1, 3, 16, 100):
        found, errors, reader = read_all(stream, range(0, len(stream), step))
        assert all_same(found, whole[0])
        assert [str(error) for error in errors] == [str(error) for error in whole[1]]
        assert reader.skipped == whole[2].skipped


@pytest.mark.parametrize("claim", [30, 1000, 65_536, PAYLOAD_BYTES])
def test_a_length_that_claims_too_much_hides_no_later_frame(claim: int) -> None:
    ack = bytearray(FRAMES["Ack"])
    ack[8:12] = struct.pack("<I", claim)
    for followers in (1, 3, 5000):
        stream = bytes(ack) + FRAMES["Result"] * followers
        found, errors, reader = read_all(stream, range(0, len(stream), 4096))
        assert len(found) == followers
        assert len(errors) == 1
        assert reader.skipped == len(ack)


@pytest.mark.parametrize("name", FRAMES)
def test_a_stream_that_ends_inside_a_frame_says_so(name: str) -> None:
    for length in range(1, len(FRAMES[name])):
        found, errors, reader = read_all(FRAMES["Ack"] + FRAMES[name][:length])
        assert [type(record) for record in found] == [Ack]
        assert [type(error) for error in errors] == [TruncatedFrame]
        assert reader.skipped == length


def recording(size: int) -> tuple[list[bytes], bytes]:
    """Frames as an engine sends them, and the same as one stream of about ``size`` bytes."""
    kinds = [
        encode(large_batch(spans=spans, rows=rows, firings=firings, seed=spans))
        for spans, rows, firings in ((8, 8, 64), (64, 64, 2048), (200, 256, 8192), (16, 1024, 12_000))
    ]
    frames = [*kinds, *FRAMES.values()]
    turns = -(-size // sum(map(len, frames)))
    return frames * turns, b"".join(frames * turns)


def test_a_long_recording_with_damage_everywhere_is_read_in_linear_time() -> None:
    frames, stream = recording(10_000_000)
    starts = np.cumsum([0, *map(len, frames)])
    dice, damaged = random.Random(5), bytearray(stream)
    hit = set()
    for near in range(25_000, len(stream) - 200_000, 50_000):
        index = int(np.searchsorted(starts, near, "right")) - 1
        if index not in hit:  # its length, or a byte of the middle
            damaged[int(starts[index]) + 10 if dice.random() < 0.5 else near] ^= 1
            hit.add(index)
    assert len(hit) > 100
    expected = [decode(frame) for index, frame in enumerate(frames) if index not in hit]
    for step in (len(stream), 65_536, 500):
        started = time.process_time()
        found, errors, reader = read_all(bytes(damaged), range(0, len(stream), step))
        seconds = time.process_time() - started
        print(f"pieces of {step} B: {seconds:.2f} s, {len(errors)} errors, {reader.skipped} bytes skipped")
        assert all_same(found, expected)
        assert reader.skipped == sum(len(frames[index]) for index in hit)
        assert seconds < 5.0  # 0.1 s to 0.3 s when nothing else runs


def test_small_pieces_of_a_large_frame_cost_no_search_each() -> None:
    full = encode(large_batch(spans=1, rows=100, firings=13_000))
    reader = Reader()
    started = time.process_time()
    found = [item for index in range(len(full)) for item in reader.feed(full[index : index + 1])]
    assert len(found) == 1
    assert time.process_time() - started < 4.0  # 0.3 s; a search in what waits would make it 10 s


# --- recorded frames ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recorded_frames_read_as_they_always_did(path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text())
    found, errors, _ = read_all(path.read_bytes(), range(0, 5000, 7))
    assert not errors
    said = [make.says(record) for record in found]
    for one, now in zip(expected if isinstance(expected, list) else [expected], said, strict=True):
        assert {key: now[key] for key in one} == one  # a later version may know more fields


def test_there_are_recorded_frames_of_every_version_that_is_read() -> None:
    names = {path.name for path in STORED}
    assert names == {f"{kind.__name__}.bin" for kind in KINDS.values()} | {"stream.bin"}
    assert {path.parent.name for path in STORED} == {f"v{version}" for version in READS}
    assert VERSION in READS


def test_the_script_writes_the_recorded_frames_again(tmp_path: Path) -> None:
    script = Path(make.__file__)
    path = str(script.parents[3] / "service")
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, env={"PYTHONPATH": path})
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert written == {file.name: file.read_bytes() for file in make.FOLDER.iterdir()}


def test_strategies_and_recorded_frames_know_every_kind() -> None:
    assert set(BY_KIND) == set(KINDS.values()) == {type(record) for record in make.records()}
