"""Alerts and verdicts of a fake sidecar: what a script says there are, over the real calls."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc

from saewatch.client.fake.refusal import Refusal, invalid
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb import alert_pb2, common_pb2, verdict_pb2

Response = alert_pb2.WatchAlertsResponse
PACE_S = 0.02


class AlertBook:
    """What there is. A token of it is a number of changes: a fake sidecar forgets none."""

    def __init__(self) -> None:
        self.changes: list[alert_pb2.Alert] = []
        self.verdicts: dict[str, verdict_pb2.Verdict] = {}
        self.silences: dict[str, alert_pb2.Silence] = {}
        """By id. They hold nothing back: a script says which alerts there are."""
        self.lock = threading.Lock()

    def alert(self, rule: str, *, state: str = "active", request: str = "r1", **fields: Any) -> str:
        """An alert of a rule about a request changes its state; gives its id. ``fields`` are those of the message."""
        name = hashlib.sha256(f"{rule} {request}".encode()).hexdigest()[:32]
        known: dict[str, Any] = {"policy": "fake", "severity": common_pb2.SEVERITY_HIGH, "claim": "correlational"}
        known |= {"action": alert_pb2.ALERT_ACTION_FLAG, "kind": alert_pb2.ALERT_KIND_FIRED, "rule_version": 1}
        made = alert_pb2.Alert(
            id=name,
            rule=rule,
            state=alert_pb2.AlertState.Value(f"ALERT_STATE_{state.upper()}"),
            request=common_pb2.Request(client_id=request, engine_id=f"chatcmpl-{request}"),
            **{**known, **fields},
        )
        made.change_time.GetCurrentTime()
        with self.lock:
            self.changes.append(made)
        return name

    def verdict(self, request: str, state: str, *, covered_through: int | None = None, **fields: Any) -> None:
        """What is known of a request from now on."""
        number = verdict_pb2.VerdictState.Value(f"VERDICT_STATE_{state.upper()}")
        with self.lock:
            self.verdicts[request] = verdict_pb2.Verdict(
                name=request, state=number, covered_through=covered_through, claim="correlational", **fields
            )

    def kept(self) -> dict[str, alert_pb2.Alert]:
        """By id, as each one stands, the latest change first."""
        with self.lock:
            found = {one.id: one for one in self.changes}
            return dict(sorted(found.items(), key=lambda item: self.changes.index(item[1]), reverse=True))


class Alerts:
    """The calls of AlertService and VerdictService."""

    def __init__(self, book: AlertBook) -> None:
        self._book = book

    def list_alerts(
        self, request: alert_pb2.ListAlertsRequest, context: grpc.ServicerContext
    ) -> alert_pb2.ListAlertsResponse:
        """All, on one page."""
        del context
        chosen = [one for one in self._book.kept().values() if _wants(request.filter, one)]
        return alert_pb2.ListAlertsResponse(alerts=chosen)

    def get_alert(
        self, request: alert_pb2.GetAlertRequest, context: grpc.ServicerContext
    ) -> alert_pb2.GetAlertResponse:
        """One of them."""
        return alert_pb2.GetAlertResponse(alert=self._find(request.id, context))

    def acknowledge(
        self, request: alert_pb2.AcknowledgeAlertRequest, context: grpc.ServicerContext
    ) -> alert_pb2.AcknowledgeAlertResponse:
        """Somebody looked at it: its rule's precision is that of the verdicts so far, without an interval."""
        if request.verdict and not request.reason.strip():
            invalid("reason", found="nothing", expected="why the alert is right or wrong").abort(context)
        made = alert_pb2.Alert()
        made.CopyFrom(self._find(request.id, context))
        made.acknowledgement.CopyFrom(
            alert_pb2.Acknowledgement(verdict=request.verdict, reason=request.reason, principal="fake")
        )
        others = (one for one in self._book.kept().values() if one.id != made.id and one.rule == made.rule)
        told = [*(one.acknowledgement.verdict for one in others), request.verdict]
        right = told.count(alert_pb2.ALERT_VERDICT_TRUE_POSITIVE)
        wrong = told.count(alert_pb2.ALERT_VERDICT_FALSE_POSITIVE)
        share = right / (right + wrong) if right + wrong else None
        made.precision.CopyFrom(
            alert_pb2.MeasuredPrecision(true_positives=right, false_positives=wrong, precision=share, high=1.0)
        )
        with self._book.lock:
            self._book.changes.append(made)
        return alert_pb2.AcknowledgeAlertResponse(alert=made)

    def create_silence(
        self, request: alert_pb2.CreateSilenceRequest, context: grpc.ServicerContext
    ) -> alert_pb2.CreateSilenceResponse:
        """It is listed until it is ended."""
        if not request.reason.strip():
            invalid("reason", found="nothing", expected="why nobody is to be told").abort(context)
        made = alert_pb2.Silence(id=secrets.token_hex(8), policy=request.policy, rules=request.rules)
        made.MergeFrom(alert_pb2.Silence(tenant=request.tenant, reason=request.reason, principal="fake"))
        made.create_time.GetCurrentTime()
        made.until_time.FromNanoseconds(made.create_time.ToNanoseconds() + request.duration.ToNanoseconds())
        with self._book.lock:
            self._book.silences[made.id] = made
        return alert_pb2.CreateSilenceResponse(silence=made)

    def list_silences(
        self, _: alert_pb2.ListSilencesRequest, __: grpc.ServicerContext
    ) -> alert_pb2.ListSilencesResponse:
        """All of them."""
        with self._book.lock:
            return alert_pb2.ListSilencesResponse(silences=self._book.silences.values())

    def delete_silence(
        self, request: alert_pb2.DeleteSilenceRequest, context: grpc.ServicerContext
    ) -> alert_pb2.DeleteSilenceResponse:
        """Ends one."""
        with self._book.lock:
            ended = self._book.silences.pop(request.id, None)
        if ended is None:
            error = SaewatchError("id", found=repr(request.id), expected="the id of a silence that is in force")
            Refusal(grpc.StatusCode.NOT_FOUND, error).abort(context)
        return alert_pb2.DeleteSilenceResponse(silence=ended)

    def watch(self, request: alert_pb2.WatchAlertsRequest, context: grpc.ServicerContext) -> Iterator[Response]:
        """From the beginning, or from a token on."""
        if request.resume_token and not request.resume_token.isdigit():
            invalid("resume_token", found=repr(request.resume_token), expected="a token of ours").abort(context)
        at = int(request.resume_token or "0")
        yield Response(heartbeat=alert_pb2.AlertHeartbeat(), resume_token=str(at))
        spoke = time.monotonic()
        while context.is_active():
            with self._book.lock:
                found = self._book.changes[at : at + 1]
            if found:
                at += 1
                if _wants(request.filter, found[0]):
                    yield Response(alert=found[0], resume_token=str(at))
            elif time.monotonic() - spoke > 1:
                spoke = time.monotonic()
                yield Response(heartbeat=alert_pb2.AlertHeartbeat(), resume_token=str(at))
            else:
                time.sleep(PACE_S)

    def watch_verdict(
        self, requests: Iterator[verdict_pb2.WatchVerdictRequest], context: grpc.ServicerContext
    ) -> Iterator[verdict_pb2.WatchVerdictResponse]:
        """What is known of the requests that are followed."""
        told: dict[str, bytes] = {}

        def listen() -> None:
            with contextlib.suppress(grpc.RpcError):  # the caller has left
                for request in requests:
                    for name in request.leave:
                        told.pop(name, None)
                    told.update(dict.fromkeys(request.follow, b""))

        threading.Thread(target=listen, daemon=True).start()
        while context.is_active():
            found = []
            for name, before in list(told.items()):
                with self._book.lock:
                    verdict = self._book.verdicts.get(name) or _unknown(name)
                if before != (now := verdict.SerializeToString(deterministic=True)):
                    told[name] = now
                    found.append(verdict)
            if found:
                yield verdict_pb2.WatchVerdictResponse(verdicts=found)
            time.sleep(PACE_S)

    def _find(self, name: str, context: grpc.ServicerContext) -> alert_pb2.Alert:
        found = self._book.kept().get(name)
        if found is None:
            error = SaewatchError("id", found=repr(name), expected="the id of an alert that is kept")
            Refusal(grpc.StatusCode.NOT_FOUND, error).abort(context)
        return found


def _unknown(name: str) -> verdict_pb2.Verdict:
    return verdict_pb2.Verdict(name=name, state=verdict_pb2.VERDICT_STATE_UNKNOWN, reason="no request of that name")


def _wants(wanted: alert_pb2.AlertFilter, alert: alert_pb2.Alert) -> bool:
    lists: tuple[tuple[Any, Any], ...] = (
        (wanted.rules, alert.rule),
        (wanted.policies, alert.policy),
        (wanted.severities, alert.severity),
        (wanted.kinds, alert.kind),
        (wanted.states, alert.state),
        (wanted.tenants, alert.request.tenant),
    )
    named = {alert.request.client_id, alert.request.engine_id}
    return (
        all(not chosen or value in chosen for chosen, value in lists)
        and (not wanted.request_ids or bool(named & set(wanted.request_ids)))
        and (wanted.with_held_back or not alert.held_back)
    )
