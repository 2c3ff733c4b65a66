"""Silences over gRPC: the methods of `AlertService` that give, list and end them, and what they look like.

Whoever may see some tenants only silences, and ends, what is of one of these alone. A silence of all tenants concerns
everybody, and is shown to all.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence

import grpc
from google.protobuf.message import DecodeError

from saewatch.core import limits
from saewatch.core.errors import AccessError, RecordError, SaewatchError
from saewatch.edge.access import Principal
from saewatch.edge.pb import alert_pb2
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.rpc import messages
from saewatch.edge.rpc.bounded import FILTER_ITEM_BYTES
from saewatch.edge.rpc.calls import Unary
from saewatch.edge.rpc.refusals import Refusal, invalid, missing
from saewatch.monitor.alerts import Alerts
from saewatch.monitor.policy.rule import Silence
from saewatch.monitor.silences import SILENCE_NS_MAX, Given, SilenceChanged

ID_BYTES = 8
_WEEK = f"above 0 and at most {SILENCE_NS_MAX // 10**9} s"


class SilenceCalls:
    """Over the pipeline's alerts."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def methods(self) -> Mapping[str, Unary]:
        """Its methods by name."""
        return {
            "CreateSilence": Unary(alert_pb2.CreateSilenceRequest, self.create),
            "ListSilences": Unary(alert_pb2.ListSilencesRequest, self.list_silences),
            "DeleteSilence": Unary(alert_pb2.DeleteSilenceRequest, self.delete),
        }

    async def create(
        self, request: alert_pb2.CreateSilenceRequest, principal: Principal
    ) -> alert_pb2.CreateSilenceResponse:
        """Holds alerts back for a while."""
        duration_ns, reason = _duration_ns(request), _reason(request.reason)
        _bounded(request)
        _check_may_silence(request.tenant, principal)

        def give(alerts: Alerts, now_ns: int) -> tuple[Given, Sequence[SilenceChanged]]:
            rules = tuple(dict.fromkeys(request.rules))
            what = Silence(rules=rules, tenant=request.tenant, until_ns=now_ns + duration_ns, reason=reason)
            name = secrets.token_hex(ID_BYTES)
            one = Given(id=name, policy=request.policy, what=what, by=principal.name, given_ns=now_ns)
            changed = alerts.silences.give(one, now_ns)
            return changed.silence, [changed]

        try:
            given = await asyncio.to_thread(self._pipeline.tell_alerts, give)
        except RecordError as error:
            raise _refused(error) from error
        return alert_pb2.CreateSilenceResponse(silence=message(given))

    async def list_silences(
        self, _: alert_pb2.ListSilencesRequest, principal: Principal
    ) -> alert_pb2.ListSilencesResponse:
        """Those in force."""
        found = await asyncio.to_thread(
            self._pipeline.tell_alerts, lambda alerts, now_ns: (alerts.silences.all(now_ns), ())
        )
        seen = [one for one in found if _may_see(one, principal)]
        listed = seen[: limits.PAGE_ITEMS]
        return alert_pb2.ListSilencesResponse(silences=map(message, listed), not_listed=len(seen) - len(listed))

    async def delete(
        self, request: alert_pb2.DeleteSilenceRequest, principal: Principal
    ) -> alert_pb2.DeleteSilenceResponse:
        """Ends one before its time."""

        def end(alerts: Alerts, now_ns: int) -> tuple[Given, Sequence[SilenceChanged]]:
            one = alerts.silences.find(request.id, now_ns)
            if not _may_see(one, principal):
                raise _unknown(request.id)
            _check_may_silence(one.what.tenant, principal)
            if not one.by:
                raise _of_the_policy(one)
            changed = alerts.silences.end(one.id, principal.name, now_ns)
            return changed.silence, [changed]

        try:
            ended = await asyncio.to_thread(self._pipeline.tell_alerts, end)
        except RecordError as error:
            raise _unknown(request.id) from error
        return alert_pb2.DeleteSilenceResponse(silence=message(ended))


