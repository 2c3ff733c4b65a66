"""Alerts and verdicts of a fake sidecar, as a client meets them."""

from __future__ import annotations

import itertools

import pytest

from saewatch.client import AlertChange, Client, Disconnected, Reconnected
from saewatch.client.fake import FakeServer
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb import alert_pb2, verdict_pb2


@pytest.fixture
def client(saewatch_server: FakeServer) -> Client:
    return Client(saewatch_server.address)


def test_alerts_are_listed_found_and_judged(saewatch_server: FakeServer, client: Client) -> None:
    name = saewatch_server.alerts.alert("threat", request="r1")
    saewatch_server.alerts.alert("spam", request="r2")
    assert [one.rule for one in client.list_alerts()] == ["spam", "threat"]
    assert [one.rule for one in client.list_alerts(request="r1")] == ["threat"]
    assert client.get_alert(name).state == alert_pb2.ALERT_STATE_ACTIVE
    said = client.acknowledge_alert(name, "false_positive", "a quotation")
    assert (said.precision.precision, said.precision.false_positives) == (0.0, 1)
    with pytest.raises(SaewatchError, match="reason"):
        client.acknowledge_alert(name, "true_positive")
    with pytest.raises(SaewatchError, match="id"):
        client.get_alert("nobody")


def test_silences_are_listed_until_they_end(client: Client) -> None:
    made = client.create_silence("trust", ["threat"], duration_s=60, reason="a release")
    assert [one.id for one in client.list_silences().silences] == [made.id]
    assert client.delete_silence(made.id) == made
    with pytest.raises(SaewatchError, match="in force"):
        client.delete_silence(made.id)
    with pytest.raises(SaewatchError, match="reason"):
        client.create_silence("trust", duration_s=60, reason=" ")


def test_a_watch_gets_every_change_across_a_cut(saewatch_server: FakeServer, client: Client) -> None:
    name = saewatch_server.alerts.alert("threat")
    with client.watch_alerts() as watch:
        first = next(watch)
        assert isinstance(first, AlertChange)
        saewatch_server.cut()
        saewatch_server.alerts.alert("threat", state="resolved")
        found = list(itertools.islice(watch, 3))
    assert [type(one) for one in found] == [Disconnected, Reconnected, AlertChange]
    assert isinstance(found[2], AlertChange)
    assert (found[2].alert.id, found[2].alert.state) == (name, alert_pb2.ALERT_STATE_RESOLVED)


def test_verdicts_are_told_as_they_change(saewatch_server: FakeServer, client: Client) -> None:
    verdicts = client.verdicts()
    verdicts.follow("r1")
    found = iter(verdicts)
    assert next(found).state == verdict_pb2.VERDICT_STATE_UNKNOWN
    saewatch_server.alerts.verdict("r1", "clear", covered_through=3)
    now = next(found)
    assert (now.state, now.covered_through) == (verdict_pb2.VERDICT_STATE_CLEAR, 3)
    verdicts.close()
    assert list(found) == []
