"""Events as lines, and what they come to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from saewatch.client import (
    Blind,
    Books,
    Coverage,
    Disconnected,
    Event,
    Gap,
    Heartbeat,
    Reconnected,
    RequestEnded,
    Totals,
)
from saewatch.client.events import ADVICE
from saewatch.client.tables import Request, Stream
from saewatch.edge.pb import firing_pb2
from tests.client.test_firings import firings

BLIND = Blind(scope="tap", reason="no_beat", subject="engine-0", hint="Is it alive?", since_ns=10**18)
UNKNOWN = Gap(resume_token="", reason="reason_9", tokens=0, firings=0, unknown=True)
ENDED = RequestEnded(resume_token="", request=Request(client_id="r1"), fed=9, emitted=2, lost=False)
GAP = Gap(resume_token="t", reason="slow_consumer", tokens=7, firings=3)


def books(**fields: Any) -> Books:
    counts = ("stream", "fed", "encoded", "reused", "in_flight", "imbalance", "firings", "sink_calls", "beat_time_ns")
    known: dict[str, Any] = {**dict.fromkeys(counts, 0), "missed": {}, "coverage": 1.0, "blind": ""}
    return Books(**{**known, **fields})


def test_coverage_is_weighed_by_what_was_fed() -> None:
    streams = (books(fed=300, coverage=1.0), books(fed=100, coverage=0.5, missed={"no_slot": 50}), books())
    found = Coverage(resume_token="", streams=streams, blind=(BLIND,))
    assert (found.overall, found.missed) == (0.875, {"no_slot": 50})
    assert "coverage 0.8750 of 400 tokens in 3 streams, missed 50 no_slot; BLIND since" in str(found)
    assert "tap engine-0, no_beat. Is it alive?" in str(found)


def test_nothing_fed_is_nothing_missed() -> None:
    assert Coverage(resume_token="", streams=(), blind=()).overall == 1.0


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (GAP, "GAP (slow_consumer): 7 tokens and 3 slot firings not received. This client read too slowly"),
        (
            Gap(
                resume_token="",
                reason="restarted",
                tokens=4,
                firings=1,
                stream=Stream(number=2, engine="e", hook_point="h"),
                repeated_tokens=2,
            ),
            "4 tokens and 1 slot firings of e h not received; 2 tokens come again as missed. The sidecar was restarted",
        ),
        (UNKNOWN, "GAP (reason_9): nobody knows how much not received."),
        (ENDED, "r1 ended: 9 tokens fed, 2 emitted"),
        (replace(ENDED, lost=True), "r1 was lost with its engine"),
        (Disconnected(resume_token="", reason="why", attempt=3, retry_s=1.26), "DISCONNECTED, attempt 3 in 1.3 s: why"),
        (Reconnected(resume_token="", attempts=3, down_s=2.0), "connected again after 2.0 s and 3 attempts"),
        (Heartbeat(resume_token="", head_event=1, server_time_ns=10**18), "alive"),
    ],
)
def test_each_is_one_line(event: Event, says: str) -> None:
    assert says in str(event)
    assert "\n" not in str(event)


def test_every_reason_of_a_gap_says_what_to_do() -> None:
    names = {name.removeprefix("GAP_REASON_").lower() for name in firing_pb2.GapReason.DESCRIPTOR.values_by_name}
    assert set(ADVICE) == names - {"unspecified"}


def test_totals() -> None:
    totals = Totals()
    gone = Gap(resume_token="", reason="restarted", tokens=0, firings=0, repeated_tokens=5, unknown=True)
    back = Reconnected(resume_token="", attempts=1, down_s=0.1)
    for event in (firings(), firings(), GAP, gone, ENDED, back):
        totals.add(event)
    assert (totals.tokens, totals.recomputed, totals.missed, totals.firings) == (12, 6, {"cached": 8}, 8)
    assert (totals.gaps, totals.gap_tokens, totals.gap_firings) == (2, 7, 3)
    assert (totals.repeated_tokens, totals.gaps_unknown, totals.requests_ended, totals.reconnects) == (5, 1, 1, 1)
    assert "12 tokens seen, 8 slot firings, 1 requests ended; missed 8 cached; 2 gaps, 1 of unknown size" in str(totals)
