"""An alert: what a rule says of a request, a conversation or a stream, with all that is needed to judge it.

Its id is a hash of (rule, subject, window), so that a retry, a replay or another replica does not make a second one. It
is evidence of a correlation: it shows limits and what they rest on, how much of the request was seen, and by which
versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from saewatch.monitor.identity import Identity
from saewatch.monitor.policy.condition import Basis

CLAIM = "correlational"
BLIND = "blind"
"""Kind of an alert that says that a rule does not see."""
FIRED = "fired"
DRIFT = "drift"
"""Kind of an alert that says that features do not fire as in their baseline."""
BLOCK = "block"
"""Scope of evidence that is no request's: it has no positions."""
SHADOW, SILENCED, RATE = "shadow", "silenced", "rate"
"""Why an alert is kept and not delivered."""
VERDICTS = ("", "true_positive", "false_positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One part of the condition that holds."""

    features: tuple[str, ...]
    labels: tuple[str, ...]
    """As they are shown: marked where nobody accepted them."""
    statistic: str
    scope: str
    value: float
    limit: float
    first: int
    """Position at which it first occurred."""
    last: int
    """Position at which it occurred last."""
    peak: int
    """Position of the largest value of its features so far; -1: not known."""
    basis: Basis | None
    """None: the limit rests on no calibration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Tokens of the request: seen, and fed but not seen, by reason."""

    seen: int
    missed: Mapping[str, int]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing but what the dictionary was not trained on."""
        return not any(tokens for reason, tokens in self.missed.items() if reason != "excluded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What people said of a rule's alerts so far."""

    true: int = 0
    false: int = 0

    def recounted(self, before: str, after: str) -> Judged:
        """With another verdict in the place of the one before; empty ones do not count."""
        return Judged(
            true=self.true + (after == "true_positive") - (before == "true_positive"),
            false=self.false + (after == "false_positive") - (before == "false_positive"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMoved:
    """By how much a feature moved: a ratio, but of ``z`` and ``az``, which are shifts in scales."""

    feature: str
    label: str
    """As it is shown: marked where nobody accepted it."""
    statistic: str
    effect: float
    low: float
    """Of its 95 % interval."""
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceMoved:
    """A kind of request that has grown or shrunk."""

    slice: str
    """Its length, its hours and its source, in words."""
    share: float
    """Of all requests at these hours."""
    requests: int
    """Of them all."""
    before: float
    """Its share in the baseline."""
    low: float
    """The smallest on a day of the baseline."""
    high: float
    """The largest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What drift is put down to. It is a reading of evidence, and no proof."""

    name: str
    """traffic | model | model_and_traffic | dictionary | numerics | cannot_tell"""
    reason: str
    exercised: str
    """direct: the panel could have shown these features move; indirect: it could not, for some."""
    moved: tuple[FeatureMoved, ...]
    """What moved most first."""
    slices: tuple[SliceMoved, ...] = ()
    """Where the mix of requests is part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """Who looked at an alert, and what they found."""

    verdict: str
    reason: str
    by: str
    time_ns: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alert:
    """One alert in one state."""

    id: str
    kind: str
    state: str
    """pending | active | resolved"""
    policy: str
    rule: str
    version: int
    title: str
    severity: str
    action: str
    runbook: str
    held_back: str
    """Empty: it is delivered."""
    why: str
    """Of a shadow alert why it is one; of a blind one what is not seen."""
    subject: str
    identity: Identity | None
    engine: str
    model_name: str
    hook_point: str
    position: int
    """Of the request's token (of a conversation's, in the order in which they came) at which the state began."""
    opened_ns: int
    changed_ns: int
    evidence: tuple[Evidence, ...]
    coverage: Coverage | None
    judged: Judged
    weights_digest: str
    catalogue_digest: str
    bundle_digest: str
    policy_digest: str
    activations: int = 1
    acknowledged: Acknowledged | None = None
    claim: str = CLAIM
    cause: Cause | None = None
    """Of drift."""


@dataclass(frozen=True, slots=True, eq=False)
class AlertChanged:
    """An alert has another state, or somebody ``acknowledged`` it: then its rule is judged anew."""

    alert: Alert
    acknowledged: bool = False


def alert_id(policy: str, rule: str, subject: str, window: int) -> str:
    """32 hex digits of sha256 over (rule, subject, window)."""
    text = "\0".join([policy, rule, subject, str(window)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
