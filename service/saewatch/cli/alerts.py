"""Alerts of a running sidecar: list them, watch them change, show one with all its evidence, or say what you found.

Or have peace from a rule for a while: silence it, see what is silenced, end it.

An alert is evidence of a correlation. With its rule's precision stand the number of alerts that people judged and the
interval; with its limits what they rest on; and how much of the request was seen.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict

from saewatch import cli
from saewatch.cli import silences
from saewatch.cli.asking import address_argument, until_ended
from saewatch.cli.terminal import printable
from saewatch.cli.values import above_zero, seconds
from saewatch.client import AlertChange, AlertsMissed, Client
from saewatch.client.alerts import VERDICTS, WantedAlerts
from saewatch.edge.pb import alert_pb2, common_pb2

ACTIONS = ("list", "watch", "show", "ack", "silence", "silences", "unsilence")
OF_ONE = ("show", "ack", "unsilence")
"""Actions on what an id names."""
LIMIT = 50
BLOCK = "block"
"""Scope of evidence that has no positions."""
MOVED = {
    "n": "fires in so many times as many requests:",
    "w": "fires so many times as often:",
    "z": "fires so many of its scales higher:",
    "az": "fires so many of its scales further from its usual value:",
    "panel": "fires on fixed prompts with so many times its value:",
    "panel_firings": "fires on so many times as many tokens of fixed prompts:",
}
_SILENCED = {
    "policy": "; for silence: all rules of this one",
    "rule": "; for silence: POLICY/RULE",
    "tenant": "; for silence: of one only",
}
_LISTS = ("policy", "rule", "severity", "kind", "state", "tenant", "request")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which alerts."""
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument("id", nargs="?", default="", metavar="ID", help="of the alert, or of the silence that ends")
    address_argument(parser)
    several: dict[str, Any] = {"action": "append", "metavar": "NAME"}
    for name in _LISTS:
        parser.add_argument(
            f"--{name}", **several, help=f"only alerts of this {name}; repeatable{_SILENCED.get(name, '')}"
        )
    parser.add_argument("--held-back", action="store_true", help="those that are not delivered, too")
    parser.add_argument("--limit", type=above_zero(int), default=LIMIT, metavar="N", help="list so many (%(default)s)")
    parser.add_argument(
        "--for", dest="seconds", type=seconds, metavar="TIME", help="watch, or silence, for so long: 90s, 2h"
    )
    parser.add_argument("--resume-token", default="", metavar="TOKEN", help="go on where an earlier watch ended")
    parser.add_argument("--verdict", choices=[one for one in VERDICTS if one], help="what you found, for ack")
    parser.add_argument("--reason", default="", help="why, for ack and silence")


def run(options: argparse.Namespace) -> int:
    """Does it."""
    _check(options)
    does = {
        "list": _list,
        "watch": _watch,
        "show": _show,
        "ack": _acknowledge,
        "silence": silences.create,
        "silences": silences.show,
        "unsilence": silences.delete,
    }
    with Client(options.address) as client:
        return does[options.action](client, options)


def _check(options: argparse.Namespace) -> None:
    """Raises `UsageError` for what does not go with the action."""
    verb = f"alerts {options.action}"
    if options.action in OF_ONE and not options.id:
        what = "a silence" if options.action == "unsilence" else "an alert"
        raise cli.UsageError(verb, found="no id", expected=f"the id of {what}")
    if options.action not in OF_ONE and options.id:
        raise cli.UsageError(verb, found=f"the id {options.id}", expected="filters, or nothing")
    more = [name for name in _LISTS if getattr(options, name) is not None and name not in silences.CHOOSES]
    if options.action == "silence" and more:
        raise cli.UsageError(verb, found=f"--{more[0]}", expected="a policy or rules, and a tenant")


def _list(client: Client, options: argparse.Namespace) -> int:
    found = list(itertools.islice(client.list_alerts(**_wanted(options)), options.limit + 1))
    shown, more = found[: options.limit], len(found) > options.limit
    if options.json:
        print(json.dumps({"alerts": [plain(one) for one in shown], "more": more}))
    else:
        _print([line(one) for one in shown] or ["no alerts"])
        _print(["there are more: raise --limit"] if more else [])
    return cli.GOOD


