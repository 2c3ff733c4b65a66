"""What a promotion would break: rules that are active on the stable bundle and blind or in shadow on the one to come.

Canaries, too, whose feature the stable bundle has and the one to come has not: they would fail from then on.

Both bundles are taken as they state their limits, so that the comparison is of the bundles and not of their engines. A
rule that is about another dictionary is not broken by this one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saewatch.cli.policy import resolved
from saewatch.cli.policy.resolved import ACTIVE
from saewatch.config import read_policy
from saewatch.core.errors import ConfigError
from saewatch.edge import canaries
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.tables import KnownDictionary


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A rule that would no longer alert, or a canary that would fail."""

    policy: str  # or the file of canaries
    rule: str  # or the canary
    state: str
    why: str

    def __str__(self) -> str:
        return f"{self.policy}/{self.rule} would be {self.state}: {self.why}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which policies and canaries."""
    says = "a policy of which no active rule may break, unless --override and --reason are said; repeatable"
    parser.add_argument("--policy", type=Path, action="append", default=[], metavar="FILE", help=says)
    says = "a file of canaries, none of which may lose its feature, unless the same; repeatable"
    parser.add_argument("--canaries", type=Path, action="append", default=[], metavar="FILE", help=says)


def broken(policy: Policy, before: KnownDictionary, after: KnownDictionary, subject: str) -> Iterator[Broken]:
    """Rules of a policy that are active on ``before`` and would not be on ``after``."""
    was = {one.rule.id for one in resolved.programme(policy, before, subject).rules if resolved.state(one) == ACTIVE}
    for one in resolved.programme(policy, after, subject).rules:
        state = resolved.state(one)
        if one.rule.id in was and state != ACTIVE:
            yield Broken(policy=policy.name, rule=one.rule.id, state=state, why=resolved.why(one))


def lost(path: Path, before: KnownDictionary, after: KnownDictionary) -> Iterator[Broken]:
    """Canaries of a file that ``before`` has the feature of, and ``after`` has not."""
    was, there = ({one.id for one in known.catalogue.features} for known in (before, after))
    for one in canaries.load(path):
        if one.feature in was - there:
            yield Broken(policy=path.name, rule=one.id, state=resolved.BLIND, why=f"it lacks {one.feature}")


def check(options: argparse.Namespace, before: KnownDictionary | None, after: KnownDictionary) -> list[Broken]:
    """What would break. `ConfigError` that lists it, unless it is overridden with a reason."""
    read = [(read_policy(path), str(path)) for path in options.policy]
    found = [one for policy, subject in read if before for one in broken(policy, before, after, subject)]
    found += [one for path in options.canaries if before for one in lost(path, before, after)]
    if found and not (options.override and options.reason):
        hint = "To promote it all the same, say --override and --reason; both are recorded."
        expected = "every active rule active, and every canary's feature"
        raise ConfigError("--policy, --canaries", found="; ".join(map(str, found)), expected=expected, hint=hint)
    return found
