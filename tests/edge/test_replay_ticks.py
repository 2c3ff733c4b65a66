"""A replay that goes as fast as it can leaves out ticks, and comes to the same: every event, at the same time."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from saewatch.core import limits
from saewatch.core.marks import Happening
from saewatch.core.recording import Recording
from saewatch.core.records import RequestEnd, RequestLabel, RequestStart
from saewatch.edge import requests
from saewatch.edge.pipeline import Pipeline, SinkQueue
from saewatch.edge.replay import RecordedClock, ReplaySource
from saewatch.monitor.alert import AlertChanged
from saewatch.monitor.events import Event, Standing
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.policy.rule import read as read_policy
from saewatch.monitor.silences import SilenceChanged
from tests import deployed, fakes
from tests.edge.taped import KNOWN, told
from tests.edge.test_replay import S, Step, beginning, recording
from tests.waiting import wait_until

SILENCE_NS = 90 * S
"""In place of `limits.RECORDING_SILENCE_NS`, of which each tick would be played."""
GAPS_NS = (1, S // 20, S // 10, S // 2, S, S + 1, 2 * S, 3 * S - 1, 3 * S, 61 * S, 2 * SILENCE_NS)
"""Around everything that is due: labels after 1 s, beats after 3 s, an engine that has gone after 60 s."""


SILENCES = [{"until": f"1970-01-01T00:{minute:02}:07Z", "reason": "known"} for minute in range(2, 60, 4)]


def policy(silences: Sequence[Mapping[str, str]] = (), **fields: str) -> Policy:
    """One rule that holds on some requests, and tells of what is blind."""
    rule = {"id": "a", "severity": "low", "on_blind": "alert", "when": {"feature": "threat.l1", "above": 1.0}, **fields}
    return read_policy({"policy": "p", "rules": [rule], "silences": list(silences)}, "p.yaml")


class EveryTick(Pipeline):
    """One that is not known to be idle."""

    def due_ns(self) -> float:
        """At each tick."""
        return 0


class Dated(SinkQueue):
    """What it is given, and when."""

    def __init__(self, clock: RecordedClock) -> None:
        super().__init__("dated", lambda: None)
        self.given: list[tuple[int, str, object]] = []
        self.reasons: set[str] = set()
        self._now = clock

    def put(self, events: Sequence[Event]) -> None:
        """Keeps them."""
        self.reasons |= {blind.reason for one in events if isinstance(one, Standing) for blind in one.blind}
        self.given += [(self._now(), type(one).__name__, seen(one)) for one in events]


def seen(event: Event) -> object:
    """Of an event what can be compared."""
    if isinstance(event, Standing):
        return [(one.reason, one.subject, one.since_ns) for one in event.blind], [one.blind for one in event.streams]
    if isinstance(event, SilenceChanged):
        return event.silence.id, event.over
    return asdict(event.alert) if isinstance(event, AlertChanged) else told([event])


def life(seed: int) -> list[Step]:
    """Engines that connect, beat or do not, go and come again; requests whose labels come, come late or never."""
    chance, at, link, sent, found = random.Random(seed), 100 * S, 1, 0, beginning()
    running: list[int] = []
    for number in range(10, 60):
        at += chance.choice(GAPS_NS)
        what = chance.choice(("beat", "start", "start", "label", "batch", "batch", "end", "reconnect"))
        if what == "reconnect":
            found.append((link, at, Happening.DISCONNECTED))
            at, link = at + chance.choice(GAPS_NS), link + 1
            found += beginning(link, at)
        elif what == "beat":
            found.append((link, at, fakes.beat()))
        elif what == "start":
            running.append(number)
            found.append((link, at, RequestStart(request=number, engine_id=fakes.engine_id(number), prompt_len=4)))
        elif what == "label":
            found.append((link, at, RequestLabel(key=fakes.key(chance.choice(running or [0])), traffic_class="live")))
        elif running:
            one, sent = chance.choice(running), sent + (what == "batch")
            batch = fakes.batch([(one, sent, 1)], [(0, chance.choice((1, 2)), 2.0)], seq=sent, time_ns=at)
            found.append((link, at, batch if what == "batch" else RequestEnd(request=one, fed=4, emitted=1)))
    return found


def dated(data: bytes, made: type[Pipeline], *policies: Policy) -> tuple[Dated, object]:
    """What a pipeline tells of a recording, and when; and how it stands at the end."""
    file = Recording(io.BytesIO(data))
    clock = RecordedClock(file.began_ns)
    queue = Dated(clock)
    known = {KNOWN.weights_digest: KNOWN}
    pipeline = made(dictionaries=known, queues=[queue], clock=clock, policies=policies)
    source = ReplaySource(recording=file, pipeline=pipeline, clock=clock, speed=0.0)
    source.start()
    wait_until(lambda: source.progress.ended)
    assert source.failed is None
    status = pipeline.status()
    return queue, (clock.now_ns, status.counters, status.open_requests, status.blind, status.rates)


@pytest.fixture
def short_silences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORDING_SILENCE_NS", SILENCE_NS)


@pytest.mark.usefixtures("short_silences")
def test_what_is_told_and_when_does_not_depend_on_ticks_at_which_nothing_is_due() -> None:
    kinds, reasons = set[str](), set[str]()
    for seed in range(8):
        data = recording(life(seed))
        (wanted, stood), (found, stands) = (dated(data, one, policy(SILENCES)) for one in (EveryTick, Pipeline))
        assert found.given == wanted.given, seed
        assert stands == stood, seed
        kinds |= {kind for _, kind, _ in found.given}
        reasons |= found.reasons
    assert kinds >= {"Standing", "Observed", "RequestEnded", "AlertChanged", "SilenceChanged"}, (
        "or the lives show too little"
    )
    assert reasons >= {"no_beat", "no_engine"}


@pytest.mark.usefixtures("short_silences")
def test_the_requests_of_a_day_are_the_same_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which a baseline is made, and of nothing else."""
    path = deployed.recording(tmp_path / "day.frames", 1)
    found = requests_of(path)
    monkeypatch.setattr(requests, "Pipeline", EveryTick)
    assert requests_of(path) == found
    assert len(found) == deployed.GROUPS_A_DAY * deployed.GROUP