def _watch(client: Client, options: argparse.Namespace) -> int:
    with client.watch_alerts(resume_token=options.resume_token, **_wanted(options)) as watch:
        try:
            with until_ended(watch, options):
                for event in watch:
                    _tell(event, as_json=options.json)
        finally:
            if not options.json and watch.resume_token:
                _print([f"go on with --resume-token {watch.resume_token}"])
    return cli.GOOD


def _tell(event: object, *, as_json: bool) -> None:
    if isinstance(event, AlertChange):
        told = {"event": "alert", **plain(event.alert), "resume_token": event.resume_token}
        text = line(event.alert)
    elif isinstance(event, AlertsMissed):
        told = {"event": "missed", "reason": event.reason, "changes": event.changes, "resume_token": event.resume_token}
        text = f"MISSED {event.changes or 'some'} changes ({event.reason}): `saewatch alerts list` has what there is"
    else:
        told, text = {"event": type(event).__name__.lower(), "says": str(event)}, str(event)
    print(json.dumps(told) if as_json else printable(text), flush=True)


def _show(client: Client, options: argparse.Namespace) -> int:
    return _printed(client.get_alert(options.id), options)


def _acknowledge(client: Client, options: argparse.Namespace) -> int:
    if not options.verdict:
        given = client.get_alert(options.id).acknowledgement
        if given.verdict:
            hint = f"{given.principal} said {_word(alert_pb2.AlertVerdict, given.verdict)}, which this would take away."
            raise cli.UsageError("--verdict", found="none", expected=" or ".join(filter(None, VERDICTS)), hint=hint)
    return _printed(client.acknowledge_alert(options.id, options.verdict or "", options.reason), options)


def _printed(alert: alert_pb2.Alert, options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps(plain(alert)))
    else:
        _print([*lines(alert, dt.datetime.now(tz=dt.UTC).date())])
    return cli.GOOD


def _wanted(options: argparse.Namespace) -> WantedAlerts:
    found: dict[str, Any] = {name: getattr(options, name) for name in _LISTS if getattr(options, name) is not None}
    wanted: WantedAlerts = {**found, "held_back": options.held_back}  # type: ignore[typeddict-item]  # names of it all
    return wanted


def _print(texts: list[str]) -> None:
    for text in texts:
        print(printable(text))


# --- how they look ----------------------------------------------------------------------------------------------------
def plain(alert: alert_pb2.Alert) -> dict[str, Any]:
    """As the message has it."""
    return MessageToDict(alert, preserving_proto_field_name=True)


