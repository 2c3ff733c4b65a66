"""saewatch alerts, against the services on a real port: for people and for programs, and what is refused."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket

import pytest

from saewatch import cli
from saewatch.cli import alerts
from saewatch.client.fake import FakeServer
from saewatch.core.batch import Reason
from saewatch.edge.rpc import alerted
from saewatch.monitor.alert import SliceMoved
from saewatch.monitor.drift.attribution import Attribution
from saewatch.monitor.drift.effect import Effect
from saewatch.monitor.drift.telling import alert_of
from tests import deployed
from tests.edge.rpc.alerting import PROBE, THREAT, alerting, begin, end, fire
from tests.edge.rpc.served import Served
from tests.monitor.drift.test_known import table
from tests.monitor.drift.test_telling import MOVED


async def ask(served: Served, *words: str) -> int:
    return await asyncio.to_thread(cli.main, ["alerts", *words, "--address", served.address])


async def test_a_list_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    async with alerting() as served:
        assert await ask(served, "list") == cli.GOOD
        assert capsys.readouterr().out == "no alerts\n"
        for request in (7, 8):
            begin(served, request)
            fire(served, request)
        fire(served, 8, 1, PROBE)
        assert await ask(served, "list") == cli.GOOD
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2
        assert "active high trust/threat request engine-0/" in lines[0]
        assert lines[0].endswith("threat.l1")
        assert await ask(served, "list", "--held-back", "--rule", "probe") == cli.GOOD
        assert "[shadow] low trust/probe" in capsys.readouterr().out
        assert await ask(served, "list", "--json", "--limit", "1") == cli.GOOD
        found = json.loads(capsys.readouterr().out)
        assert (len(found["alerts"]), found["more"]) == (1, True)
        assert found["alerts"][0]["evidence"][0]["limit"] == 2.0


async def test_one_with_all_its_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    async with alerting() as served:
        begin(served)
        served.batch([(7, 0, 1), (7, 4, 1)], [(1, THREAT, 3.0)], missed=[(7, Reason.NO_SLOT, 3)])
        [alert] = served.pipeline.alerts()
        assert await ask(served, "show", alert.id) == cli.GOOD
        text = capsys.readouterr().out
        for said in (
            "(client-7) threat.l1",
            "request client-7, tenant acme, conversation unknown",
            "threat.l1 (label of threat.l1 (unreviewed)): max over all is 3, limit 2",
            "calibrated 2026-11-01",
            "on 1000 requests: at most 1.00% of",
            "with 95% confidence",
            "2 tokens seen, NOT COMPLETE; missed: no_slot 3",
            "not measured: nobody has judged an alert of it",
            "what to do: https://a/b",
            f"weights {served.dictionary.weights_digest}",
            "correlational",
        ):
            assert said in text


async def test_a_verdict_is_told_with_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    async with alerting() as served:
        begin(served)
        fire(served)
        [alert] = served.pipeline.alerts()
        words = ("ack", alert.id, "--verdict", "true_positive", "--reason", "a real one")
        assert await ask(served, *words) == cli.GOOD
        text = capsys.readouterr().out
        assert "1.000 of 1 judged, 95 % interval 0.025 to 1.000" in text
        assert "local: true_positive: a real one" in text
        assert await ask(served, "ack", alert.id, "--verdict", "false_positive") == cli.FAILED
        assert "reason: found nothing" in capsys.readouterr().err
        assert await ask(served, "ack", alert.id) == cli.USAGE, "that somebody saw it is no verdict"
        assert "local said true_positive, which this would take away" in capsys.readouterr().err
        [kept] = served.pipeline.alerts()
        assert kept.acknowledged is not None
        assert kept.acknowledged.verdict == "true_positive"


async def test_one_may_say_that_one_saw_it(capsys: pytest.CaptureFixture[str]) -> None:
    async with alerting() as served:
        begin(served)
        fire(served)
        [alert] = served.pipeline.alerts()
        assert await ask(served, "ack", alert.id) == cli.GOOD
        assert "  local: seen\n" in capsys.readouterr().out


async def test_a_watch_goes_on_from_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    async with alerting() as served:
        begin(served)
        fire(served)
        end(served)
        words = ("watch", "--resume-token", "a1.7.1.0", "--for", "3", "--json")
        assert await ask(served, *words) == cli.GOOD
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [one["state"] for one in told] == ["ALERT_STATE_ACTIVE", "ALERT_STATE_RESOLVED"]
        assert told[-1]["resume_token"] == "a1.7.3.2"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["show"], cli.USAGE),
        (["ack"], cli.USAGE),
        (["list", "an-id"], cli.USAGE),
        (["show", "nobody"], cli.FAILED),
        (["list", "--severity", "worst"], cli.FAILED),
    ],
)
def test_what_is_refused(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as server:
        assert cli.main(["alerts", *words, "--address", server.address]) == code
    assert capsys.readouterr().err


def test_nobody_there() -> None:
    assert cli.main(["alerts", "list", "--address", "127.0.0.1:9"]) == cli.UNREACHED


def test_a_watch_that_nobody_answered_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["alerts", "watch", "--for", "0.5", "--address", "127.0.0.1:9"]) == cli.UNREACHED
    assert "no connection when the time was over" in capsys.readouterr().err


def test_a_watch_of_something_that_says_nothing_heard_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """It accepts the connection, and is no sidecar."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        for verb in (["alerts", "watch"], ["watch"]):
            assert cli.main([*verb, "--for", "0.5", "--address", address]) == cli.UNREACHED
            assert "no connection when the time was over" in capsys.readouterr().err


def test_a_quiet_watch_heard_its_sidecar(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as server:
        assert cli.main(["alerts", "watch", "--for", "3", "--address", server.address]) == cli.GOOD
    assert "no connection" not in capsys.readouterr().err


def test_what_would_command_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as server:
        server.alerts.alert("threat", subject="request \x1b[2J")
        assert cli.main(["alerts", "list", "--address", server.address]) == cli.GOOD
    assert "\x1b" not in capsys.readouterr().out


def test_drift_is_shown_with_its_cause_and_without_positions() -> None:
    cause = Attribution(
        cause="model_and_traffic",
        reason="because",
        exercised="direct",
        moved=(Effect(5, "panel", 0.5, 0.45, 0.55),),
        slices=(SliceMoved(slice="long ones", share=0.31, requests=2140, before=0.042, low=0.019, high=0.077),),
    )
    alert = alert_of(MOVED, deployed.baseline(), table(), told=True, cause=cause)
    text = "\n".join(alerts.lines(alerted.message(alert), dt.date(2026, 1, 1)))
    assert "  cause: model and traffic (direct): because" in text
    assert f"    demo05.l1 ({table().features[5].shown}): fires on fixed prompts" in text
    assert "times its value: 0.5 (0.45 to 0.55, 95 % interval)" in text
    assert f"demo03.l1 ({table().features[3].shown}): n is 1.8, tolerated 0.15" in text
    said = "long ones: 31.0% of 2,140 requests at these hours, was 4.2% (1.9% to 7.7% on the baseline's days)"
    assert f"    {said}" in text
    assert "position" not in text
