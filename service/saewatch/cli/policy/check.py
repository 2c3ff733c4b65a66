"""Check a policy: is it sound, what does each rule come to on a dictionary, and what may it cost at worst.

A rule is active (it alerts), in shadow (it says what it would have done), blind (it lacks a feature, or a limit), or
about another dictionary. A policy that is malformed or may cost more than is allowed is refused; one with a rule that
is blind, or that is about none of the dictionaries, fails. Limits are as the bundles state them; whether an engine
serves what was calibrated is judged where its stream opens.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.cli.policy import resolved
from saewatch.cli.policy.resolved import ACTIVE, BLIND, SHADOW, Named
from saewatch.config import read_policy
from saewatch.core import limits
from saewatch.core.spelling import near
from saewatch.monitor.policy.rule import Policy, leaves

NAMES = 8
"""Misspelt names that are told."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which policy, on what."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a policy")
    resolved.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Reads it and says what it comes to."""
    policy = read_policy(options.file)
    dictionaries = resolved.chosen(options)
    on = [_on(policy, named, str(options.file)) for named in dictionaries]
    unseen = _unseen(policy, on)
    here = [feature.id for named in dictionaries for feature in named.known.catalogue.features]
    told = {
        "policy": policy.name,
        "digest": policy.digest,
        "rules": len(policy.rules),
        "silences": len(policy.silences),
        "dictionaries": on,
        "unseen": unseen,
        "meant": _meant(policy, unseen, here),
    }
    if options.json:
        print(json.dumps(told))
    else:
        stored.show([*_lines(told)])
    return cli.FAILED if unseen else cli.GOOD


def _on(policy: Policy, named: Named, subject: str) -> dict[str, Any]:
    made = resolved.programme(policy, named.known, subject)
    return {
        "dictionary": named.name,
        "weights": named.known.weights_digest,
        "catalogue": named.known.catalogue_digest,
        "rules": [resolved.rule_json(made, one, named.known.catalogue.features) for one in made.rules],
        "steps_per_token": made.steps_per_token,
        "bytes_per_request": made.nbytes,
    }


def _unseen(policy: Policy, on: Sequence[dict[str, Any]]) -> list[str]:
    """Rules that are blind somewhere, or about none of the dictionaries, where there are any."""
    told = [one for each in on for one in each["rules"]]
    seeing = {one["rule"] for one in told if one["state"] in {ACTIVE, SHADOW}}
    blind = {one["rule"] for one in told if one["state"] == BLIND}
    return [rule.id for rule in policy.rules if on and (rule.id in blind or rule.id not in seeing)]


def _meant(policy: Policy, unseen: Sequence[str], here: Sequence[str]) -> dict[str, str]:
    """Names in rules that nothing lets see, and the feature that is spelt most nearly like each."""
    blind = (leaf for rule in policy.rules if rule.id in unseen for leaf in leaves(rule.when))
    of = (name for leaf in blind if leaf.select in {"feature", "features"} for name in leaf.names)
    missing = itertools.islice((name for name in dict.fromkeys(of) if name not in here), NAMES)
    return {name: found[0] for name in missing if (found := near(name, here, alike=0.8))}


def _lines(told: dict[str, Any]) -> Iterator[str]:
    yield f"policy {told['policy']}: {told['rules']} rules, {told['silences']} silences, {told['digest'][:19]}"
    for on in told["dictionaries"]:
        yield f"on {on['dictionary']} (weights {on['weights'][:19]})"
        for rule in on["rules"]:
            yield from resolved.rule_lines(rule)
        steps, kept = on["steps_per_token"], on["bytes_per_request"]
        yield (
            f"  at worst {steps:,} steps for a token (at most {limits.POLICY_STEPS:,}) and {kept:,} bytes for a"
            f" request (at most {limits.POLICY_REQUEST_BYTES:,})"
        )
    if not told["dictionaries"]:
        yield "resolved on no dictionary: name one with --dictionary, or promote one to stable. Costs are not known."
    if told["unseen"]:
        yield f"NOT SEEN: {', '.join(told['unseen'])}"
    for name, like in told["meant"].items():
        yield f"Is {name} meant to be {like}?"
