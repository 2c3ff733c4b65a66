"""Alerts as the messages of alert.proto, and back: what is stored of them is the message."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from saewatch.core.catalogue import SEVERITIES
from saewatch.core.errors import RecordError
from saewatch.dictionary.binomial import Share
from saewatch.edge.pb import alert_pb2, common_pb2
from saewatch.edge.rpc import messages
from saewatch.monitor.alert import (
    BLIND,
    BLOCK,
    DRIFT,
    FIRED,
    RATE,
    SHADOW,
    SILENCED,
    VERDICTS,
    Acknowledged,
    Alert,
    Cause,
    Coverage,
    Evidence,
    FeatureMoved,
    Judged,
    SliceMoved,
)
from saewatch.monitor.drift import attribution
from saewatch.monitor.identity import Identity
from saewatch.monitor.policy.condition import Basis
from saewatch.monitor.policy.machine import ACTIVE, INACTIVE, PENDING, RESOLVED
from saewatch.monitor.policy.rule import ACTIONS

KINDS = {one: alert_pb2.AlertKind.Value(f"ALERT_KIND_{one.upper()}") for one in (FIRED, BLIND, DRIFT)}
STATES = {
    one: alert_pb2.AlertState.Value(f"ALERT_STATE_{one.upper()}") for one in (PENDING, ACTIVE, RESOLVED, INACTIVE)
}
HELD_BACK = {"": alert_pb2.HELD_BACK_UNSPECIFIED} | {
    one: alert_pb2.HeldBack.Value(f"HELD_BACK_{one.upper()}") for one in (SHADOW, SILENCED, RATE)
}
SEVERITY = {one: common_pb2.Severity.Value(f"SEVERITY_{one.upper()}") for one in SEVERITIES}
ALERT_ACTIONS = {one: alert_pb2.AlertAction.Value(f"ALERT_ACTION_{one.upper()}") for one in ACTIONS}
CAUSES = {one: alert_pb2.DriftCause.Value(f"DRIFT_CAUSE_{one.upper()}") for one in attribution.CAUSES}
EXERCISED = {"": alert_pb2.EXERCISED_UNSPECIFIED} | {
    one: alert_pb2.Exercised.Value(f"EXERCISED_{one.upper()}") for one in (attribution.DIRECT, attribution.INDIRECT)
}
ALERT_VERDICTS = {
    one: alert_pb2.AlertVerdict.Value(f"ALERT_VERDICT_{one.upper() or 'UNSPECIFIED'}") for one in VERDICTS
}


# --- to messages ------------------------------------------------------------------------------------------------------
def message(alert: Alert) -> alert_pb2.Alert:
    """All of an alert."""
    return alert_pb2.Alert(
        id=alert.id,
        kind=KINDS[alert.kind],
        state=STATES[alert.state],
        policy=alert.policy,
        rule=alert.rule,
        rule_version=alert.version,
        title=alert.title,
        severity=SEVERITY[alert.severity],
        action=ALERT_ACTIONS[alert.action],
        runbook=alert.runbook,
        held_back=HELD_BACK[alert.held_back],
        why=alert.why,
        subject=alert.subject,
        request=messages.request(alert.identity) if alert.identity else None,
        engine=alert.engine,
        model_name=alert.model_name,
        hook_point=alert.hook_point,
        position=position(alert.position),
        open_time=messages.timestamp(alert.opened_ns),
        change_time=messages.timestamp(alert.changed_ns),
        evidence=map(_evidence, alert.evidence),
        coverage=_coverage(alert.coverage) if alert.coverage else None,
        precision=precision(alert.judged),
        weights_digest=alert.weights_digest,
        catalogue_digest=alert.catalogue_digest,
        bundle_digest=alert.bundle_digest,
        policy_digest=alert.policy_digest,
        activations=alert.activations,
        acknowledgement=_acknowledgement(alert.acknowledged) if alert.acknowledged else None,
        claim=alert.claim,
        attribution=_attribution(alert.cause) if alert.cause else None,
    )


@lru_cache(maxsize=1024)
def precision(judged: Judged) -> alert_pb2.MeasuredPrecision:
    """What share of a rule's judged alerts were right, with Clopper's and Pearson's interval."""
    share = Share(judged.true, judged.true + judged.false)
    low, high = share.interval()
    return alert_pb2.MeasuredPrecision(
        true_positives=judged.true,
        false_positives=judged.false,
        precision=share.value if share.n else None,
        low=low,
        high=high,
    )


def basis(one: Basis) -> alert_pb2.LimitBasis:
    """What a limit rests on."""
    return alert_pb2.LimitBasis(
        attestation_digest=one.attestation,
        alpha=one.alpha,
        delta=one.delta,
        date=one.date,
        requests=one.n,
        stale=one.stale,
        renew=one.renew,
        quarantined=one.quarantined,
    )


def position(one: int) -> int | None:
    """A position; none for -1."""
    return one if one >= 0 else None


def _evidence(one: Evidence) -> alert_pb2.AlertEvidence:
    return alert_pb2.AlertEvidence(
        feature_ids=one.features,
        labels=one.labels,
        statistic=one.statistic,
        scope=one.scope,
        value=one.value,
        limit=one.limit,
        first_position=max(one.first, 0),
        last_position=max(one.last, 0),
        peak_position=position(one.peak),
        basis=basis(one.basis) if one.basis else None,
    )


