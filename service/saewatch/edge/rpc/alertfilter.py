"""Which alerts a caller wants, and may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saewatch.edge.access import Principal
from saewatch.edge.pb import alert_pb2
from saewatch.edge.rpc import alerted
from saewatch.edge.rpc.bounded import bounded
from saewatch.edge.rpc.refusals import invalid
from saewatch.monitor.alert import Alert

_TEXTS = ("policies", "rules", "tenants", "request_ids")
_WORDS: Mapping[str, Mapping[str, int]] = {
    "severities": alerted.SEVERITY,
    "kinds": alerted.KINDS,
    "states": alerted.STATES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFilter:
    """Empty sets do not filter."""

    policies: frozenset[str] = frozenset()
    rules: frozenset[str] = frozenset()
    severities: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    request_ids: frozenset[str] = frozenset()
    with_held_back: bool = False
    allowed_tenants: frozenset[str] | None = None
    """Tenants that the principal may see; None: all."""

    def wants(self, alert: Alert) -> bool:
        """Whether an alert is chosen."""
        return (
            may_see(alert, self.allowed_tenants)
            and (self.with_held_back or not alert.held_back)
            and all(
                not wanted or value in wanted
                for wanted, value in (
                    (self.policies, alert.policy),
                    (self.rules, alert.rule),
                    (self.severities, alert.severity),
                    (self.kinds, alert.kind),
                    (self.states, alert.state),
                )
            )
            and self._wants_request(alert)
        )

    def _wants_request(self, alert: Alert) -> bool:
        one = alert.identity
        if one is None:
            return not self.tenants and not self.request_ids
        return (not self.tenants or one.tenant in self.tenants) and (
            not self.request_ids or bool(self.request_ids & {one.key, one.engine_id, one.client_id} - {""})
        )


def may_see(alert: Alert, allowed: frozenset[str] | None) -> bool:
    """Whether an alert is of one of these tenants; None: everybody's. Blind ones are of nobody's, and for all."""
    return allowed is None or alert.identity is None or alert.identity.tenant in allowed


def read(asked: alert_pb2.AlertFilter, principal: Principal) -> AlertFilter:
    """The filter of a call. Raises `Refusal` for one that makes no sense. Names that nobody knows match nothing."""
    bounded(asked, _TEXTS, _WORDS)
    chosen = {name: frozenset(_words(asked, name)) for name in _WORDS}
    return AlertFilter(
        **{name: frozenset(getattr(asked, name)) for name in _TEXTS},
        **chosen,
        with_held_back=asked.with_held_back,
        allowed_tenants=principal.tenants,
    )


def _words(asked: alert_pb2.AlertFilter, name: str) -> list[str]:
    known = {number: word for word, number in _WORDS[name].items()}
    found = list(getattr(asked, name))
    for index, number in enumerate(found):
        if number not in known:
            raise invalid(f"filter.{name}[{index}]", found=number, expected=f"one of {', '.join(known.values())}")
    return [known[number] for number in found]