# --- what is asked ----------------------------------------------------------------------------------------------------
def _duration_ns(request: alert_pb2.CreateSilenceRequest) -> int:
    if not request.HasField("duration"):
        raise invalid("duration", found="nothing", expected=_WEEK)
    found: int = request.duration.seconds * 10**9 + request.duration.nanos
    if not 0 < found <= SILENCE_NS_MAX:
        hint = "What is to stay quiet for longer belongs in its policy."
        raise invalid("duration", found=f"{found / 1e9:g} s", expected=_WEEK, hint=hint)
    return found


def _reason(text: str) -> str:
    reason = text.strip()
    if not reason:
        raise invalid("reason", found="nothing", expected="why nobody is to be told")
    if len(reason.encode()) > limits.ACKNOWLEDGEMENT_BYTES:
        expected = f"at most {limits.ACKNOWLEDGEMENT_BYTES} bytes"
        raise invalid("reason", found=f"{len(reason.encode())} bytes", expected=expected)
    return reason


def _bounded(request: alert_pb2.CreateSilenceRequest) -> None:
    """Raises `Refusal` for lists and names that nobody means."""
    if len(request.rules) > limits.POLICY_RULES:
        raise invalid("rules", found=f"{len(request.rules)} rules", expected=f"at most {limits.POLICY_RULES}")
    if len(request.tenant.encode()) > FILTER_ITEM_BYTES:
        found, expected = f"{len(request.tenant.encode())} bytes", f"at most {FILTER_ITEM_BYTES}"
        raise invalid("tenant", found=found, expected=expected)


def _may_see(one: Given, principal: Principal) -> bool:
    return principal.tenants is None or one.what.tenant in {"", *principal.tenants}


def _check_may_silence(tenant: str, principal: Principal) -> None:
    if principal.tenants is None or tenant in principal.tenants - {""}:
        return
    found = f"{principal.name}, who may see some tenants, and {f'tenant {tenant!r:.80}' if tenant else 'all tenants'}"
    error = AccessError("tenant", found=found, expected="one of the caller's own tenants")
    raise Refusal(grpc.StatusCode.PERMISSION_DENIED, error, reason="PERMISSION_DENIED")


def _unknown(name: str) -> Refusal:
    hint = "`saewatch alerts silences` lists them. It may be over."
    return missing("id", found=repr(name[:80]), expected="the id of a silence that is in force", hint=hint)


def _of_the_policy(one: Given) -> Refusal:
    hint = f"Change the file of the policy {one.policy}, and start the sidecar again."
    error = SaewatchError("id", found=f"{one.id}, which stands in its policy", expected="one that was given", hint=hint)
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, error, reason="OF_THE_POLICY")


def _refused(error: RecordError) -> Refusal:
    if error.subject == "silences":
        return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, error, reason="SILENCES")
    return missing(error.subject, found=error.found, expected=error.expected, hint=error.hint)


# --- what they look like ----------------------------------------------------------------------------------------------
def message(one: Given) -> alert_pb2.Silence:
    """A silence as it stands."""
    return alert_pb2.Silence(
        id=one.id,
        policy=one.policy,
        rules=one.what.rules,
        tenant=one.what.tenant,
        until_time=messages.timestamp(one.what.until_ns),
        reason=one.what.reason,
        principal=one.by,
        create_time=messages.timestamp(one.given_ns),
        held_back=one.held_back,
    )


def given(data: bytes) -> Given:
    """One that was stored; alerts are counted anew. Raises `RecordError` for what is none."""
    try:
        one = alert_pb2.Silence.FromString(data)
    except DecodeError as error:
        raise RecordError("silence", found="bytes that are no message", expected="a silence") from error
    if not (one.id and one.principal and one.HasField("until_time")):
        raise RecordError("silence", found="one without id, principal or end", expected="a silence")
    until_ns = one.until_time.ToNanoseconds()
    what = Silence(rules=tuple(one.rules), tenant=one.tenant, until_ns=until_ns, reason=one.reason)
    return Given(id=one.id, policy=one.policy, what=what, by=one.principal, given_ns=one.create_time.ToNanoseconds())
