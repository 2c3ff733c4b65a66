"""What a person sees, and a program reads, of each event."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from saewatch.cli.screen import JsonLines, Screen
from saewatch.client import Coverage, Disconnected, Event, Firings, Gap, Heartbeat, Reconnected, Totals, decode
from saewatch.client.tables import Request
from tests.client.messages import batch
from tests.client.test_decode import TABLES
from tests.client.test_events import BLIND, ENDED, GAP, books

HEARTBEAT = Heartbeat(resume_token="", head_event=1, server_time_ns=10**18)
SEES = Coverage(resume_token="", streams=(books(fed=10, coverage=0.9),), blind=())
BLINDED = Coverage(resume_token="", streams=(), blind=(BLIND,))
DOWN = Disconnected(resume_token="", reason="why", attempt=1, retry_s=0.2)


def firings(name: str = "r1") -> Firings:
    message = batch([(0, 3, 3)], [(0, 2, 2.5), (1, 0, 2.0), (1, 3, 1.0), (2, 0, 0.1)], names=(name,))
    return decode.firings(message, TABLES, "t")


def shown(*events: Event, live: bool = False, colour: bool = False) -> str:
    out = io.StringIO()
    screen = Screen(out, live=live, colour=colour)
    for event in events:
        screen.show(event)
    return out.getvalue()


def test_a_line_for_each_token_on_which_something_fires() -> None:
    lines = [line[9:] for line in shown(firings(), firings()).splitlines()]
    assert lines[0] == "violence.p1: Threats of violence (unreviewed) (vcr, high)", "explained when it is first seen"
    tokens = [line for line in lines if line.startswith("r1")]
    assert tokens[:3] == [
        "r1 prompt 3: violence.p1 2.50",
        "r1 answer 4: greeting.g1 2.00  hesitation.l1 2.00  medical.p1 1.00",
        "r1 answer 5: latent 12 0.10",
    ]
    assert len(tokens) == 6
    assert len(lines) == 6 + 4


def test_what_keeps_firings_away_is_said_in_words() -> None:
    text = shown(BLINDED, BLINDED, SEES, GAP, DOWN, ENDED)
    assert text.count("BLIND since") == 1, "until it changes"
    assert "Is it alive? Until then no firings do not mean that nothing fired." in text
    assert "nothing is blind any more" in text
    assert "GAP (slow_consumer): 7 tokens and 3 slot firings not received. This client read too slowly" in text
    assert "DISCONNECTED, attempt 1" in text
    assert "r1 ended: 9 tokens fed" in text


def test_signs_of_life_and_good_coverage_are_no_lines() -> None:
    assert shown(HEARTBEAT, SEES) == ""


def test_the_last_line_of_a_terminal() -> None:
    text = shown(firings(), SEES, GAP, BLINDED, DOWN, live=True)
    last = text.rpartition("\r\x1b[K")[2]
    assert last.startswith("1 tokens/s · coverage 1.0000 · 1 gaps · BLIND: no_beat · DISCONNECTED"[:70])
    assert "coverage not told yet" in text
    again = shown(DOWN, Reconnected(resume_token="", attempts=1, down_s=1.0), live=True)
    assert not again.endswith("DISCONNECTED")


def test_colours_only_where_they_are_wanted() -> None:
    assert "\x1b[31m" in shown(firings(), colour=True)
    assert "\x1b" not in shown(firings(), GAP, DOWN)


def test_a_name_cannot_paint_the_terminal() -> None:
    text = shown(firings("\x1b[2Jgone\r\n\u202e"), live=True, colour=True)
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert "gone" in text


def test_the_end() -> None:
    out = io.StringIO()
    Screen(out, live=False, colour=False).end(Totals(tokens=5), "tok")
    assert out.getvalue().splitlines()[0].startswith("5 tokens seen, 0 slot firings")
    assert "--resume-token tok" in out.getvalue()


@pytest.mark.parametrize("event", [firings(), BLINDED, GAP, DOWN, ENDED])
def test_one_object_a_line(event: Event) -> None:
    out = io.StringIO()
    lines = JsonLines(out)
    lines.show(event)
    lines.show(HEARTBEAT)
    lines.end(Totals(tokens=5), "tok")
    found: list[dict[str, Any]] = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(found) == 2
    assert (found[1]["event"], found[1]["tokens"], found[1]["resume_token"]) == ("totals", 5, "tok")


def test_a_gap_of_nobody_knows_how_much() -> None:
    assert "nobody knows how much" in shown(Gap(resume_token="", reason="restarted", tokens=0, firings=0, unknown=True))
    assert Request().name == ""
