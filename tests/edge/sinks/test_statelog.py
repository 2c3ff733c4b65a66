"""Changes of state, one line each."""

from __future__ import annotations

from structlog.testing import capture_logs

from saewatch.edge.sinks.statelog import StateLog
from saewatch.monitor.silences import Silences
from tests import fakes
from tests.monitor.stage import ENGINE, Stage
from tests.monitor.test_alerts import a_policy
from tests.monitor.test_silences import NOW, given


def test_each_change_once_and_no_data() -> None:
    stage, log = Stage(), StateLog()
    with capture_logs() as lines:
        log.take(stage.tick())
        log.take(stage.put(fakes.stream_open(stage.known), fakes.watch_set(stage.known)))
        stage.label(7)
        stage.start(7)
        for _ in range(5):
            log.take(stage.batch([(7, 0, 1)], [(0, 0, 1.0)]))
            log.take(stage.beat())
        log.take(stage.tick(5.0))
        log.take(stage.beat())
        stage.monitor.connect(3)
        log.take(stage.put(fakes.stream_open(stage.known, epoch=2000), link=3) + stage.beat(epoch=2000, link=3))
    said = [(line["event"], line.get("reason", "")) for line in lines]
    assert said == [
        ("blind", "no_engine"),
        ("stream opened", ""),
        ("sees again", "no_engine"),
        ("blind", "no_beat"),
        ("sees again", "no_beat"),
        ("stream opened", ""),
        ("stream ended", ""),
        ("blind", "replaced"),
    ]
    assert lines[0]["log_level"] == "warning"
    assert lines[0]["hint"]
    text = str(lines)
    assert "client-7" not in text
    assert fakes.key(7) not in text


def test_an_engine_that_was_started_again_under_another_name() -> None:
    stage, log = Stage().ready(), StateLog()
    log.take(stage.events)
    stage.monitor.disconnect(ENGINE, stage.now)
    with capture_logs() as lines:
        log.take(stage.tick(61.0))
        stage.monitor.connect(3)
        log.take(stage.put(fakes.stream_open(stage.known, engine="engine-1", epoch=stage.now), link=3))
    said = [(line["event"], line.get("reason", ""), line.get("engine", "")) for line in lines[2:]]
    assert said[:2] == [("stream opened", "", "engine-1"), ("stream ended", "", "engine-0")]
    assert set(said[2:]) == {("sees again", "no_beat", ""), ("sees again", "no_engine", "")}


def test_silences_with_who_gave_them_why_and_how_they_ended() -> None:
    silences, log = Silences([a_policy()]), StateLog()
    with capture_logs() as lines:
        log.take([silences.give(given(tenant="acme"), NOW)])
        silences.hold("trust", "threat", "acme", NOW)
        log.take([silences.end("a", "bob", NOW)])
    begun, over = lines
    about = {
        "id": "a",
        "policy": "trust",
        "rules": ["threat"],
        "tenant": "acme",
        "reason": "a release",
        "principal": "ada",
    }
    assert begun.items() >= {"event": "silence in force", "until": "1970-01-01T00:17:40+00:00", **about}.items()
    assert over.items() >= {"event": "silence over", "why": "ended", "by": "bob", "held_back": 1, **about}.items()