def _attribution(one: Cause) -> alert_pb2.DriftAttribution:
    return alert_pb2.DriftAttribution(
        cause=CAUSES[one.name],
        reason=one.reason,
        exercised=EXERCISED[one.exercised],
        moved=[
            alert_pb2.FeatureMoved(
                feature_id=each.feature,
                label=each.label,
                statistic=each.statistic,
                effect=each.effect,
                low=each.low,
                high=each.high,
            )
            for each in one.moved
        ],
        slices=[
            alert_pb2.SliceMoved(**{name: getattr(each, name) for name in SliceMoved.__slots__}) for each in one.slices
        ],
    )


def _coverage(one: Coverage) -> alert_pb2.AlertCoverage:
    missed = messages.missed(one.missed.items())
    return alert_pb2.AlertCoverage(tokens_seen=one.seen, missed=missed, complete=one.complete)


def _acknowledgement(one: Acknowledged) -> alert_pb2.Acknowledgement:
    time = messages.timestamp(one.time_ns)
    return alert_pb2.Acknowledgement(
        verdict=ALERT_VERDICTS[one.verdict], reason=one.reason, principal=one.by, time=time
    )


# --- and back ---------------------------------------------------------------------------------------------------------
def alert(data: bytes) -> Alert:
    """An alert that was stored. Raises `RecordError` for what is none."""
    try:
        one = alert_pb2.Alert.FromString(data)
        return Alert(
            id=one.id,
            kind=_word(KINDS, one.kind),
            state=_word(STATES, one.state),
            policy=one.policy,
            rule=one.rule,
            version=one.rule_version,
            title=one.title,
            severity=_word(SEVERITY, one.severity),
            action=_word(ALERT_ACTIONS, one.action),
            runbook=one.runbook,
            held_back=_word(HELD_BACK, one.held_back),
            why=one.why,
            subject=one.subject,
            identity=_identity(one.request) if one.HasField("request") else None,
            engine=one.engine,
            model_name=one.model_name,
            hook_point=one.hook_point,
            position=one.position if one.HasField("position") else -1,
            opened_ns=_time_ns(one.open_time),
            changed_ns=_time_ns(one.change_time),
            evidence=tuple(map(_evidence_of, one.evidence)),
            coverage=_coverage_of(one.coverage) if one.HasField("coverage") else None,
            judged=Judged(true=one.precision.true_positives, false=one.precision.false_positives),
            weights_digest=one.weights_digest,
            catalogue_digest=one.catalogue_digest,
            bundle_digest=one.bundle_digest,
            policy_digest=one.policy_digest,
            activations=one.activations,
            acknowledged=_acknowledged(one.acknowledgement) if one.HasField("acknowledgement") else None,
            claim=one.claim,
            cause=_cause(one.attribution) if one.HasField("attribution") else None,
        )
    except (DecodeError, KeyError) as error:
        raise RecordError("alert", found="what cannot be read", expected="an alert that was stored") from error


def _word(words: Mapping[str, int], number: int) -> str:
    return {value: name for name, value in words.items()}[number]


def _time_ns(one: Timestamp) -> int:
    return one.seconds * 10**9 + one.nanos


def _identity(one: common_pb2.Request) -> Identity:
    return Identity(
        engine=one.engine,
        engine_id=one.engine_id,
        key=one.key,
        client_id=one.client_id,
        tenant=one.tenant,
        traffic_class=_word(messages.TRAFFIC_CLASSES, one.traffic_class),
        conversation=one.conversation,
        trace_id=one.trace_id,
        child=one.child,
        prompt_len=one.prompt_len,
        cached=one.cached,
        adapter=one.adapter,
    )


def _evidence_of(one: alert_pb2.AlertEvidence) -> Evidence:
    return Evidence(
        features=tuple(one.feature_ids),
        labels=tuple(one.labels),
        statistic=one.statistic,
        scope=one.scope,
        value=one.value,
        limit=one.limit,
        first=-1 if one.scope == BLOCK else one.first_position,
        last=-1 if one.scope == BLOCK else one.last_position,
        peak=one.peak_position if one.HasField("peak_position") else -1,
        basis=_basis_of(one.basis) if one.HasField("basis") else None,
    )


def _cause(one: alert_pb2.DriftAttribution) -> Cause:
    moved = tuple(
        FeatureMoved(
            feature=each.feature_id,
            label=each.label,
            statistic=each.statistic,
            effect=each.effect,
            low=each.low,
            high=each.high,
        )
        for each in one.moved
    )
    slices = (SliceMoved(**{name: getattr(each, name) for name in SliceMoved.__slots__}) for each in one.slices)
    return Cause(
        name=_word(CAUSES, one.cause),
        reason=one.reason,
        exercised=_word(EXERCISED, one.exercised),
        moved=moved,
        slices=tuple(slices),
    )


def _basis_of(one: alert_pb2.LimitBasis) -> Basis:
    return Basis(
        attestation=one.attestation_digest,
        alpha=one.alpha,
        delta=one.delta,
        date=one.date,
        n=one.requests,
        stale=one.stale,
        renew=one.renew,
        quarantined=one.quarantined,
    )


def _coverage_of(one: alert_pb2.AlertCoverage) -> Coverage:
    return Coverage(
        seen=one.tokens_seen, missed={_word(messages.REASONS, each.reason): each.tokens for each in one.missed}
    )


def _acknowledged(one: alert_pb2.Acknowledgement) -> Acknowledged:
    verdict = _word(ALERT_VERDICTS, one.verdict)
    return Acknowledged(verdict=verdict, reason=one.reason, by=one.principal, time_ns=_time_ns(one.time))
