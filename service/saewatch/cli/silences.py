"""Silences for `saewatch alerts`: what is asked for, and how they look."""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict

from saewatch import cli
from saewatch.cli.terminal import printable
from saewatch.client import Client
from saewatch.edge.pb import alert_pb2

CHOOSES = ("policy", "rule", "tenant")
"""Filters of alerts that choose what is silenced; any other one would silence more than was meant."""
MEANS = (
    "Alerts that it covers are made and kept, and delivered to nobody.",
    "Verdicts on requests count them: an application that holds text back goes on.",
    "`saewatch alerts list --held-back` shows them, `saewatch alerts unsilence {id}` ends it.",
)


def create(client: Client, options: argparse.Namespace) -> int:
    """Holds alerts back for a while."""
    policy, rules, tenant = _what(options)
    if options.seconds is None:
        raise cli.UsageError("--for", found="nothing", expected="how long, such as 30m or 2h; a week at most")
    if not options.reason.strip():
        raise cli.UsageError("--reason", found="nothing", expected="why nobody is to be told")
    made = client.create_silence(policy, rules, tenant=tenant, duration_s=options.seconds, reason=options.reason)
    return _printed(options, plain(made), [line(made), *(text.format(id=made.id) for text in MEANS)])


def show(client: Client, options: argparse.Namespace) -> int:
    """Lists those in force."""
    found = client.list_silences()
    told = {"silences": [plain(one) for one in found.silences], "not_listed": found.not_listed}
    more = [f"and {found.not_listed} more"] if found.not_listed else []
    return _printed(
        options, told, [*(line(one) for one in found.silences), *more] or ["no silences: nothing is held back"]
    )


def delete(client: Client, options: argparse.Namespace) -> int:
    """Ends one before its time."""
    ended = client.delete_silence(options.id)
    return _printed(options, plain(ended), [f"ended: {line(ended)}"])


def _what(options: argparse.Namespace) -> tuple[str, Sequence[str], str]:
    """Policy, rules and tenant."""
    return *_rules(options.policy or [], options.rule or []), _tenant(options.tenant or [])


def _rules(policies: Sequence[str], rules: Sequence[str]) -> tuple[str, Sequence[str]]:
    if bool(policies) == bool(rules) or len(policies) > 1:
        found = f"{len(policies)} policies and {len(rules)} rules"
        raise cli.UsageError("alerts silence", found=found, expected="--rule POLICY/RULE, or one --policy POLICY")
    if policies:
        return policies[0], ()
    parts = [one.partition("/") for one in rules]
    for text, (policy, _, rule) in zip(rules, parts, strict=True):
        if not policy or not rule:
            raise cli.UsageError("--rule", found=f"{text!r:.80}", expected="POLICY/RULE")
    named = sorted({policy for policy, _, _ in parts})
    if len(named) > 1:
        raise cli.UsageError("--rule", found=f"rules of {', '.join(named)}", expected="rules of one policy")
    return named[0], [rule for _, _, rule in parts]


def _tenant(tenants: Sequence[str]) -> str:
    if len(tenants) > 1 or "" in tenants:
        found = f"{len(tenants)} tenants" if len(tenants) > 1 else "an empty name"
        raise cli.UsageError("--tenant", found=found, expected="one tenant, or none for all")
    return tenants[0] if tenants else ""


# --- how they look ----------------------------------------------------------------------------------------------------
def plain(one: alert_pb2.Silence) -> dict[str, Any]:
    """As the message has it, with what is empty or 0."""
    return MessageToDict(one, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def line(one: alert_pb2.Silence) -> str:
    """One silence on one line."""
    until = one.until_time.ToDatetime(dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    what = ", ".join(f"{one.policy}/{rule}" for rule in one.rules) or f"{one.policy}, all its rules"
    tenant = f" for tenant {one.tenant}" if one.tenant else ""
    who = one.principal or "the policy itself"
    return f"{one.id} {what}{tenant} until {until}, by {who}: {one.reason}; {one.held_back} alerts held back"


def _printed(options: argparse.Namespace, told: dict[str, Any], lines: Sequence[str]) -> int:
    print(json.dumps(told) if options.json else "\n".join(map(printable, lines)))
    return cli.GOOD
