"""An alarm as an alert: what moved, by how much, and what the baseline would have let pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from saewatch.core.catalogue import Feature
from saewatch.monitor import alert as alerts
from saewatch.monitor.alert import SHADOW, Alert, Cause, Evidence, FeatureMoved, Judged, alert_id
from saewatch.monitor.drift import panel
from saewatch.monitor.drift.attribution import Attribution
from saewatch.monitor.drift.causes import PanelMoved
from saewatch.monitor.drift.detector import Moved
from saewatch.monitor.drift.known import KnownBaseline
from saewatch.monitor.tables import WatchTable

POLICY = "drift"
PANEL = "panel"
"""The rule of a panel that is an alarm by itself."""
SEVERITY, ACTION = "medium", "notify"
RUNBOOK = "docs/drift.md"
SAYS = {
    "n": "fires in {effect:.2f} times as many requests as the baseline expects",
    "w": "fires {effect:.2f} times as often as the baseline expects",
    "z": "fires {effect:+.2f} of its scale higher than it did",
    "az": "fires {effect:+.2f} of its scale further from its usual value",
    "dead": "has not fired for 7 days: {effect:.0f} times what the baseline expects",
    "dense": "fires in over 10 % of requests, {effect:.2f} times as many as the baseline expects",
    "pairs": "fire together in {effect:.2f} times as many requests as the baseline expects of their bucket",
}
LATENTS = {
    "dead": "{count:.0f} latents have not fired on a sampled token for 7 days: 20 times their dispersion were expected",
    "dense": "{count:.0f} latents fire on over 10 % of the sampled tokens, and did so on under 5 %",
}
TITLE = {"feature": "{name} has drifted", "pair": "{name} fire together as they did not"}
WHOLE = {
    "shift": "the values of all features have moved together",
    "traffic": "the traffic is of another kind than the baseline's",
    "l0": "more or fewer features fire on a token",
    "unexplained": "the dictionary explains more or less of the activations",
    "mass": "many features are off at once",
    "census_l0": "more or fewer latents of the whole dictionary fire on a token",
    "divergence": "the features' counts together are off",
    "dead": "latents of the whole dictionary have died",
    "dense": "latents of the whole dictionary have become dense",
}


def alert_of(
    moved: Moved, known: KnownBaseline, table: WatchTable, *, told: bool, cause: Attribution | None = None
) -> Alert:
    """The alert of an alarm in the streams of ``table``; one that is not told is kept and not delivered."""
    names = names_of(moved, known)
    own = names[0] if moved.kind == "feature" else _own(moved)
    name = " + ".join(names) or own
    features = {one.id: one for one in table.features}
    made = _alert(
        known,
        table,
        rule=moved.kind,
        what=f"{moved.of} {moved.direction}",
        subject=f"{moved.kind} {own} of {known.about.deployment}",
        opened_ns=moved.opened_ns,
    )
    return replace(
        made,
        title=WHOLE[moved.of] if moved.kind in {"overall", "latents"} else TITLE[moved.kind].format(name=name),
        held_back="" if told else SHADOW,
        why=said(moved),
        changed_ns=moved.changed_ns,
        evidence=(_evidence(moved, names, [features[one] for one in names if one in features]),),
        activations=moved.times,
        cause=cause_of(cause, known, table) if cause else None,
    )


def panel_alert(moved: PanelMoved, known: KnownBaseline, table: WatchTable) -> Alert:
    """The panel by itself is an alarm: what it is read with has changed, whatever the live counts say so far."""
    found = moved.round
    made = _alert(
        known, table, rule=PANEL, what="", subject=f"panel of {known.about.deployment}", opened_ns=moved.opened_ns
    )
    alike = f"fixed prompts fire alike by {found.overlap:.3f}; when the baseline was made it was {found.usual:.3f}"
    apart = f"; {found.apart} features fire there far off by themselves" if found.apart else ""
    return replace(
        made,
        state="resolved" if moved.resolved else "active",
        title="the panel fires as it did again" if moved.resolved else "the panel's fixed prompts fire otherwise",
        why=f"{alike} (score {found.score:.1f}, an alarm below -{panel.REACH:.0f}){apart}",
        changed_ns=moved.changed_ns,
        cause=cause_of(moved.attribution, known, table),
    )


def cause_of(cause: Attribution, known: KnownBaseline, table: WatchTable) -> Cause:
    """With the names of features, and their labels."""
    labels = {one.id: one.shown for one in table.features}
    names = known.features
    moved = tuple(
        FeatureMoved(
            feature=names[one.feature],
            label=labels.get(names[one.feature], ""),
            statistic=one.of,
            effect=one.value,
            low=one.low,
            high=one.high,
        )
        for one in cause.moved
    )
    return Cause(name=cause.cause, reason=cause.reason, exercised=cause.exercised, moved=moved, slices=cause.slices)


def _alert(known: KnownBaseline, table: WatchTable, *, rule: str, what: str, subject: str, opened_ns: int) -> Alert:
    """What every alert of drift has in common."""
    opening, dictionary = table.stream.opening, table.stream.dictionary
    return Alert(
        id=alert_id(POLICY, what, subject, opened_ns),
        kind=alerts.DRIFT,
        state="active",
        policy=POLICY,
        rule=rule,
        version=known.fitted.baseline.version,
        title="",
        severity=SEVERITY,
        action=ACTION,
        runbook=RUNBOOK,
        held_back="",
        why="",
        subject=subject,
        identity=None,
        engine=opening.engine,
        model_name=opening.model_name,
        hook_point=opening.hook_point,
        position=-1,
        opened_ns=opened_ns,
        changed_ns=opened_ns,
        evidence=(),
        coverage=None,
        judged=Judged(),
        weights_digest=opening.weights_digest,
        catalogue_digest=dictionary.catalogue_digest if dictionary else "",
        bundle_digest=dictionary.bundle_digest if dictionary else "",
        policy_digest=known.digest,
    )


def _own(moved: Moved) -> str:
    """What an alarm of no one feature is about. Pairs that are named may differ when it comes again."""
    return {"overall": moved.of, "latents": moved.of}.get(moved.kind, f"bucket {moved.subject}")


def said(moved: Moved) -> str:
    """In words, with the interval and the tolerance."""
    if moved.kind == "latents":
        return f"{LATENTS[moved.of].format(count=moved.effect)}; new: {', '.join(map(str, moved.latents))}"
    if moved.kind == "overall":
        return f"{WHOLE[moved.of]} ({moved.direction}; score {moved.score:.1f})"
    words = SAYS[moved.of].format(effect=moved.effect)
    noisy = "; it moves by itself in the baseline" if moved.volatile else ""
    return f"{words} ({moved.low:.2f} to {moved.high:.2f}; tolerated: {moved.tolerance:.2f}){noisy}"


def names_of(moved: Moved, known: KnownBaseline) -> tuple[str, ...]:
    """The features that an alarm is about; none where it is about the whole."""
    numbers = [moved.subject] if moved.kind == "feature" else [one for pair in moved.pairs for one in pair]
    return tuple(known.features[number] for number in dict.fromkeys(numbers))


def _evidence(moved: Moved, names: tuple[str, ...], features: Sequence[Feature]) -> Evidence:
    """Of the block: it has no position."""
    return Evidence(
        features=names,
        labels=tuple(one.shown for one in features),
        statistic=moved.of,
        scope=alerts.BLOCK,
        value=moved.score if moved.kind == "overall" else moved.effect,
        limit=moved.tolerance,
        first=-1,
        last=-1,
        peak=-1,
        basis=None,
    )
