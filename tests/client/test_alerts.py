"""Both clients' alerts against the sidecar's own services; and the words that a filter takes."""

from __future__ import annotations

from typing import Any

import pytest

from saewatch.client import AlertChange, AlertsMissed, AsyncClient, Client, Disconnected, Reconnected
from saewatch.client.alerts import SILENCE_S_MAX, AlertSession, acknowledgement, alert_filter, silence
from saewatch.core.errors import SaewatchError, UnreachableError
from saewatch.edge.pb import alert_pb2, common_pb2
from saewatch.edge.rpc.ring import BEGINNING
from saewatch.monitor.silences import SILENCE_NS_MAX
from tests.client.watching import Eager
from tests.edge.rpc.alerting import alerting, begin, end, fire

Response = alert_pb2.WatchAlertsResponse


def test_words_become_numbers() -> None:
    found = alert_filter(severity=["low", "critical"], kind="blind", state="resolved", rule="threat", held_back=True)
    assert list(found.severities) == [common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_CRITICAL]
    assert (list(found.kinds), list(found.states)) == ([2], [3])
    assert (list(found.rules), found.with_held_back) == (["threat"], True)
    assert alert_filter() == alert_pb2.AlertFilter()


@pytest.mark.parametrize("field", ["severity", "kind", "state"])
def test_a_word_that_there_is_not_is_refused(field: str) -> None:
    with pytest.raises(SaewatchError, match=field):
        alert_filter(**{field: "worst"})  # type: ignore[arg-type]  # one of the names
    with pytest.raises(TypeError, match="rules"):
        alert_filter(rules="threat")  # type: ignore[call-arg]  # what is tested


def test_a_verdict_that_there_is_not_is_refused() -> None:
    assert acknowledgement("a", "true_positive", "why").verdict == alert_pb2.ALERT_VERDICT_TRUE_POSITIVE
    with pytest.raises(SaewatchError, match="verdict"):
        acknowledgement("a", "right", "why")


def session(**fields: Any) -> AlertSession:
    return AlertSession(address="a:1", wanted=alert_pb2.AlertFilter(), random=Eager(), **fields)


def test_the_token_moves_when_an_event_is_handed_out() -> None:
    one = session()
    [change] = one.take(Response(alert=alert_pb2.Alert(rule="threat"), resume_token="t1"), 0.0)
    assert one.resume_token == ""
    one.hand(change)
    assert one.resume_token == "t1"
    assert one.take(Response(heartbeat=alert_pb2.AlertHeartbeat(), resume_token="t2"), 0.0) == []
    assert one.resume_token == "t2"


def test_what_is_missed_is_told_in_words() -> None:
    missed = alert_pb2.AlertsMissed(reason=alert_pb2.ALERTS_MISSED_REASON_EXPIRED, changes=3)
    assert session().take(Response(missed=missed, resume_token="t"), 0.0) == [
        AlertsMissed(resume_token="t", reason="expired", changes=3)
    ]


def test_a_stop_is_the_reason_of_the_loss_and_the_way_back_is_told() -> None:
    one = session()
    one.take(Response(drain=alert_pb2.AlertDrain(reason="shutdown")), 0.0)
    down = one.lost(None, 1.0)
    assert isinstance(down, Disconnected)
    assert "shutdown" in down.reason
    [back] = one.take(Response(heartbeat=alert_pb2.AlertHeartbeat()), 3.0)
    assert isinstance(back, Reconnected)
    assert back.down_s == 2.0


def test_it_gives_up_in_time() -> None:
    with pytest.raises(UnreachableError, match="no connection"):
        session(give_up_after_s=0.0).lost(None, 1.0)


async def test_both_clients_against_the_sidecar() -> None:
    async with alerting() as served:
        begin(served)

        def blocking() -> tuple[str, int]:
            with Client(served.address) as client:
                [alert] = client.list_alerts(rule="threat")
                said = client.acknowledge_alert(alert.id, "true_positive", "a real one")
                assert client.get_alert(alert.id) == said
                return alert.id, said.precision.true_positives

        fire(served)
        end(served)
        token = served.alert_feed.token(BEGINNING)
        async with (
            AsyncClient(served.address, random=Eager()) as client,
            client.watch_alerts(resume_token=token) as watch,
        ):
            first, last = await anext(watch), await anext(watch)
            assert isinstance(first, AlertChange)
            assert isinstance(last, AlertChange)
            assert last.alert.state == alert_pb2.ALERT_STATE_RESOLVED
            assert first.alert.rule == "threat"
            name, right = await served.in_thread(blocking)
            assert (name, right) == (first.alert.id, 1)
            assert [one.id async for one in client.list_alerts()] == [name]
            assert (await client.get_alert(name)).acknowledgement.reason == "a real one"
            again = await client.acknowledge_alert(name, "false_positive", "on second thoughts")
            assert (again.precision.true_positives, again.precision.false_positives) == (0, 1)


async def test_both_clients_silence_and_end_it() -> None:
    async with alerting() as served:

        def blocking() -> alert_pb2.Silence:
            with Client(served.address) as client:
                made = client.create_silence(
                    "trust", "threat", duration_s=0.5 * 3600, reason="a release", tenant="acme"
                )
                assert list(client.list_silences().silences) == [made]
                assert client.delete_silence(made.id) == made
                return made

        made = await served.in_thread(blocking)
        assert (list(made.rules), made.tenant) == (["threat"], "acme")
        assert made.until_time.ToNanoseconds() - made.create_time.ToNanoseconds() == 1800 * 10**9
        async with AsyncClient(served.address) as client:
            again = await client.create_silence("trust", duration_s=60, reason="a release")
            assert list((await client.list_silences()).silences) == [again]
            assert (await client.delete_silence(again.id)).policy == "trust"
            assert not (await client.list_silences()).silences


@pytest.mark.parametrize("duration_s", [0, -1, 604_801, float("nan"), float("inf")])
def test_a_duration_that_is_none_is_refused(duration_s: float) -> None:
    assert SILENCE_S_MAX * 10**9 == SILENCE_NS_MAX, "the client says what the sidecar says"
    with pytest.raises(SaewatchError, match="duration"):
        silence("trust", None, tenant="", duration_s=duration_s, reason="why")
