"""What the verbs on policies share: on which dictionaries a policy is resolved, and how a rule is told of there.

Without `--dictionary` those that stable refs of the store point to are taken. There is no stream yet, so a limit is
taken as its bundle states it: that an engine serves what was calibrated is judged where its stream opens.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saewatch.cli.dictionary import stored
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError, SaewatchError
from saewatch.core.manifest import BUNDLE_FILE
from saewatch.dictionary.contents import Contents
from saewatch.dictionary.registry import STABLE
from saewatch.edge import dictionaries, policies
from saewatch.monitor.policy.condition import Atom, Basis
from saewatch.monitor.policy.resolve import LimitOf, Programme, Resolved, resolve
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.tables import KnownDictionary

ACTIVE, SHADOW, BLIND, ELSEWHERE = "active", "shadow", "blind", "elsewhere"
"""What a rule is on a dictionary: it alerts; says what it would have done; lacks something; is about another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A dictionary, and what it is called where it comes from."""

    name: str
    known: KnownDictionary


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which dictionaries."""
    says = f"{stored.NAMED}, or a bundle's folder; repeatable (those that stable refs of the store point to)"
    parser.add_argument("--dictionary", action="append", default=[], metavar="B", help=says)
    stored.store_argument(parser)


def today() -> dt.date:
    """The date that a calibration's age is told by."""
    return dt.datetime.now(tz=dt.UTC).date()


def chosen(options: argparse.Namespace) -> list[Named]:
    """The dictionaries that were named, or the stable ones; none where there are none.

    `UnreachableError` for a store that was named and is not there: what nothing was asked about is not good.
    """
    registry = stored.opened(options) if options.store is not None else stored.opened_if_any(options)
    if options.dictionary:
        return [
            Named(name=text, known=known_of(stored.contents_of(registry, text), text)) for text in options.dictionary
        ]
    if registry is None:
        return []
    refs = {str(slot): registry.current(slot).get(STABLE) for slot in registry.slots()}
    return [
        Named(name=f"{slot}@{STABLE}", known=known_of(registry.store.contents(digest), slot))
        for slot, digest in refs.items()
        if digest
    ]


def known_of(contents: Contents, name: str) -> KnownDictionary:
    """The dictionary of a bundle's contents."""
    return dictionaries.known({BUNDLE_FILE: contents.sheet.data(), **contents.sheets}, where=f"{name}: ")


def programme(policy: Policy, known: KnownDictionary, subject: str, limit_of: LimitOf | None = None) -> Programme:
    """What a policy comes to on a dictionary. `ConfigError` that names the file where it costs too much."""
    try:
        return resolve(policy, known.catalogue.features, limit_of or policies.stated(known, today()))
    except SaewatchError as error:
        raise type(error)(
            f"{subject}: {error.subject}", found=error.found, expected=error.expected, hint=error.hint
        ) from error


def named_rule(text: str) -> tuple[Path, str]:
    """``FILE`` or ``FILE:RULE``; the rule is empty where all are meant."""
    path, colon, rule = text.rpartition(":")
    if colon and not Path(text).exists():
        return Path(path), rule
    return Path(text), ""


def picked(policy: Policy, rule: str, subject: str) -> Policy:
    """The policy with one rule of it. `ConfigError` for a rule that it does not have."""
    if not rule:
        return policy
    found = tuple(one for one in policy.rules if one.id == rule)
    if not found:
        names = ", ".join(one.id for one in policy.rules[:20])
        raise ConfigError(f"{subject}: rules", found=f"no {rule!r:.80}", expected=f"one of {names}")
    return Policy(name=policy.name, rules=found, digest=policy.digest)


def state(rule: Resolved) -> str:
    """What a rule is on a dictionary."""
    if rule.condition is None:
        return ELSEWHERE if rule.elsewhere else BLIND
    return SHADOW if rule.shadow else ACTIVE


def why(rule: Resolved) -> str:
    """Why it is not active; empty where it is."""
    if rule.condition is None:
        here = "nothing that it names is here: it " if rule.elsewhere else ""
        return f"{here}lacks {', '.join(rule.missing)}"
    return rule.shadow_because or ("the rule says so" if rule.rule.shadow else "")


def rule_json(made: Programme, rule: Resolved, features: Sequence[Feature]) -> dict[str, Any]:
    """A rule on a dictionary, for programs."""
    by_id = {one.id: one for one in features}
    return {
        "rule": rule.rule.id,
        "version": rule.rule.version,
        "severity": rule.rule.severity,
        "subject": rule.rule.subject,
        "action": rule.rule.action,
        "on_blind": rule.rule.on_blind,
        "state": state(rule),
        "why": why(rule),
        "override": rule.rule.uncalibrated,
        "missing": list(rule.missing),
        "parts": [atom_json(made.atoms[number], by_id) for number in rule.atoms],
    }


def atom_json(atom: Atom, by_id: dict[str, Feature]) -> dict[str, Any]:
    """A part of a condition, for programs."""
    return {
        "features": list(atom.features),
        "labels": [by_id[name].shown for name in atom.features if name in by_id],
        "statistic": atom.statistic.spelt,
        "scope": atom.scope,
        "limit": atom.limit,
        "basis": None if atom.basis is None else basis_json(atom.basis),
    }


def basis_json(basis: Basis) -> dict[str, Any]:
    """What a limit rests on, for programs."""
    names = ("attestation", "alpha", "delta", "date", "n", "stale", "renew", "quarantined")
    return {name: getattr(basis, name) for name in names}


def basis_text(basis: dict[str, Any] | None) -> str:
    """The same, for people."""
    if basis is None:
        return "not calibrated"
    promised = (
        f"at most {1000 * basis['alpha']:g} of 1,000 benign requests over it, {100 * (1 - basis['delta']):g} % sure"
    )
    said = f"calibrated {basis['date']} on {basis['n']} requests: {promised}"
    for name in ("stale", "renew"):
        said += f"; {name}: {basis[name]}" if basis[name] else ""
    return said + ("; QUARANTINED by the fidelity certificate" if basis["quarantined"] else "")


def part_text(part: dict[str, Any]) -> str:
    """One part of a condition on a line."""
    names = ", ".join(part["features"])
    labels = f"  ({'; '.join(part['labels'])})" if part["labels"] else ""
    return f"{part['statistic']} of {names} over {part['limit']:.4g} in {part['scope']}{labels}"


def rule_lines(told: dict[str, Any]) -> Iterator[str]:
    """A rule on a dictionary, for people."""
    because = f": {told['why']}" if told["why"] else ""
    yield f"  {told['rule']} v{told['version']}  {told['severity']}, {told['state'].upper()}{because}"
    if told["override"]:
        yield f"    may act without a calibration: {told['override']}"
    for part in told["parts"]:
        yield f"    {part_text(part)}"
        yield f"      {basis_text(part['basis'])}"