def line(alert: alert_pb2.Alert) -> str:
    """One alert on one line."""
    held = f" [{_word(alert_pb2.HeldBack, alert.held_back)}]" if alert.held_back else ""
    features = ", ".join(dict.fromkeys(name for one in alert.evidence for name in one.feature_ids))
    about = f" {features}" if features else f" {alert.why}" if alert.why else ""
    when = alert.change_time.ToDatetime(dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    state, severity = _word(alert_pb2.AlertState, alert.state), _word(common_pb2.Severity, alert.severity)
    client = alert.request.client_id
    who = f"{alert.subject} ({client})" if alert.subject and client else alert.subject or client
    return f"{when} {alert.id} {state}{held} {severity} {alert.policy}/{alert.rule} {who}{about}"


def lines(alert: alert_pb2.Alert, today: dt.date) -> Iterator[str]:
    """All that judges an alert."""
    yield line(alert)
    yield f"  {alert.title} (version {alert.rule_version}), asks to {_word(alert_pb2.AlertAction, alert.action)}"
    if alert.HasField("request"):
        of = alert.request
        client, tenant = of.client_id or "without an id of the client", of.tenant or "unknown"
        yield f"  request {client}, tenant {tenant}, conversation {of.conversation or 'unknown'}"
    if alert.why:
        yield f"  why: {alert.why}"
    if alert.runbook:
        yield f"  what to do: {alert.runbook}"
    if alert.HasField("attribution"):
        yield from _attribution(alert.attribution)
    for one in alert.evidence:
        yield from _evidence(one, today)
    if alert.HasField("coverage"):
        missed = ", ".join(
            f"{_word(common_pb2.MissedReason, one.reason)} {one.tokens}" for one in alert.coverage.missed
        )
        whole = "complete" if alert.coverage.complete else "NOT COMPLETE"
        yield f"  coverage: {alert.coverage.tokens_seen} tokens seen, {whole}; missed: {missed or 'none'}"
    yield f"  precision of the rule: {precision(alert.precision)}"
    if alert.HasField("acknowledgement"):
        found = alert.acknowledgement
        because = f": {found.reason}" if found.reason else ""
        yield f"  {found.principal}: {_word(alert_pb2.AlertVerdict, found.verdict)}{because}"
    yield f"  weights {alert.weights_digest}, catalogue {alert.catalogue_digest}"
    yield f"  bundle {alert.bundle_digest or 'none'}, policy {alert.policy_digest}"
    yield f"  trace {alert.request.trace_id or 'none'}; {alert.claim}: what fires together need not be the cause"


def precision(one: alert_pb2.MeasuredPrecision) -> str:
    """The share, of how many, and between what."""
    n = one.true_positives + one.false_positives
    if not n:
        return "not measured: nobody has judged an alert of it"
    return f"{one.precision:.3f} of {n} judged, 95 % interval {one.low:.3f} to {one.high:.3f}"


def _attribution(one: alert_pb2.DriftAttribution) -> Iterator[str]:
    exercised = f" ({_word(alert_pb2.Exercised, one.exercised)})" if one.exercised else ""
    yield f"  cause: {_word(alert_pb2.DriftCause, one.cause).replace('_', ' ')}{exercised}: {one.reason}"
    for each in one.moved:
        label = f" ({each.label})" if each.label else ""
        effect = f"{each.effect:.3g} ({each.low:.3g} to {each.high:.3g}, 95 % interval)"
        yield f"    {each.feature_id}{label}: {MOVED.get(each.statistic, each.statistic)} {effect}"
    for kind in one.slices:
        was = f"was {kind.before:.1%} ({kind.low:.1%} to {kind.high:.1%} on the baseline's days)"
        yield f"    {kind.slice}: {kind.share:.1%} of {kind.requests:,} requests at these hours, {was}"


def _evidence(one: alert_pb2.AlertEvidence, today: dt.date) -> Iterator[str]:
    named = ", ".join(
        f"{name} ({label})" for name, label in itertools.zip_longest(one.feature_ids, one.labels, fillvalue="")
    )
    if one.scope == BLOCK:
        tolerated = "" if math.isnan(one.limit) else f", tolerated {one.limit:.4g}"
        yield f"  {named or 'the whole'}: {one.statistic} is {one.value:.4g}{tolerated}"
        return
    peak = f", peak at {one.peak_position}" if one.HasField("peak_position") else ""
    yield f"  {named}: {one.statistic} over {one.scope} is {one.value:.4g}, limit {one.limit:.4g}"
    yield f"    first at position {one.first_position}, last at {one.last_position}{peak}"
    if not one.HasField("basis"):
        yield "    the limit rests on NO calibration"
        return
    basis = one.basis
    age = (today - dt.date.fromisoformat(basis.date)).days
    yield f"    calibrated {basis.date} ({age} days ago) on {basis.requests} requests: at most {basis.alpha:.2%} of"
    yield f"    benign requests are above it, with {1 - basis.delta:.0%} confidence"
    notes = [basis.stale and f"STALE: {basis.stale}", basis.renew and f"to be renewed: {basis.renew}"]
    yield from (f"    {note}" for note in (*notes, "QUARANTINED" if basis.quarantined else "") if note)


def _word(enum: Any, number: int) -> str:
    """A value of a closed list, in small letters."""
    prefix = enum.keys()[0].removesuffix("UNSPECIFIED")
    name: str = enum.Name(number).removeprefix(prefix).lower() if number in enum.values() else f"{number}"
    return "seen" if name == "unspecified" else name
