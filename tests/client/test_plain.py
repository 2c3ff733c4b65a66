"""Events as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from saewatch.client import Coverage, Disconnected, Event, Gap, Heartbeat
from saewatch.client.plain import plain, time_text
from saewatch.client.tables import Stream
from tests.client.test_events import BLIND, ENDED, GAP, books
from tests.client.test_firings import firings


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, ""),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_700_000_000_120_000_000, "2023-11-14T22:13:20.120000000Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
    ],
)
def test_times_keep_their_nanoseconds(time_ns: int, text: str) -> None:
    assert time_text(time_ns) == text


def test_firings() -> None:
    found = plain(firings())
    assert (found["event"], found["tokens"], found["missed"]) == ("firings", 6, {"cached": 4})
    assert found["time"] == "2001-09-09T01:46:40.000000000Z"
    assert (found["slot_firings"], len(found["feature_firings"])) == (4, 5), "one latent serves two features"
    assert found["feature_firings"][0] == {
        "request": "r1",
        "fit": "",
        "position": 3,
        "prompt": True,
        "feature": "violence.p1",
        "label": "Threats of violence",
        "label_review": "",
        "category": "vcr",
        "severity": "high",
        "value": 2.5,
        "unit": "direction 0",
    }
    assert found["feature_firings"][3]["request"] is None
    assert found["requests"][0]["client_id"] == "r1"


@pytest.mark.parametrize(
    ("event", "part"),
    [
        (ENDED, {"event": "request_ended", "fed": 9}),
        (GAP, {"event": "gap", "reason": "slow_consumer", "tokens": 7, "resume_token": "t", "stream": None}),
        (
            Disconnected(resume_token="", reason="why", attempt=1, retry_s=0.5),
            {"event": "disconnected", "retry_s": 0.5},
        ),
        (
            Heartbeat(resume_token="", head_event=1, server_time_ns=10**18),
            {"event": "heartbeat", "server_time": "2001-09-09T01:46:40.000000000Z"},
        ),
    ],
)
def test_the_others(event: Event, part: dict[str, Any]) -> None:
    found = plain(event)
    assert {name: found[name] for name in part} == part
    assert json.loads(json.dumps(found)) == found


def test_what_is_inside_is_plain_too() -> None:
    coverage = plain(Coverage(resume_token="", streams=(books(fed=4, coverage=0.5),), blind=(BLIND,)))
    assert (coverage["coverage"], coverage["blind"][0]["since"][:4]) == (0.5, "2001")
    stream = Stream(number=1, engine="e", versions={"vllm": "1"})
    gap = plain(Gap(resume_token="", reason="restarted", tokens=0, firings=0, stream=stream))
    assert (gap["stream"]["engine"], gap["stream"]["versions"]) == ("e", {"vllm": "1"})
    assert json.dumps([coverage, gap])
