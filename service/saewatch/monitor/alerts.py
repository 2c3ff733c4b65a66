"""From rules that change their state to alerts: one for each subject, with its evidence, kept and counted.

Whatever is not delivered (a rule in shadow, a silence, a rate that is used up) is made all the same, marked and kept,
so that nothing is hidden from who asks. What is *blind* becomes an alert of its own, of all rules that want to know.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from saewatch.core import limits
from saewatch.core.catalogue import SEVERITIES, Feature
from saewatch.core.errors import RecordError
from saewatch.core.records import Role
from saewatch.monitor import alert as alerts
from saewatch.monitor.alert import Acknowledged, Alert, AlertChanged, Coverage, Evidence, Judged, alert_id
from saewatch.monitor.events import BlindState, Event, Observed, RequestEnded, Standing
from saewatch.monitor.identity import Identity
from saewatch.monitor.policy.judge import Change, Judge, Shown
from saewatch.monitor.policy.machine import ACTIVE, INACTIVE, PENDING, RESOLVED
from saewatch.monitor.policy.resolve import LimitOf, Programme, Resolved, resolved_or_blind
from saewatch.monitor.policy.rule import SUBJECTS, Policy, Rule
from saewatch.monitor.rates import Rates
from saewatch.monitor.silences import SilenceChanged, Silences
from saewatch.monitor.tables import KnownDictionary, StreamIdentity, WatchTable
from saewatch.monitor.unjudged import NOT_JUDGED, unjudged_because

LimitsOf = Callable[[StreamIdentity], LimitOf]
Seen = Callable[[Identity, int, Collection[str]], tuple[Coverage, Mapping[str, int]]]
"""Of a request in a stream (its number): how much was seen, and where the largest value of these features stood."""


def uncalibrated(_: StreamIdentity) -> LimitOf:
    """Nothing is calibrated."""
    return lambda _: None


NO_RULE = "blind"
"""The name under which a policy as a whole says that it does not see."""


@dataclass(slots=True, eq=False)
class _Watched:
    """One policy on one dictionary, and who is judged by it."""

    programme: Programme
    judges: tuple[Judge, ...]
    stream: StreamIdentity
    features: Mapping[str, Feature]
    told_missing: bool = False


class Alerts:
    """The alerts of some policies over everything that a monitor observes."""

    def __init__(self, policies: Sequence[Policy], limits_of: LimitsOf, seen: Seen) -> None:
        self.policies = tuple(policies)
        self.counters: Counter[str] = Counter()
        self._limits_of, self._seen = limits_of, seen
        self._watched: OrderedDict[tuple[str, ...], tuple[_Watched, ...]] = OrderedDict()
        self._kept: OrderedDict[str, Alert] = OrderedDict()
        self._rates = Rates()
        self.silences = Silences(policies)
        self._judged: dict[tuple[str, str, int], Judged] = {}
        self._blind: dict[tuple[str, str, str], str] = {}

    # --- what happens ---------------------------------------------------------------------------------------------
    def follow(self, events: Iterable[Event], now_ns: int) -> list[Event]:
        """The events with the alerts that follow from them; those of a batch stand before it."""
        if not self.policies:
            return list(events)
        found: list[Event] = []
        for event in events:
            if isinstance(event, Observed):
                found += [*self.observe(event, now_ns), event]
            elif isinstance(event, RequestEnded):
                found += [*self.ended(event, now_ns), event]
            else:
                found.append(event)
                if isinstance(event, Standing):
                    found += self.standing(event, now_ns)
        return found

    def observe(self, observed: Observed, now_ns: int) -> list[AlertChanged]:
        """What a batch of firings changes."""
        stream = observed.table.stream
        if not self.policies or stream.opening.role != Role.STABLE or stream.dictionary is None:
            return []
        found: list[AlertChanged] = []
        for watched in self._of(stream, stream.dictionary):
            watched.stream = stream
            if not watched.told_missing:
                watched.told_missing = True
                found += self._missing(watched, observed.table, now_ns)
            for judge in watched.judges:
                found += self._told(watched, judge.observe(observed, now_ns), now_ns)
        return found

    def ended(self, event: RequestEnded, now_ns: int) -> list[AlertChanged]:
        """A request has ended, and with it what its rules say of it alone."""
        return [
            one
            for watched in self._each()
            for judge in watched.judges
            for one in self._told(watched, judge.end(event.identity), now_ns)
        ]

    def tick(self, now_ns: int) -> list[AlertChanged | SilenceChanged]:
        """Time has passed: silences and conversations end."""
        found: list[AlertChanged | SilenceChanged] = [*self.silences.tick(now_ns)]
        for watched in self._each():
            for judge in watched.judges:
                found += self._told(watched, judge.tick(now_ns), now_ns)
        return found

    def standing(self, event: Standing, now_ns: int) -> list[AlertChanged]:
        """What is blind, and what sees again."""
        found: list[AlertChanged] = []
        for policy in self.policies:
            rules = [rule for rule in policy.rules if rule.on_blind == "alert"]
            told = {(policy.name, one.reason, one.subject): one for one in event.blind if rules}
            gone = [key for key in self._blind if key[0] == policy.name and key[1] and key not in told]
            for key in gone:
                found += self._sees(self._blind.pop(key), now_ns)
            for key, one in told.items():
                if key not in self._blind:
                    made = self._blinded(policy, rules, one, now_ns)
                    self._blind[key] = made.id
                    found.append(self._keep(made))
        return found

    def acknowledge(self, name: str, given: Acknowledged) -> AlertChanged:
        """Somebody looked. Raises `RecordError` for an alert that is not known, and for a verdict that there is not."""
        known = self.alert(name)
        if given.verdict not in alerts.VERDICTS:
            expected = f"one of {', '.join(one for one in alerts.VERDICTS if one)}, or none"
            raise RecordError("verdict", found=f"{given.verdict!r:.40}", expected=expected)
        before = known.acknowledged.verdict if known.acknowledged else ""
        key = known.policy, known.rule, known.version
        judged = self._judged[key] = self._judged.get(key, Judged()).recounted(before, given.verdict)
        return replace(self._keep(replace(known, acknowledged=given, judged=judged)), acknowledged=True)

    def remember(self, kept: Iterable[Alert], judged: Mapping[tuple[str, str, int], Judged], now_ns: int) -> None:
        """Alerts and verdicts of an earlier run, the latest change last. What was active then is judged no more."""
        self._judged.update(judged)
        for one in kept:
            over = one.state in {PENDING, ACTIVE}
            self._keep(replace(one, state=RESOLVED, changed_ns=now_ns) if over else one)

    # --- what others ask ------------------------------------------------------------------------------------------
    def alert(self, name: str) -> Alert:
        """The alert of that id. Raises `RecordError` where it is not known, or no longer."""
        if name not in self._kept:
            raise RecordError("alert", found=f"{name!r:.80}", expected="the id of an alert that is kept")
        return self._current(self._kept[name])

    def take(self, alert: Alert) -> AlertChanged:
        """An alert that no rule made, to be listed and acknowledged with the others."""
        return self._keep(alert)

    def all(self) -> list[Alert]:
        """Those that are kept, the latest change last."""
        return [self._current(one) for one in self._kept.values()]

    def programmes(self) -> Iterator[tuple[Programme, StreamIdentity]]:
        """What each policy comes to on each dictionary that was met."""
        for watched in self._each():
            yield watched.programme, watched.stream

    @property
    def unjudged(self) -> int:
        """Requests and conversations that found no room."""
        judges = {judge for watched in self._each() for judge in watched.judges}  # after a relabel two have the same
        return sum(judge.unjudged for judge in judges)

    @property
    def faults(self) -> Mapping[str, int]:
        """What was lost, by kind: each is 0 when all is well."""
        return {"alerts_forgotten": self.counters["alerts_forgotten"], "requests_unjudged": self.unjudged}

    def unjudged_because(self, table: WatchTable, identity: Identity) -> str:
        """Why nothing can be concluded from the rules' silence on a request in a stream; empty: something can."""
        stream = table.stream
        if stream.opening.role != Role.STABLE or stream.dictionary is None:
            return NOT_JUDGED
        return unjudged_because(
            ((one.programme, one.judges) for one in self._of(stream, stream.dictionary)), table, identity
        )

    # --- programmes -----------------------------------------------------------------------------------------------
    def _each(self) -> Iterator[_Watched]:
        for of in self._watched.values():
            yield from of

    def _of(self, stream: StreamIdentity, known: KnownDictionary) -> tuple[_Watched, ...]:
        opening = stream.opening
        key = (
            *(known.weights_digest, known.catalogue_digest, known.bundle_digest),
            *(opening.model_digest, opening.quantisation, opening.mode, *opening.versions.values()),
            *(f"{name}={value}" for name, value in sorted(opening.excluded.items())),
        )
        found = self._watched.get(key)
        if found is None:
            limit_of = self._limits_of(stream)
            made = (resolved_or_blind(policy, known.catalogue.features, limit_of) for policy in self.policies)
            found = self._watched[key] = tuple(self._begun(programme, stream) for programme in made)
            while len(self._watched) > limits.DICTIONARIES_KEPT:
                self._watched.popitem(last=False)
        return found

    def _begun(self, programme: Programme, stream: StreamIdentity) -> _Watched:
        """Whoever is judged already goes on where only labels, or what limits rest on, have changed."""
        weights = stream.opening.weights_digest
        assert stream.dictionary is not None, "only known dictionaries are judged"
        features = {one.id: one for one in stream.dictionary.catalogue.features}
        for one in self._each():
            if one.programme == programme and one.stream.opening.weights_digest == weights:
                return _Watched(programme, one.judges, stream, features)
        judges = tuple(Judge(programme, subject) for subject in SUBJECTS)
        return _Watched(programme, tuple(one for one in judges if not one.idle), stream, features)

    def _missing(self, watched: _Watched, table: WatchTable, now_ns: int) -> list[AlertChanged]:
        """Rules that cannot be judged on this dictionary, or on what is watched of it."""
        policy, here = watched.programme.policy, {feature.id for feature in table.features}
        found = []
        for rule in watched.programme.rules:
            missing = rule.missing or tuple(
                name for atom in rule.atoms for name in watched.programme.atoms[atom].features if name not in here
            )
            if missing and not rule.elsewhere and rule.rule.on_blind == "alert":
                why = f"{rule.rule.id} needs {', '.join(dict.fromkeys(missing))}"
                state = BlindState(
                    scope="feature", reason="", subject=f"rule {rule.rule.id}", hint=why, since_ns=now_ns
                )
                made = self._blinded(policy, [rule.rule], state, now_ns, stream=watched.stream)
                self._blind[policy.name, "", f"{made.id}"] = made.id
                found.append(self._keep(made))
        return found

    # --- alerts ---------------------------------------------------------------------------------------------------
    def _told(self, watched: _Watched, changes: Iterable[Change], now_ns: int) -> Iterator[AlertChanged]:
        for change in changes:
            rule = watched.programme.rules[change.rule]
            if change.state == PENDING and not rule.rule.for_tokens:
                continue  # it is active on the same token
            subject = _subject(rule.rule, change.identity)
            name = alert_id(watched.programme.policy.name, rule.rule.id, subject, 0)
            known = self._kept.get(name)
            if change.state in {INACTIVE, RESOLVED}:
                if known is not None and known.state in {PENDING, ACTIVE}:
                    yield self._keep(replace(known, state=change.state, position=change.position, changed_ns=now_ns))
                continue
            yield self._keep(self._risen(watched, change, known, now_ns))

    def _risen(self, watched: _Watched, change: Change, known: Alert | None, now_ns: int) -> Alert:
        """Pending or active: a new alert, or one that comes again."""
        rule = watched.programme.rules[change.rule]
        evidence, coverage = self._evidence(watched, change)
        if known is not None and known.state != INACTIVE:
            again = known.state == RESOLVED
            return replace(
                known,
                state=change.state,
                position=change.position,
                changed_ns=now_ns,
                activations=known.activations + again,
                evidence=evidence or known.evidence,
                coverage=coverage,
            )
        policy, identity, stream = watched.programme.policy, change.identity, watched.stream
        known_dictionary = stream.dictionary
        assert known_dictionary is not None, "only known dictionaries are judged"
        subject = _subject(rule.rule, identity)
        return Alert(
            id=alert_id(policy.name, rule.rule.id, subject, 0),
            kind=alerts.FIRED,
            state=change.state,
            policy=policy.name,
            rule=rule.rule.id,
            version=rule.rule.version,
            title=rule.rule.title,
            severity=rule.rule.severity,
            action=rule.rule.action,
            runbook=rule.rule.runbook,
            held_back=self._held_back(policy, rule, identity, now_ns),
            why=rule.shadow_because,
            subject=subject,
            identity=identity,
            engine=identity.engine,
            model_name=stream.opening.model_name,
            hook_point=stream.opening.hook_point,
            position=change.position,
            opened_ns=now_ns,
            changed_ns=now_ns,
            evidence=evidence,
            coverage=coverage,
            judged=self._judged.get((policy.name, rule.rule.id, rule.rule.version), Judged()),
            weights_digest=known_dictionary.weights_digest,
            catalogue_digest=known_dictionary.catalogue_digest,
            bundle_digest=known_dictionary.bundle_digest,
            policy_digest=policy.digest,
        )

    def _evidence(self, watched: _Watched, change: Change) -> tuple[tuple[Evidence, ...], Coverage]:
        names = {name for one in change.evidence for name in watched.programme.atoms[one.atom].features}
        coverage, peaks = self._seen(change.identity, watched.stream.number, names)
        labels = {name: watched.features[name].shown for name in names if name in watched.features}
        return tuple(_shown(watched.programme, one, labels, peaks) for one in change.evidence), coverage

    def _held_back(self, policy: Policy, rule: Resolved, identity: Identity, now_ns: int) -> str:
        if rule.shadow:
            return alerts.SHADOW
        if self.silences.hold(policy.name, rule.rule.id, identity.tenant, now_ns):
            return alerts.SILENCED
        return alerts.RATE if self._rates.over(policy.name, rule.rule, now_ns) else ""

    def _current(self, alert: Alert) -> Alert:
        """With what people said of its rule up to now."""
        judged = self._judged.get((alert.policy, alert.rule, alert.version), alert.judged)
        return alert if judged == alert.judged else replace(alert, judged=judged)

    def _keep(self, alert: Alert) -> AlertChanged:
        self._kept[alert.id] = alert
        self._kept.move_to_end(alert.id)
        while len(self._kept) > limits.ALERTS_KEPT:
            self._kept.popitem(last=False)
            self.counters["alerts_forgotten"] += 1
        return AlertChanged(alert)

    # --- blindness ------------------------------------------------------------------------------------------------
    def _blinded(
        self,
        policy: Policy,
        rules: Sequence[Rule],
        state: BlindState,
        now_ns: int,
        *,
        stream: StreamIdentity | None = None,
    ) -> Alert:
        worst = max(rules, key=lambda rule: SEVERITIES.index(rule.severity))
        known = stream.dictionary if stream else None
        subject = f"{state.reason} {state.subject}".strip()
        return Alert(
            id=alert_id(policy.name, NO_RULE, subject, state.since_ns),
            kind=alerts.BLIND,
            state=ACTIVE,
            policy=policy.name,
            rule=rules[0].id if len(rules) == 1 else NO_RULE,
            version=worst.version,
            title=f"{len(rules)} rules of {policy.name} do not see",
            severity=worst.severity,
            action=worst.action,
            runbook=worst.runbook,
            held_back="",
            why=f"{state.reason}: {state.hint}" if state.reason else state.hint,
            subject=subject,
            identity=None,
            engine=stream.opening.engine if stream else "",
            model_name=state.model_name or (stream.opening.model_name if stream else ""),
            hook_point=stream.opening.hook_point if stream else "",
            position=-1,
            opened_ns=now_ns,
            changed_ns=now_ns,
            evidence=(),
            coverage=None,
            judged=Judged(),
            weights_digest=known.weights_digest if known else "",
            catalogue_digest=known.catalogue_digest if known else "",
            bundle_digest=known.bundle_digest if known else "",
            policy_digest=policy.digest,
        )

    def _sees(self, name: str, now_ns: int) -> list[AlertChanged]:
        known = self._kept.get(name)
        return [self._keep(replace(known, state=RESOLVED, changed_ns=now_ns))] if known else []


def _subject(rule: Rule, identity: Identity) -> str:
    if rule.subject == "conversation":
        return f"conversation {identity.tenant}/{identity.conversation}"
    return f"request {identity.engine}/{identity.engine_id}/{identity.child}"


def _shown(programme: Programme, one: Shown, labels: Mapping[str, str], peaks: Mapping[str, int]) -> Evidence:
    atom = programme.atoms[one.atom]
    return Evidence(
        features=atom.features,
        labels=tuple(labels.get(name, "") for name in atom.features),
        statistic=atom.statistic.spelt,
        scope=atom.scope,
        value=one.value,
        limit=atom.limit,
        first=one.first,
        last=one.last,
        peak=max((peaks.get(name, -1) for name in atom.features), default=-1),
        basis=atom.basis,
    )
