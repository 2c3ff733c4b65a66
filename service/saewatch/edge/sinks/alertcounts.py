"""Alerts as series: how many there were, how many are active, what was held back, and what is silenced.

A rule has its series from the start on, so that a rate is right from its first alert. Acknowledgements are no changes
of state, and are not counted.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from saewatch.core import limits
from saewatch.edge.sinks.series import PREFIX, Counter
from saewatch.monitor.alert import AlertChanged
from saewatch.monitor.policy.machine import ACTIVE
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.silences import SilenceChanged

RULE = ("policy", "rule", "severity")


class AlertCounts:
    """Counts changes of alerts."""

    def __init__(self, policies: Sequence[Policy], series: int) -> None:
        self._series = series
        says = "Alerts that were delivered, by the state that they came into."
        self._alerts = Counter("alerts", says, (*RULE, "state"), series)
        self._held_back = Counter(
            "alerts_held_back", "Alerts that became active and were not delivered, by why.", (*RULE, "why"), series
        )
        self._policies = [policy.name for policy in policies]
        self._silences: dict[str, str] = {}
        """Those in force, and their policies."""
        self._active: OrderedDict[str, tuple[str, str, str]] = OrderedDict()
        self._rules = [(policy.name, rule.id, rule.severity) for policy in policies for rule in policy.rules]
        for rule in self._rules:
            self._alerts.add((*rule, ACTIVE), 0)

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Those with a cap on their series."""
        return self._alerts, self._held_back

    def take(self, change: AlertChanged | SilenceChanged) -> None:
        """An alert has changed, or a silence."""
        if isinstance(change, SilenceChanged):
            self._silence(change)
            return
        alert = change.alert
        if change.acknowledged:
            return
        rule = (alert.policy, alert.rule, alert.severity)
        if alert.held_back:
            if alert.state == ACTIVE:
                self._held_back.add((*rule, alert.held_back), 1)
            return
        self._alerts.add((*rule, alert.state), 1)
        self._active.pop(alert.id, None)
        if alert.state == ACTIVE:
            self._active[alert.id] = rule
            if len(self._active) > limits.ALERTS_KEPT:
                self._active.popitem(last=False)

    def _silence(self, change: SilenceChanged) -> None:
        self._silences.pop(change.silence.id, None)
        if not change.over:
            self._silences[change.silence.id] = change.silence.policy

    def families(self) -> Iterable[Metric]:
        """As it stands."""
        yield self._alerts.family()
        yield self._held_back.family()
        active = Tally(self._active.values())
        family = GaugeMetricFamily(f"{PREFIX}alerts_active", "Delivered alerts that are active.", labels=RULE)
        for rule in list(dict.fromkeys([*self._rules, *active]))[: self._series]:
            family.add_metric(rule, active[rule])
        yield family
        silences = Tally(self._silences.values())
        says = "Silences in force, whose alerts are not delivered."
        family = GaugeMetricFamily(f"{PREFIX}silences_active", says, labels=("policy",))
        for policy in self._policies[: self._series]:
            family.add_metric((policy,), silences[policy])
        yield family
