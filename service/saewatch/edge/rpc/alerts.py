"""`AlertService`: alerts as they change, those that are kept, and what people say of them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence

import grpc
from google.protobuf.message import Message

from saewatch.core import limits
from saewatch.core.errors import RecordError, SaewatchError
from saewatch.edge.access import Principal
from saewatch.edge.pb import alert_pb2
from saewatch.edge.pipeline import Dropped, Pipeline
from saewatch.edge.rpc import alerted, alertfilter, messages
from saewatch.edge.rpc.alertfeed import AlertFeed
from saewatch.edge.rpc.alertfilter import AlertFilter
from saewatch.edge.rpc.calls import Streaming, Unary
from saewatch.edge.rpc.firing import ANSWER_BYTES, HEARTBEAT_S
from saewatch.edge.rpc.refusals import Refusal, invalid, missing
from saewatch.edge.rpc.ring import Cursor
from saewatch.edge.rpc.silences import SilenceCalls
from saewatch.monitor.alert import Acknowledged, Alert, AlertChanged
from saewatch.monitor.alerts import Alerts

PAGE_SIZE = 50
_TOKEN = re.compile(r"([0-9a-f]{1,16})\.([0-9a-f]{32})", re.ASCII)
Response = alert_pb2.WatchAlertsResponse
_VERDICTS = {number: word for word, number in alerted.ALERT_VERDICTS.items()}


class AlertService:
    """Serves the feed and the pipeline's alerts."""

    SERVICE = "saewatch.v1.AlertService"

    def __init__(self, *, feed: AlertFeed, pipeline: Pipeline, subscribers: int = limits.SUBSCRIBERS) -> None:
        self._feed = feed
        self._pipeline = pipeline
        self._subscribers_max = subscribers
        self._draining = ""
        self.subscribers = 0

    def methods(self) -> Mapping[str, Unary | Streaming]:
        """Its methods by name."""
        return {
            "WatchAlerts": Streaming(alert_pb2.WatchAlertsRequest, self.watch),
            "ListAlerts": Unary(alert_pb2.ListAlertsRequest, self.list_alerts),
            "GetAlert": Unary(alert_pb2.GetAlertRequest, self.get_alert),
            "AcknowledgeAlert": Unary(alert_pb2.AcknowledgeAlertRequest, self.acknowledge),
            **SilenceCalls(self._pipeline).methods(),
        }

    def drain(self, reason: str) -> None:
        """Ends every stream with a drain."""
        self._draining = reason
        self._feed.bell.ring()

    # --- those that are kept --------------------------------------------------------------------------------------
    async def list_alerts(
        self, request: alert_pb2.ListAlertsRequest, principal: Principal
    ) -> alert_pb2.ListAlertsResponse:
        """A page, the latest change first."""
        wanted = alertfilter.read(request.filter, principal)
        if request.page_size < 0:
            raise invalid("page_size", found=request.page_size, expected="0 or more")
        ordered = await asyncio.to_thread(self._chosen, wanted)
        chosen = _after(ordered, request.page_token)
        size = min(request.page_size or PAGE_SIZE, limits.PAGE_ITEMS)
        page, nbytes = list[alert_pb2.Alert](), 0
        for one in chosen[:size]:
            found = alerted.message(one)
            nbytes += found.ByteSize()
            if page and nbytes > ANSWER_BYTES:
                break
            page.append(found)
        following = _token(chosen[len(page) - 1]) if len(page) < len(chosen) else ""
        return alert_pb2.ListAlertsResponse(alerts=page, next_page_token=following)

    def _chosen(self, wanted: AlertFilter) -> list[Alert]:
        return sorted((one for one in self._pipeline.alerts() if wanted.wants(one)), key=_place, reverse=True)

    async def get_alert(self, request: alert_pb2.GetAlertRequest, principal: Principal) -> alert_pb2.GetAlertResponse:
        """One of them."""
        return alert_pb2.GetAlertResponse(alert=alerted.message(await self._find(request.id, principal)))

    async def acknowledge(
        self, request: alert_pb2.AcknowledgeAlertRequest, principal: Principal
    ) -> alert_pb2.AcknowledgeAlertResponse:
        """Somebody looked at one."""
        await self._find(request.id, principal)
        if request.verdict not in _VERDICTS:
            raise invalid("verdict", found=request.verdict, expected="true positive, false positive or none")
        reason, verdict = request.reason.strip(), _VERDICTS[request.verdict]
        if verdict and not reason:
            raise invalid("reason", found="nothing", expected="why the alert is right or wrong")
        if len(reason.encode()) > limits.ACKNOWLEDGEMENT_BYTES:
            expected = f"at most {limits.ACKNOWLEDGEMENT_BYTES} bytes"
            raise invalid("reason", found=f"{len(reason.encode())} bytes", expected=expected)
        given = Acknowledged(verdict=verdict, reason=reason, by=principal.name, time_ns=time.time_ns())

        def judge(alerts: Alerts, _: int) -> tuple[Alert, Sequence[AlertChanged]]:
            changed = alerts.acknowledge(request.id, given)
            return changed.alert, [changed]

        try:
            found = await asyncio.to_thread(self._pipeline.tell_alerts, judge)
        except RecordError as error:
            raise _unknown(request.id) from error
        return alert_pb2.AcknowledgeAlertResponse(alert=alerted.message(found))

    async def _find(self, name: str, principal: Principal) -> Alert:
        try:
            found = await asyncio.to_thread(self._pipeline.alert, name)
        except RecordError as error:
            raise _unknown(name) from error
        if not alertfilter.may_see(found, principal.tenants):
            raise _unknown(name)
        return found

    # --- as they change -------------------------------------------------------------------------------------------
    async def watch(self, request: alert_pb2.WatchAlertsRequest, principal: Principal) -> AsyncGenerator[bytes, None]:
        """Every change from now, or from a resume token, on."""
        wanted = alertfilter.read(request.filter, principal)
        cursor, same_run = self._feed.begin(request.resume_token)
        if self.subscribers >= self._subscribers_max:
            found, expected = f"{self.subscribers} subscribers", f"at most {self._subscribers_max}"
            error = SaewatchError("subscribers", found=found, expected=expected, hint="Try again later.")
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, error, reason="SUBSCRIBERS", retry_s=5.0)
        self.subscribers += 1
        try:
            yield self._heartbeat(cursor)
            if not same_run:
                lost = alert_pb2.AlertsMissed(reason=alert_pb2.ALERTS_MISSED_REASON_RESTARTED)
                yield self._said(Response(missed=lost), cursor)
            expired = self._missed(cursor, alert_pb2.ALERTS_MISSED_REASON_EXPIRED)
            if expired is not None:
                cursor = self._feed.ring.tail
                yield self._said(expired, cursor)
            async for said in self._changes(cursor, wanted):
                yield said
        finally:
            self.subscribers -= 1

    async def _changes(self, cursor: Cursor, wanted: AlertFilter) -> AsyncGenerator[bytes, None]:
        spoke = time.monotonic()
        while True:
            overtaken = self._missed(cursor, alert_pb2.ALERTS_MISSED_REASON_SLOW_CONSUMER)
            if overtaken is not None:
                cursor = self._feed.ring.tail
                yield self._said(overtaken, cursor)
                continue  # the ring went on while that was written
            entry = self._feed.ring.next(cursor)
            if entry is None:
                if self._draining:
                    yield self._said(Response(drain=alert_pb2.AlertDrain(reason=self._draining)), cursor)
                    return
                if time.monotonic() - spoke >= HEARTBEAT_S:
                    yield self._heartbeat(cursor)
                    spoke = time.monotonic()
                await self._feed.bell.wait(HEARTBEAT_S)
                continue
            cursor = entry.after
            if isinstance(entry.item, Dropped):
                reason = alert_pb2.ALERTS_MISSED_REASON_OVERLOAD
                lost = alert_pb2.AlertsMissed(reason=reason, changes=entry.item.events)
                yield self._said(Response(missed=lost), cursor)
            elif wanted.wants(entry.item):
                yield self._said(Response(alert=alerted.message(entry.item)), cursor)
                spoke = time.monotonic()
            else:
                await asyncio.sleep(0)  # a reader far behind, with a filter that takes nothing, must not stop the loop

    def _missed(self, cursor: Cursor, reason: alert_pb2.AlertsMissedReason.ValueType) -> Response | None:
        missed = self._feed.ring.missing(cursor)
        if missed is None:
            return None
        return Response(missed=alert_pb2.AlertsMissed(reason=reason, changes=max(missed.tokens, 1)))

    def _heartbeat(self, cursor: Cursor) -> bytes:
        now = messages.timestamp(time.time_ns())
        return self._said(Response(heartbeat=alert_pb2.AlertHeartbeat(server_time=now)), cursor)

    def _said(self, response: Response, cursor: Cursor) -> bytes:
        response.resume_token = self._feed.token(cursor)
        said: Message = response
        return said.SerializeToString()


def _unknown(name: str) -> Refusal:
    hint = "It may be older than what is kept."
    return missing("id", found=repr(name[:80]), expected="the id of an alert that is kept", hint=hint)


def _place(alert: Alert) -> tuple[int, str]:
    return alert.changed_ns, alert.id


def _token(alert: Alert) -> str:
    """Of the last alert of a page."""
    return f"{alert.changed_ns:x}.{alert.id}"


def _after(ordered: Sequence[Alert], token: str) -> Sequence[Alert]:
    """Those behind the place of a token."""
    if not token:
        return ordered
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise invalid("page_token", found=repr(token[:80]), expected="the next_page_token of this very list")
    return [one for one in ordered if _place(one) < (int(match[1], 16), match[2])]
