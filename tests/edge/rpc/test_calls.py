"""Nobody gets in without a principal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from saewatch.core.errors import AccessError
from saewatch.edge.access import LocalAccess, Principal
from saewatch.edge.pb import alert_pb2, dictionary_pb2, firing_pb2, history_pb2, status_pb2, tap_pb2, verdict_pb2
from tests import fakes
from tests.edge.rpc.served import Served, serving

METHODS = [
    ("firings", "WatchFirings", firing_pb2.WatchFiringsRequest()),
    ("firings", "GetRequestRecord", firing_pb2.GetRequestRecordRequest(request_id="x")),
    ("firings", "QueryFirings", history_pb2.QueryFiringsRequest()),
    ("firings", "ListRequests", history_pb2.ListRequestsRequest()),
    ("dictionaries", "ListDictionaries", dictionary_pb2.ListDictionariesRequest()),
    ("dictionaries", "GetDictionary", dictionary_pb2.GetDictionaryRequest()),
    ("dictionaries", "ListFeatures", dictionary_pb2.ListFeaturesRequest()),
    ("statuses", "GetStatus", status_pb2.GetStatusRequest()),
    ("statuses", "CompareShadow", status_pb2.CompareShadowRequest()),
    ("taps", "RunSelfTest", tap_pb2.RunSelfTestRequest(engine="nobody")),
    ("taps", "SetWatching", tap_pb2.SetWatchingRequest(engine="nobody", on=False)),
    ("taps", "SetWatchList", tap_pb2.SetWatchListRequest(engine="nobody")),
    ("taps", "LoadDictionary", tap_pb2.LoadDictionaryRequest(engine="nobody")),
    ("taps", "ApplyBundle", tap_pb2.ApplyBundleRequest(engine="nobody")),
    ("alerts", "WatchAlerts", alert_pb2.WatchAlertsRequest()),
    ("alerts", "ListAlerts", alert_pb2.ListAlertsRequest()),
    ("alerts", "GetAlert", alert_pb2.GetAlertRequest(id="x")),
    ("alerts", "AcknowledgeAlert", alert_pb2.AcknowledgeAlertRequest(id="x")),
    ("alerts", "CreateSilence", alert_pb2.CreateSilenceRequest(policy="x")),
    ("alerts", "ListSilences", alert_pb2.ListSilencesRequest()),
    ("alerts", "DeleteSilence", alert_pb2.DeleteSilenceRequest(id="x")),
    ("verdicts", "WatchVerdict", [verdict_pb2.WatchVerdictRequest(follow=["x"])]),
]
WATCHES = ("WatchFirings", "WatchAlerts", "WatchVerdict")


class Nobody(LocalAccess):
    """Refuses everybody."""

    def principal(self, metadata: Mapping[str, str | bytes]) -> Principal:
        raise AccessError("caller", found="nobody", expected="somebody")


@pytest.mark.parametrize(("service", "method", "request_"), METHODS)
async def test_every_method_asks_who_it_is(service: str, method: str, request_: object) -> None:
    async with serving(access=Nobody()) as served:
        call = getattr(getattr(served, service), method)(request_)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (call.read() if method in WATCHES else call)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_list_above_is_complete() -> None:
    served = [
        descriptor.services_by_name[name]
        for descriptor, name in (
            (firing_pb2.DESCRIPTOR, "FiringService"),
            (dictionary_pb2.DESCRIPTOR, "DictionaryService"),
            (status_pb2.DESCRIPTOR, "StatusService"),
            (tap_pb2.DESCRIPTOR, "TapService"),
            (alert_pb2.DESCRIPTOR, "AlertService"),
            (verdict_pb2.DESCRIPTOR, "VerdictService"),
        )
    ]
    assert {method.name for service in served for method in service.methods} == {name for _, name, _ in METHODS}


async def test_every_method_of_the_protos_is_served() -> None:
    async with serving() as served:
        for service, method, request_ in METHODS:
            call = getattr(getattr(served, service), method)(request_)
            if method in WATCHES:
                await call.read()
                continue
            assert await call.code() is not grpc.StatusCode.UNIMPLEMENTED, method


@pytest.mark.parametrize("method", ["AlertService/GetAlert", "AlertService/WatchAlerts"])
async def test_bytes_that_are_no_request_are_told_so(method: str) -> None:
    async with serving() as served:
        kind: Any = served.channel.unary_stream if "Watch" in method else served.channel.unary_unary
        call: Any = kind(f"/saewatch.v1.{method}")(b"\xff\xff\xff")
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "found bytes that cannot be read, expected a " in await call.details()


async def test_a_call_that_is_given_up_ends(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        await leave_many(served)
        assert served.firing.subscribers == 0
    assert not caplog.records


async def leave_many(served: Served) -> None:
    for _ in range(20):
        watch = await served.watch()
        watch.call.cancel()
    for _ in range(100):
        if not served.firing.subscribers:
            return
        await asyncio.sleep(0.02)


async def test_a_fault_of_ours_is_an_internal_status_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: object) -> None:
        raise ValueError("out of range")

    async with serving() as served:
        watch = await served.watch()
        monkeypatch.setattr(served.pipeline, "status", faulty)
        monkeypatch.setattr(served.feed, "encoded", faulty)
        served.put(fakes.beat())
        served.pump()
        for call in (watch.next(), served.statuses.GetStatus(status_pb2.GetStatusRequest())):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert "out of range" not in str(caught.value.details()), "what is inside stays inside"
        assert served.server.counters == {"internal_error": 2}
