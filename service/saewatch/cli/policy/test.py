"""Test a policy: written token streams, or requests of a recording, and the states that its rules are to take.

Cases are a YAML file: each has the tokens of a request (or `turns` of a conversation, or the name of a recorded
request), and for some rules the states that they take, with positions. Shadow or not makes no difference here. Exit 0
when every case does as it says, 2 when one does not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saewatch import cli, config
from saewatch.cli import recordings
from saewatch.cli.dictionary import stored
from saewatch.cli.policy import recorded, resolved
from saewatch.cli.policy.recorded import Replayed
from saewatch.config import read_policy
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError
from saewatch.edge import policies
from saewatch.monitor.alert import FIRED, Alert
from saewatch.monitor.policy.cases import Case, Cases, History, read
from saewatch.monitor.policy.condition import Basis
from saewatch.monitor.policy.resolve import Calibrated, LimitOf
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.rehearsal import played
from saewatch.monitor.tables import KnownDictionary

Played = Mapping[str, History]
"""By rule."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which policy, which cases, on what."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a policy")
    parser.add_argument("--cases", type=Path, required=True, metavar="CASES", help="a file of cases")
    recorded.arguments(parser, required=False)


def run(options: argparse.Namespace) -> int:
    """Plays every case."""
    policy = read_policy(options.file)
    cases = read(config.read_yaml(options.cases), str(options.cases))
    _check_names(policy, cases, str(options.cases))
    _check_recording(cases, options)
    known = _dictionary(options)
    _check_limits(cases, known, str(options.cases))
    found = {**_written(policy, cases, known, options), **_recorded(policy, cases, known, options)}
    told = [_told(one, found[number]) for number, one in enumerate(cases.cases)]
    failed = [one for one in told if one["wrong"]]
    if options.json:
        print(json.dumps({"policy": policy.name, "cases": told, "failed": len(failed)}))
    else:
        stored.show([*_lines(told)])
    return cli.FAILED if failed else cli.GOOD


def _check_names(policy: Policy, cases: Cases, subject: str) -> None:
    names = {one.id for one in policy.rules}
    for case in cases.cases:
        for name in case.expect:
            if name not in names:
                expected = "the id of a rule of the policy"
                raise ConfigError(f"{subject}: {case.name}: expect", found=f"{name!r:.80}", expected=expected)


def _check_recording(cases: Cases, options: argparse.Namespace) -> None:
    asked = next((one.request for one in cases.cases if one.request), "")
    if asked and options.on is None:
        raise cli.UsageError("--on", found="nothing", expected=f"the recording with request {asked}")


def _check_limits(cases: Cases, known: KnownDictionary, subject: str) -> None:
    for name in sorted(cases.limits.keys() - {one.id for one in known.catalogue.features}):
        raise ConfigError(f"{subject}: limits", found=f"{name!r:.80}", expected="a feature of the dictionary")


def _written(policy: Policy, cases: Cases, known: KnownDictionary, options: argparse.Namespace) -> dict[int, Played]:
    """Cases with tokens of their own. `ConfigError` for rules that see nothing on the dictionary."""
    chosen = {number: one for number, one in enumerate(cases.cases) if not one.request}
    if not chosen:
        return {}
    limit_of = _assumed(cases, policies.stated(known, resolved.today()))
    made = resolved.programme(policy, known, str(options.file), limit_of)
    asked = {name for one in chosen.values() for name in one.expect}
    blind = [one for one in made.rules if one.condition is None and one.rule.id in asked]
    for one in blind:
        hint = "Say what limit it is to have: `limits` in the file of cases, or `above` in the rule."
        missing = f"nothing of {', '.join(one.missing)}"
        raise ConfigError(f"{options.cases}: rule {one.rule.id}", found=missing, expected="what it reads", hint=hint)
    return {number: _histories(policy, played(one, policy, known, limit_of)) for number, one in chosen.items()}


def _recorded(policy: Policy, cases: Cases, known: KnownDictionary, options: argparse.Namespace) -> dict[int, Played]:
    """Cases that name a request of the recording."""
    chosen: dict[str, list[int]] = {}
    for number, one in enumerate(cases.cases):
        if one.request:
            chosen.setdefault(one.request, []).append(number)
    if not chosen:
        return {}
    asked = {name for one in cases.cases if one.request for name in one.expect}
    part = Policy(name=policy.name, rules=tuple(one for one in policy.rules if one.id in asked), digest=policy.digest)
    found: dict[int, Played] = {}
    stated = policies.limits_of(resolved.today)
    replayed = Replayed(options, part, limits_of=lambda stream: _assumed(cases, stated(stream)), known=known)
    for request in replayed.requests():
        for name in {request.identity.client_id, request.identity.engine_id} & chosen.keys():
            found |= dict.fromkeys(chosen[name], _histories(policy, request.alerts))
    for name, numbers in chosen.items():
        if numbers[0] not in found:
            raise ConfigError(str(options.on), found=f"no request {name:.80}", expected="one that a case names")
    return found


def _dictionary(options: argparse.Namespace) -> KnownDictionary:
    if options.on is not None:
        with recordings.opened(options.on) as recording:
            return recorded.known_in(recording, options)
    options = argparse.Namespace(dictionary=[options.dictionary] if options.dictionary else [], store=options.store)
    found = resolved.chosen(options)
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise ConfigError("--dictionary", found=names, expected="one dictionary, that the rules are about")
    return found[0].known


def _assumed(cases: Cases, stated: LimitOf) -> LimitOf:
    """Limits of the cases, as if they were calibrated; else those that are ``stated``."""

    def of(feature: Feature) -> Calibrated | None:
        if feature.id not in cases.limits:
            return stated(feature)
        basis = Basis(attestation="", alpha=1.0, delta=0.0, date="", n=0)
        return Calibrated(limit=cases.limits[feature.id], basis=basis)

    return of


def _histories(policy: Policy, alerts: Sequence[Alert]) -> Played:
    return {
        rule.id: tuple((one.state, one.position) for one in alerts if one.kind == FIRED and one.rule == rule.id)
        for rule in policy.rules
    }


def _told(case: Case, found: Played) -> dict[str, Any]:
    wrong = {
        rule: {"expected": _said(expected), "found": _said(found[rule])}
        for rule, expected in case.expect.items()
        if found[rule] != expected
    }
    return {"case": case.name, "rules": len(case.expect), "wrong": wrong}


def _said(history: History) -> str:
    return ", ".join(f"{state} at {position}" for state, position in history) or "inactive"


def _lines(told: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in told:
        yield f"{'FAILED' if one['wrong'] else 'good'}  {one['case']}"
        for rule, wrong in one["wrong"].items():
            yield f"  {rule}: expected {wrong['expected']}"
            yield f"  {' ' * len(rule)}  found    {wrong['found']}"
    failed = sum(bool(one["wrong"]) for one in told)
    yield f"{len(told) - failed} of {len(told)} cases do as they say"
