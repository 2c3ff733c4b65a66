"""Requests of a recording: the real one of the demo, and made ones that lie."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saewatch.cli.dictionary.recorded import Recorded, RecordedRequests
from saewatch.core import limits
from saewatch.core.batch import FiringBatch, Origin, WatchSet
from saewatch.core.errors import ConfigError, CorruptFrame, UnreachableError
from saewatch.core.marks import Happening, RecordingHead
from saewatch.core.recording import Writer
from saewatch.core.records import Record, RequestEnd, RequestLabel, RequestStart
from saewatch.edge.dictionaries import load_one
from saewatch.monitor.tables import KnownDictionary
from tests import fakes

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "recordings" / "demo.frames"
KNOWN = fakes.dictionary()
SLOTS = fakes.slots_of(KNOWN)


def test_the_recording_of_the_demo() -> None:
    """Its README says which dictionary, and that requests, lengths and firings are in it."""
    known = load_one(ROOT / "dictionaries" / "smollm2-135m-it.resid_post.14")
    read = RecordedRequests(DEMO, known)
    found = list(read)
    assert (len(found), read.open, read.cut) == (24, 0, 0)
    assert all(one.client_id and one.tokens >= one.prompt_len - 1 for one in found)
    assert all(one.read[one.position].all() for one in found), "nothing fires where nothing was read"
    assert read.opening is not None
    assert read.opening.weights_digest == known.weights_digest
    names = {known.catalogue.features[number].id for one in found for number in one.feature.tolist()}
    assert "threat.p1" in names


def watch(first: int = 0, total: int = len(SLOTS), number: int = 1) -> WatchSet:
    part = SLOTS[first:total]
    return WatchSet(
        stream=1,
        watch=number,
        digest=KNOWN.catalogue.watch_list(KNOWN.manifest).digest,
        first=first,
        total=len(SLOTS),
        row=np.array([unit for _, unit, _ in part], np.uint32),
        floor=np.array([floor for _, _, floor in part], np.float32),
        kind=np.array([kind for kind, _, _ in part], np.uint8),
    )


def batch(firings: list[tuple[int, int, float]], *, start: int = 0, tokens: int = 4, request: int = 1) -> FiringBatch:
    """``firings``: row, slot, value."""
    rows, slots, values = zip(*firings, strict=True) if firings else ((), (), ())
    none = np.zeros(0, np.int32)
    return FiringBatch(
        stream=1,
        watch=1,
        seq=1,
        step=1,
        time_ns=1,
        request=np.array([request], np.uint32),
        span_start=np.array([0, tokens], np.int32),
        position=np.array([start], np.int32),
        origin=np.array([Origin.COMPUTED], np.uint8),
        missed_request=none.astype(np.uint32),
        missed_reason=none.astype(np.uint8),
        missed_tokens=none,
        row=np.array(rows, np.uint32),
        slot=np.array(slots, np.uint16),
        value=np.array(values, np.float32),
    )


START = RequestStart(request=1, engine_id=fakes.engine_id(1), prompt_len=3)
END = RequestEnd(request=1, fed=4, emitted=0)


def read(folder: Path, *records: Record, known: KnownDictionary = KNOWN) -> tuple[list[Recorded], RecordedRequests]:
    out = io.BytesIO()
    writer = Writer(out, RecordingHead(program="0.1.0", began_ns=0))
    writer.happens(1, 1, Happening.CONNECTED)
    for one in (fakes.stream_open(KNOWN), *records):
        writer.write(1, 1, one)
    writer.close()
    (folder / "a.frames").write_bytes(out.getvalue())
    requests = RecordedRequests(folder / "a.frames", known)
    return list(requests), requests


def test_the_last_time_that_a_position_was_computed_counts(tmp_path: Path) -> None:
    slot = next(index for index, (_, unit, _) in enumerate(SLOTS) if unit == 3)
    first, again = batch([(0, slot, 1.0), (2, slot, 2.0)]), batch([(0, slot, 5.0)], start=2, tokens=2)
    (one,), _ = read(tmp_path, watch(), START, first, again, END)
    ids = [KNOWN.catalogue.features[number].id for number in one.feature.tolist()]
    assert list(zip(ids, one.position.tolist(), one.value.tolist(), strict=True)) == [
        ("threat.l1", 0, 1.0),
        ("threat.l1", 2, 5.0),
    ]
    assert (one.tokens, one.prompt_len, one.client_id, one.engine_id) == (4, 3, "", fakes.engine_id(1))


def test_a_label_names_the_client_and_what_was_not_read_is_known(tmp_path: Path) -> None:
    label = RequestLabel(key=fakes.key(1), client_id="mine")
    (one,), _ = read(tmp_path, watch(), label, START, batch([], start=2, tokens=2), END)
    assert (one.client_id, one.read.tolist()) == ("mine", [False, False, True, True])


def test_a_watch_set_in_parts_is_read_and_one_that_lacks_a_part_is_not(tmp_path: Path) -> None:
    slot = next(index for index, (_, unit, _) in enumerate(SLOTS) if unit == 3)
    given = (START, batch([(0, slot, 1.0)]), END)
    (one,), _ = read(tmp_path, replace(watch(0, 2)), watch(2), *given)
    assert len(one.value) == 1
    (one,), _ = read(tmp_path, watch(0, 2), *given)
    assert len(one.value) == 0
    (one,), _ = read(tmp_path, watch(), START, batch([(0, len(SLOTS) + 3, 1.0)]), END)
    assert len(one.value) == 0, "a slot that there is not"


def test_what_has_no_end_and_what_has_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, requests = read(tmp_path, watch(), START)
    assert (found, requests.open) == ([], 1)
    far = batch([], start=limits.POSITION_MAX - 8)
    found, requests = read(tmp_path, watch(), START, far, END)
    assert (found, requests.cut) == ([], 1), "a position that only a lie has costs no memory"
    monkeypatch.setattr(limits, "OPEN_REQUESTS", 2)
    starts = [replace(START, request=number, engine_id=fakes.engine_id(number)) for number in range(1, 6)]
    assert read(tmp_path, watch(), *starts)[1].open == 2


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no stream of the dictionary"):
        read(tmp_path, watch(), known=fakes.dictionary(seed=1))
    with pytest.raises(UnreachableError, match="a recording"):
        list(RecordedRequests(tmp_path / "none", KNOWN))
    (tmp_path / "text").write_text("no frames\n" * 100)
    with pytest.raises(CorruptFrame, match="A recording is made by"):
        list(RecordedRequests(tmp_path / "text", KNOWN))
