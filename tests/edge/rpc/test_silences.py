"""Silences on a real port: what they hold back, who may give and end them, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from saewatch.core import limits
from saewatch.core.errors import RecordError
from saewatch.edge.access import LocalAccess, Principal
from saewatch.edge.pb import alert_pb2, status_pb2
from saewatch.edge.rpc import silences
from saewatch.monitor import silences as bounds
from saewatch.monitor.alert import AlertChanged
from saewatch.monitor.silences import SILENCE_NS_MAX, SilenceChanged
from tests.edge.rpc.alerting import alerting, begin, end, fire, listed, policy
from tests.edge.rpc.served import Served
from tests.edge.rpc.test_alerts import refused

HOUR = 3600
OWN = {"rules": ["probe"], "until": "2999-12-01T00:00:00Z", "reason": "known"}


async def create(served: Served, seconds: float = HOUR, **fields: Any) -> alert_pb2.Silence:
    asked = alert_pb2.CreateSilenceRequest(**{"policy": "trust", "reason": "a release", **fields})
    asked.duration.FromNanoseconds(round(seconds * 1e9))
    answer: alert_pb2.CreateSilenceResponse = await served.alerts.CreateSilence(asked)
    return answer.silence


async def delete(served: Served, name: str) -> alert_pb2.Silence:
    answer: alert_pb2.DeleteSilenceResponse = await served.alerts.DeleteSilence(alert_pb2.DeleteSilenceRequest(id=name))
    return answer.silence


async def in_force(served: Served) -> list[alert_pb2.Silence]:
    answer: alert_pb2.ListSilencesResponse = await served.alerts.ListSilences(alert_pb2.ListSilencesRequest())
    return list(answer.silences)


async def active(served: Served) -> int:
    answer: status_pb2.GetStatusResponse = await served.statuses.GetStatus(status_pb2.GetStatusRequest())
    return answer.active_silences


async def test_it_holds_alerts_back_and_says_how_many() -> None:
    async with alerting() as served:
        made = await create(served, rules=["threat"])
        assert (made.policy, list(made.rules), made.principal, made.reason) == (
            "trust",
            ["threat"],
            "local",
            "a release",
        )
        assert made.until_time.ToNanoseconds() - made.create_time.ToNanoseconds() == HOUR * 10**9
        begin(served)
        fire(served)
        assert await listed(served) == []
        [alert] = await listed(served, with_held_back=True)
        assert alert.held_back == alert_pb2.HELD_BACK_SILENCED
        [found] = await in_force(served)
        assert (found.id, found.held_back, await active(served)) == (made.id, 1, 1)
        ended = await delete(served, made.id)
        assert (ended.held_back, await in_force(served), await active(served)) == (1, [], 0)
        begin(served, 8)
        fire(served, 8)
        assert [one.request.client_id for one in await listed(served)] == ["client-8"]


async def test_it_ends_by_itself() -> None:
    async with alerting() as served:
        await create(served, seconds=1e-9)
        assert await in_force(served) == []
        begin(served)
        fire(served)
        assert len(await listed(served)) == 1


async def test_everybody_downstream_is_told() -> None:
    async with alerting() as served:
        served.queue.take()
        made = await create(served)
        await delete(served, made.id)
        changes = [one for one in served.queue.take() if isinstance(one, SilenceChanged)]
        assert [(one.over, one.by, one.silence.by) for one in changes] == [
            ("", "", "local"),
            ("ended", "local", "local"),
        ]


async def test_verdicts_count_what_is_silenced() -> None:
    async with alerting() as served:
        await create(served)
        begin(served)
        fire(served)
        end(served, fed=1)
        [verdict] = served.pipeline.verdicts({"client-7": -1})
        assert ([one.held_back for one in verdict.alerts], verdict.state) == (["silenced"], "flagged")


@pytest.mark.parametrize(
    ("seconds", "fields", "field", "code"),
    [
        (0, {}, "duration", grpc.StatusCode.INVALID_ARGUMENT),
        (-1, {}, "duration", grpc.StatusCode.INVALID_ARGUMENT),
        (SILENCE_NS_MAX / 1e9 + 1, {}, "duration", grpc.StatusCode.INVALID_ARGUMENT),
        (HOUR, {"reason": " "}, "reason", grpc.StatusCode.INVALID_ARGUMENT),
        (HOUR, {"reason": "x" * (limits.ACKNOWLEDGEMENT_BYTES + 1)}, "reason", grpc.StatusCode.INVALID_ARGUMENT),
        (HOUR, {"tenant": "x" * 257}, "tenant", grpc.StatusCode.INVALID_ARGUMENT),
        (HOUR, {"rules": ["threat"] * 1001}, "rules", grpc.StatusCode.INVALID_ARGUMENT),
        (HOUR, {"policy": ""}, "policy", grpc.StatusCode.NOT_FOUND),
        (HOUR, {"policy": "nobody\n"}, "policy", grpc.StatusCode.NOT_FOUND),
        (HOUR, {"rules": ["threat", "x" * 10_000]}, "rule", grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_what_makes_no_sense_is_refused(
    seconds: float, fields: dict[str, Any], field: str, code: grpc.StatusCode
) -> None:
    async with alerting() as served:
        error = await refused(create(served, seconds, **fields))
        assert (error.code(), (error.details() or "").split(":")[0]) == (code, field)
        assert await in_force(served) == []


async def test_a_duration_is_required() -> None:
    async with alerting() as served:
        error = await refused(
            served.alerts.CreateSilence(alert_pb2.CreateSilenceRequest(policy="trust", reason="a release"))
        )
        assert (error.details() or "").startswith("duration: found nothing")


async def test_one_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SILENCES_GIVEN", 1)
    async with alerting() as served:
        await create(served)
        error = await refused(create(served))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(await in_force(served)) == 1


@pytest.mark.parametrize("name", ["", "0" * 16, "\x00", "x" * 10_000])
async def test_nobody_knows_such_a_silence(name: str) -> None:
    async with alerting() as served:
        error = await refused(delete(served, name))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_policys_own_is_listed_and_stays() -> None:
    async with alerting(policies=[policy(silences=[OWN])]) as served:
        [own] = await in_force(served)
        assert (own.id, own.principal, own.reason) == ("trust#0", "", "known")
        error = await refused(delete(served, own.id))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert len(await in_force(served)) == 1


async def test_a_long_list_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_ITEMS", 2)
    async with alerting(policies=[policy(silences=[OWN] * 3)]) as served:
        answer = await served.alerts.ListSilences(alert_pb2.ListSilencesRequest())
        assert (len(answer.silences), answer.not_listed) == (2, 1)


class Some(LocalAccess):
    """Whoever a test says."""

    tenants: frozenset[str] | None = None

    def principal(self, metadata: Mapping[str, str | bytes]) -> Principal:
        return Principal(name="ada", tenants=self.tenants)


async def test_whoever_sees_some_tenants_silences_those_alone() -> None:
    access = Some()
    async with alerting(access=access) as served:
        whole, others = await create(served), await create(served, tenant="other")
        access.tenants = frozenset({"acme", ""})
        for tenant in ("", "other"):
            error = await refused(create(served, tenant=tenant))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        own = await create(served, tenant="acme")
        assert {one.id for one in await in_force(served)} == {whole.id, own.id}, "what covers its tenant, and no more"
        assert (await refused(delete(served, whole.id))).code() is grpc.StatusCode.PERMISSION_DENIED
        assert (await refused(delete(served, others.id))).code() is grpc.StatusCode.NOT_FOUND
        assert (await delete(served, own.id)).principal == "ada"


async def test_what_is_stored_comes_back() -> None:
    async with alerting() as served:
        made = await create(served, rules=["threat", "probe"], tenant="acme")
        [kept] = served.pipeline.tell_alerts(lambda alerts, now_ns: (alerts.silences.all(now_ns), ()))
        assert silences.given(made.SerializeToString()) == kept


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"", alert_pb2.Silence(id="a", principal="b").SerializeToString()])
def test_bytes_that_are_no_silence_are_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match="silence"):
        silences.given(data)


async def test_acknowledgements_still_go_out() -> None:
    """They take the same way through the pipeline."""
    async with alerting() as served:
        begin(served)
        fire(served)
        [alert] = await listed(served)
        await served.alerts.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(id=alert.id))
        [change] = [one for one in served.alert_queue.take() if isinstance(one, AlertChanged)]
        assert change.acknowledged
