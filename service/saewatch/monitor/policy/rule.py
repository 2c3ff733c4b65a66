"""A policy as its author writes it: rules, each with a condition, read strictly from what a YAML file holds.

    policy: trust-and-safety
    rules:
      - id: pii_in_answers
        severity: high
        when:
          all:
            - {feature: pii_disclosure.p1, scope: reply}
            - not: {concept: refusal, within_tokens: 20}

A condition is a leaf (features, a statistic, a limit) or ``all``, ``any``, ``not``, ``at_least`` and ``sequence`` of
conditions. Everything that a rule may cost is bounded here, so that a policy is refused before it serves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from saewatch.core import limits
from saewatch.core.catalogue import SCOPES, SEVERITIES
from saewatch.core.errors import ConfigError
from saewatch.monitor.policy.mapped import Mapped
from saewatch.monitor.policy.statistic import AT_END, Statistic
from saewatch.monitor.policy.statistic import read as read_statistic

SELECTS = ("feature", "features", "concept", "category")
_KINDS = (*SELECTS, "all", "any", "not", "at_least", "sequence")
SUBJECTS = ("request", "conversation")
ACTIONS = ("flag", "notify", "record")
"""What an alert asks for: mark the request, tell somebody, or only keep it. The application decides what it does."""
ON_BLIND = ("alert", "ignore")
_NAME = r"[a-z0-9][a-z0-9_.-]{0,63}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """Features whose statistic is above a limit. Empty: as the catalogue says."""

    select: str
    names: tuple[str, ...]
    statistic: Statistic | None = None
    scope: str = ""
    above: float | None = None
    """None: each feature's calibrated limit."""
    within: int = 0
    """An occurrence counts for so many tokens; 0: as long as the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """``all`` | ``any`` | ``not`` | ``at_least`` | ``sequence`` of conditions."""

    kind: str
    of: tuple[Condition, ...]
    count: int = 0
    """Of ``at_least``."""
    within: int = 0
    """Of ``sequence``: from its first to its last token; 0: no bound."""


Condition = Leaf | Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most so many alerts in so many seconds; those beyond are kept and counted, and not delivered."""

    alerts: int
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. ``shadow``: it says what it would have done. ``uncalibrated``: why it may act without a calibration."""

    id: str
    title: str
    severity: str
    when: Condition
    version: int = 1
    subject: str = "request"
    for_tokens: int = 0
    """The condition has to hold for so many tokens more."""
    clear_tokens: int = 0
    """It has to be gone for so many tokens."""
    shadow: bool = False
    uncalibrated: str = ""
    on_blind: str = "alert"
    action: str = "notify"
    runbook: str = ""
    rate: Rate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Alerts of these rules (none: all) and this tenant ("": all) are not delivered until then."""

    rules: tuple[str, ...]
    tenant: str
    until_ns: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules under one name. The digest is over what was read, so that an alert says which text it came from."""

    name: str
    rules: tuple[Rule, ...]
    silences: tuple[Silence, ...] = ()
    digest: str = ""


def read(values: object, subject: str) -> Policy:
    """The policy in what YAML or JSON gave. Raises `ConfigError` with the path of the field that is wrong."""
    fields = Mapped(values, subject)
    name = fields.text("policy", pattern=_NAME)
    rules = tuple(_rule(one) for one in fields.each("rules", limits.POLICY_RULES))
    silences = tuple(_silence(one) for one in fields.each("silences", limits.POLICY_RULES, optional=True))
    fields.close()
    if not rules:
        raise ConfigError(f"{subject}: rules", found="none", expected="at least one rule")
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise ConfigError(f"{subject}: rules", found=f"{rule.id} twice", expected="ids that differ")
        seen.add(rule.id)
    for silence in silences:
        for one in silence.rules:
            if one not in seen:
                raise ConfigError(f"{subject}: silences", found=f"{one!r:.80}", expected="the id of a rule")
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return Policy(name=name, rules=rules, silences=silences, digest=digest)


def leaves(condition: Condition) -> Iterator[Leaf]:
    """All leaves, from left to right."""
    if isinstance(condition, Leaf):
        yield condition
    else:
        for one in condition.of:
            yield from leaves(one)


# --- rules ------------------------------------------------------------------------------------------------------------
def _rule(fields: Mapped) -> Rule:
    name = fields.text("id", pattern=_NAME)
    rate = fields.section("rate")
    made = Rule(
        id=name,
        title=fields.text("title", default=name),
        severity=fields.choice("severity", SEVERITIES),
        when=_condition(fields.take("when"), fields.path("when"), 1),
        version=fields.integer("version", 1, 2**31 - 1, default=1),
        subject=fields.choice("subject", SUBJECTS, default="request"),
        for_tokens=fields.integer("for_tokens", 0, limits.POLICY_WITHIN, default=0),
        clear_tokens=fields.integer("clear_tokens", 0, limits.POLICY_WITHIN, default=0),
        shadow=fields.flag("shadow"),
        uncalibrated=fields.text("uncalibrated", default=""),
        on_blind=fields.choice("on_blind", ON_BLIND, default="alert"),
        action=fields.choice("action", ACTIONS, default="notify"),
        runbook=fields.text("runbook", default="", pattern=r"(?:https?://[^\s]{1,2000})?"),
        rate=None if rate is None else _rate(rate),
    )
    fields.close()
    _check(made, fields)
    return made


def _check(rule: Rule, fields: Mapped) -> None:
    found = list(leaves(rule.when))
    if len(found) > limits.POLICY_LEAVES:
        fields.refuse("when", f"{len(found)} leaves", f"at most {limits.POLICY_LEAVES}")
    if not any(_positive(rule.when)):
        fields.refuse("when", "nothing that has to occur", "a condition that is not under `not`")
    at_end = {leaf.statistic.kind for leaf in found if leaf.statistic} & set(AT_END)
    if rule.subject == "conversation" and at_end:
        fields.refuse("when", f"{min(at_end)} over a conversation", "a statistic that is known before its end")


def _positive(condition: Condition) -> Iterator[bool]:
    if isinstance(condition, Leaf):
        yield True
    elif condition.kind != "not":
        for one in condition.of:
            yield from _positive(one)


def _rate(fields: Mapped) -> Rate:
    made = Rate(alerts=fields.integer("alerts", 1, 10**6), seconds=fields.integer("seconds", 1, 86_400))
    fields.close()
    return made


def _silence(fields: Mapped) -> Silence:
    made = Silence(
        rules=fields.names("rules", default=()),
        tenant=fields.text("tenant", default=""),
        until_ns=fields.time_ns("until"),
        reason=fields.text("reason"),
    )
    fields.close()
    return made


# --- conditions -------------------------------------------------------------------------------------------------------
def _condition(value: object, subject: str, depth: int) -> Condition:
    fields = Mapped(value, subject)
    if depth > limits.POLICY_DEPTH:
        raise ConfigError(subject, found=f"{depth} levels", expected=f"at most {limits.POLICY_DEPTH}")
    kinds = [name for name in _KINDS if fields.has(name)]
    if len(kinds) != 1:
        expected = f"one of {', '.join(_KINDS)}"
        hint = "" if kinds else fields.misspelt(_KINDS)
        raise ConfigError(subject, found=" and ".join(kinds) or "none", expected=expected, hint=hint)
    if kinds[0] in SELECTS:
        return _leaf(fields, kinds[0])
    made = _group(fields, kinds[0], depth)
    fields.close()
    return made


def _leaf(fields: Mapped, select: str) -> Leaf:
    names = fields.names(select) if select == "features" else (fields.text(select),)
    spelt = fields.text("statistic", default="")
    made = Leaf(
        select=select,
        names=names,
        statistic=read_statistic(spelt, fields.path("statistic")) if spelt else None,
        scope=fields.choice("scope", SCOPES, default=""),
        above=fields.above("above"),
        within=fields.integer("within_tokens", 1, limits.POLICY_WITHIN, default=0),
    )
    fields.close()
    if made.statistic is not None and made.statistic.of_tokens and made.above is None:
        fields.refuse("above", "calibrated", f"a number: {spelt} has no calibrated limit")
    if made.statistic is not None and made.above is not None and made.above >= made.statistic.most:
        never = f"below {made.statistic.most:g}, or it never occurs"
        fields.refuse("above", f"{made.above:g}", never)
    if made.above is not None and len(names) + (select != "feature") > 1 and not _counts(made):
        hint = "Values of two features are on two scales. Leave `above` out for each one's own limit."
        fields.refuse("above", "one number for several features", "calibrated, or a count or share", hint)
    return made


def _counts(leaf: Leaf) -> bool:
    return leaf.statistic is not None and leaf.statistic.of_tokens


def _group(fields: Mapped, kind: str, depth: int) -> Group:
    count = within = 0
    if kind == "not":
        return Group(kind=kind, of=(_condition(fields.take(kind), fields.path(kind), depth + 1),))
    inner = fields
    if kind == "at_least":
        count = fields.integer(kind, 1, limits.POLICY_LEAVES)
    elif kind == "sequence":
        within = fields.integer("within_tokens", 1, limits.POLICY_WITHIN, default=0)
    key = "of" if kind == "at_least" else kind
    of = tuple(
        _condition(one, f"{inner.path(key)}[{number}]", depth + 1)
        for number, one in enumerate(inner.items(key, limits.POLICY_LEAVES))
    )
    if len(of) < (2 if kind == "sequence" else 1):
        fields.refuse(key, f"{len(of)} conditions", "more of them")
    if kind == "at_least" and count > len(of):
        fields.refuse(kind, count, f"at most {len(of)}, the number of conditions")
    if kind == "sequence" and any(isinstance(one, Group) and one.kind != "any" for one in of):
        fields.refuse(key, "a condition that does not occur on a token", "leaves, or any of leaves")
    if within and within < len(of) - 1:
        fields.refuse("within_tokens", within, f"{len(of) - 1} or more: its steps are on tokens of their own")
    return Group(kind=kind, of=of, count=count, within=within)