def requests_of(path: Path) -> list[object]:
    with path.open("rb") as file:
        told = list(requests.RecordedRequests(Recording(file), deployed.KNOWN))
    arrays = ("seen", "position", "feature", "slot", "value")
    return [
        (asdict(one.identity), one.ended_ns, one.missed, *(getattr(one, name).tobytes() for name in arrays))
        for one in told
    ]


@pytest.mark.parametrize(
    ("more", "due"),
    [
        ({}, math.inf),
        ({"policies": [policy()]}, math.inf),
        ({"policies": [policy([{"until": "1970-01-01T00:00:09Z", "reason": "known"}])]}, 9 * S),
        ({"policies": [policy(subject="conversation")]}, 0),
        ({"baselines": [deployed.baseline(8)]}, 0),
    ],
    ids=["nothing", "requests", "a silence", "conversations", "baselines"],
)
def test_what_has_times_of_its_own_gets_every_tick(more: dict[str, Any], due: float) -> None:
    one = Pipeline(dictionaries={}, clock=RecordedClock(S), **more)
    one.tick()
    assert one.due_ns() == 0, "no engine: that was told"
    one.tick()
    assert one.due_ns() == due


def test_an_idle_week_has_few_ticks() -> None:
    class Counted(Pipeline):
        ticks = 0

        def tick(self) -> None:
            """One more."""
            Counted.ticks += 1
            super().tick()

    dated(recording([*beginning(), *((1, 100 * S + hour * 3600 * S, fakes.beat()) for hour in range(1, 169))]), Counted)
    assert 168 <= Counted.ticks <= 4 * 170, "after each record, and when its stream is blind"
