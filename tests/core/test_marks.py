"""What the records of a recording refuse to say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from saewatch.core import limits
from saewatch.core.errors import RecordError
from saewatch.core.marks import MARKS, Mark, RecordingHead, RecordingIndex, Sheet
from saewatch.core.wire import KINDS
from tests.core.frames import make

GOOD: dict[type[Any], Any] = {type(record): record for record in make.kept()}
PAIR = np.array([5, 4], dtype=np.uint64)
LONG = np.arange(limits.INDEX_MARKS + 1, dtype=np.uint64)


@pytest.mark.parametrize(
    ("kind", "changes", "subject"),
    [
        (RecordingHead, {"began_ns": -1}, "recording_head.began_ns"),
        (Mark, {"link": 0}, "mark.link"),
        (Mark, {"what": "paused"}, "mark.what"),
        (Mark, {"lost": -1}, "mark.lost"),
        (Sheet, {"name": ""}, "sheet.name"),
        (Sheet, {"total": limits.MANIFEST_BYTES + 1}, "sheet.total"),
        (Sheet, {"first": 4}, "sheet.first"),
        (Sheet, {"data": np.zeros(3, np.int8)}, "sheet.data"),
        (RecordingIndex, {"lost": -1}, "recording_index.lost"),
        (RecordingIndex, {"offset": PAIR}, "recording_index"),
        (RecordingIndex, {"offset": PAIR, "time_ns": np.sort(PAIR)}, "recording_index.offset"),
        (RecordingIndex, {"offset": np.sort(PAIR), "time_ns": PAIR}, "recording_index.time_ns"),
        (RecordingIndex, {"offset": LONG, "time_ns": LONG}, "recording_index.marks"),
        (RecordingIndex, {"offset": LONG[:1] + np.uint64(2**63), "time_ns": LONG[:1]}, "recording_index.offset"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: type[Any], changes: dict[str, Any], subject: str) -> None:
    GOOD[kind].check()
    with pytest.raises(RecordError) as caught:
        replace(GOOD[kind], **changes).check()
    assert caught.value.subject == subject


def test_they_are_frames_like_all_others() -> None:
    assert set(MARKS) == set(GOOD)
    assert set(MARKS) < set(KINDS.values())
