"""Alerts and verdicts for both clients: what is asked, and a watch of alerts as a machine like `Session`.

Alerts and verdicts are handed out as their protobuf messages, as a status and a record are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias, TypedDict, Unpack

from saewatch.client.events import Disconnected, Reconnected, Totals
from saewatch.client.filters import Several, listed
from saewatch.client.session import Reconnect
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb import alert_pb2, alert_pb2_grpc, common_pb2

VERDICTS = ("true_positive", "false_positive", "")
"""What a person may find; the empty one marks an alert as seen."""

SILENCE_S_MAX = 7 * 24 * 3600
"""As the sidecar has it: what is to stay quiet for longer belongs in its policy."""


class WantedAlerts(TypedDict, total=False):
    """Which alerts. What is left out does not filter; all that is given must hold; of each text one, or several."""

    policy: Several
    rule: Several
    severity: Several
    """low, medium, high, critical."""
    kind: Several
    """fired, blind."""
    state: Several
    """pending, active, resolved, inactive."""
    tenant: Several
    request: Several
    """By the client's id, the key or the engine's id."""
    held_back: bool
    """Those that are not delivered, too: of rules in shadow, under a silence, beyond a rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertChange:
    """An alert has another state, or somebody acknowledged it."""

    resume_token: str
    alert: alert_pb2.Alert


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertsMissed:
    """Changes that were not received: ask for the alerts as they stand."""

    resume_token: str
    reason: str
    """slow_consumer, expired, restarted, overload."""
    changes: int
    """0: nobody knows how many."""


AlertEvent: TypeAlias = AlertChange | AlertsMissed | Disconnected | Reconnected


def alert_filter(**wanted: Unpack[WantedAlerts]) -> alert_pb2.AlertFilter:
    """The filter as a message. Raises `SaewatchError` for a word that there is not, `TypeError` for a name."""
    for name in wanted.keys() - WantedAlerts.__annotations__.keys():
        raise TypeError(f"{name!r} is none of {', '.join(WantedAlerts.__annotations__)}")
    return alert_pb2.AlertFilter(
        policies=listed(wanted.get("policy")),
        rules=listed(wanted.get("rule")),
        severities=_numbers(common_pb2.Severity, "severity", wanted.get("severity")),
        kinds=_numbers(alert_pb2.AlertKind, "kind", wanted.get("kind")),
        states=_numbers(alert_pb2.AlertState, "state", wanted.get("state")),
        tenants=listed(wanted.get("tenant")),
        request_ids=listed(wanted.get("request")),
        with_held_back=wanted.get("held_back", False),
    )


def acknowledgement(name: str, verdict: str, reason: str) -> alert_pb2.AcknowledgeAlertRequest:
    """What one found. Raises `SaewatchError` for a verdict that there is not."""
    if verdict not in VERDICTS:
        raise SaewatchError("verdict", found=repr(verdict), expected=f"one of {', '.join(filter(None, VERDICTS))}")
    number = alert_pb2.AlertVerdict.Value(f"ALERT_VERDICT_{verdict.upper() or 'UNSPECIFIED'}")
    return alert_pb2.AcknowledgeAlertRequest(id=name, verdict=number, reason=reason)


def silence(
    policy: str, rules: Several, *, tenant: str, duration_s: float, reason: str
) -> alert_pb2.CreateSilenceRequest:
    """What is to be held back. Raises `SaewatchError` for a duration that is none."""
    asked = alert_pb2.CreateSilenceRequest(policy=policy, rules=listed(rules), tenant=tenant, reason=reason)
    if not 0 < duration_s <= SILENCE_S_MAX:
        expected = f"above 0 and at most {SILENCE_S_MAX} s, a week"
        raise SaewatchError("duration", found=f"{duration_s:g} s", expected=expected)
    asked.duration.FromNanoseconds(round(duration_s * 1e9))
    return asked


class AlertSession:
    """One watch of alerts. The arguments are those of `Session`."""

    def __init__(
        self,
        *,
        address: str,
        wanted: alert_pb2.AlertFilter,
        resume_token: str = "",
        give_up_after_s: float | None = None,
        random: Random | None = None,
    ) -> None:
        self.address = address
        self.resume_token = resume_token
        """Behind the last event that was handed out."""
        self.totals = Totals()
        self._wanted = wanted
        self.reconnect = Reconnect(address=address, give_up_after_s=give_up_after_s, random=random)

    def call(self, channel: Any) -> Any:
        """The call on a channel."""
        self.reconnect.draining = ""
        request = alert_pb2.WatchAlertsRequest(filter=self._wanted, resume_token=self.resume_token)
        return alert_pb2_grpc.AlertServiceStub(channel).WatchAlerts(request)

    def take(self, message: alert_pb2.WatchAlertsResponse, now_s: float) -> Sequence[AlertEvent]:
        """The events of a message, to be handed out."""
        found: list[AlertEvent] = [*self.reconnect.back(now_s, self.resume_token)]
        kind, token = message.WhichOneof("event"), message.resume_token
        if kind == "alert":
            found.append(AlertChange(resume_token=token, alert=message.alert))
        elif kind == "missed":
            reason = alert_pb2.AlertsMissedReason.Name(message.missed.reason).removeprefix("ALERTS_MISSED_REASON_")
            found.append(AlertsMissed(resume_token=token, reason=reason.lower(), changes=message.missed.changes))
        else:
            if kind == "drain":
                self.reconnect.draining = message.drain.reason or "it did not say why"
            self.totals.unknown_events += kind is None
            self.resume_token = token or self.resume_token  # nothing of it waits to be handed out
        return found

    def hand(self, event: AlertEvent) -> AlertEvent:
        """The same event, from now on behind the resume token."""
        self.resume_token = event.resume_token or self.resume_token
        return event

    def lost(self, error: Any, now_s: float, *, silent: bool = False) -> Disconnected:
        """As `Reconnect.lost`."""
        return self.reconnect.lost(error, now_s, silent=silent, resume_token=self.resume_token)

    def broken(self, down: Disconnected) -> Sequence[AlertEvent]:
        """That it is so."""
        return [down]

    def close(self) -> None:
        """It holds nothing."""


def _numbers(enum: Any, field: str, words: Several) -> list[Any]:
    prefix = enum.keys()[0].removesuffix("UNSPECIFIED")
    known: dict[str, int] = {name.removeprefix(prefix).lower(): enum.Value(name) for name in enum.keys()[1:]}
    for word in listed(words):
        if word not in known:
            raise SaewatchError(field, found=repr(word), expected=f"one of {', '.join(known)}")
    return [known[word] for word in listed(words)]
