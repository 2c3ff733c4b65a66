"""Policies as they are written: what is taken, and which field is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.monitor.policy.rule import Group, Leaf, leaves, read

GOOD: dict[str, Any] = {
    "policy": "trust",
    "rules": [
        {
            "id": "pii",
            "severity": "high",
            "when": {
                "all": [
                    {"feature": "pii.p1", "scope": "reply", "statistic": "3of10", "above": 2.5},
                    {"not": {"concept": "refusal", "within_tokens": 20}},
                    {"sequence": [{"category": "vcr"}, {"feature": "b.l1"}], "within_tokens": 8},
                    {"at_least": 1, "of": [{"features": ["a.l1", "b.l1"]}]},
                ]
            },
            "rate": {"alerts": 5, "seconds": 60},
            "runbook": "https://runbooks.example/pii",
        }
    ],
    "silences": [{"rules": ["pii"], "until": "2026-12-01T00:00:00Z", "reason": "known"}],
}


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """GOOD with one thing changed."""
    made = copy.deepcopy(GOOD)
    change(made)
    return made


def rule(**fields: Any) -> dict[str, Any]:
    """GOOD with a rule of these fields."""
    return changed(lambda made: made["rules"][0].update(fields))


def when(condition: Any) -> dict[str, Any]:
    """GOOD with another condition."""
    return rule(when=condition)


def deep(levels: int) -> dict[str, Any]:
    """A condition of so many levels."""
    found: dict[str, Any] = {"feature": "a.l1"}
    for _ in range(levels - 1):
        found = {"all": [found]}
    return found


def test_a_good_one() -> None:
    policy = read(GOOD, "p.yaml")
    [one] = policy.rules
    assert isinstance(one.when, Group)
    assert [leaf.names for leaf in leaves(one.when)] == [
        ("pii.p1",),
        ("refusal",),
        ("vcr",),
        ("b.l1",),
        ("a.l1", "b.l1"),
    ]
    first = next(leaves(one.when))
    assert first.statistic is not None
    assert (first.statistic.spelt, first.scope, first.above) == ("3of10", "reply", 2.5)
    assert policy.silences[0].until_ns == 1_796_083_200 * 10**9
    assert policy.digest == read(copy.deepcopy(GOOD), "elsewhere.yaml").digest, "it is over the content"
    assert policy.digest != read(rule(version=2), "p.yaml").digest


def test_a_leaf_alone_is_a_condition() -> None:
    [one] = read(when({"feature": "a.l1"}), "p.yaml").rules
    assert one.when == Leaf(select="feature", names=("a.l1",))


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ([], "p.yaml: found list"),
        (changed(lambda made: made.pop("policy")), "p.yaml: policy"),
        (changed(lambda made: made.update(policy="Bad Name")), "p.yaml: policy"),
        (changed(lambda made: made.update(extra=1)), "p.yaml: extra"),
        (changed(lambda made: made.update(rules=[])), "p.yaml: rules"),
        (changed(lambda made: made.update(rules=made["rules"] * 2)), "pii twice"),
        (changed(lambda made: made.update(rules=[{}] * (limits.POLICY_RULES + 1))), "p.yaml: rules"),
        (changed(lambda made: made["silences"][0].update(rules=["other"])), "the id of a rule"),
        (changed(lambda made: made["silences"][0].update(until="2026-12-01T00:00:00")), "with its zone"),
        (changed(lambda made: made["silences"][0].update(until=5)), r"silences\[0\].until"),
        (rule(id=5), r"rules\[0\].id"),
        (rule(severity="grave"), "one of low, medium, high, critical"),
        (rule(action="reboot"), r"rules\[0\].action"),
        (rule(shadow="yes"), r"rules\[0\].shadow"),
        (rule(version=True), "an integer"),
        (rule(for_tokens=-1), r"rules\[0\].for_tokens"),
        (rule(runbook="javascript:alert(1)"), r"rules\[0\].runbook"),
        (rule(rate={"alerts": 0, "seconds": 60}), r"rate.alerts"),
        (rule(rate=[]), "a mapping"),
        (rule(subject="fleet"), "request, conversation"),
        (when(None), "found nothing"),
        (when({}), "expected one of feature"),
        (when({"feature": "a.l1", "any": []}), "feature and any"),
        (when({"feature": ""}), "feature"),
        (when({"features": []}), "a list of names"),
        (when({"feature": "a.l1", "statistic": "5of3"}), "statistic"),
        (when({"feature": "a.l1", "statistic": "top999"}), "at most"),
        (when({"feature": "a.l1", "statistic": "ewma0"}), "ewmaH"),
        (when({"feature": "a.l1", "statistic": "count"}), "no calibrated limit"),
        (when({"feature": "a.l1", "above": float("nan")}), "above"),
        (when({"feature": "a.l1", "above": -1}), "above"),
        (when({"feature": "a.l1", "above": "high"}), "above"),
        (when({"category": "vcr", "above": 2.0}), "two scales"),
        (when({"feature": "a.l1", "statistic": "share", "above": 1}), "or it never occurs"),
        (when({"feature": "a.l1", "statistic": "count", "above": 1e29}), "or it never occurs"),
        (when({"sequence": [{"feature": "a.l1"}] * 4, "within_tokens": 2}), "3 or more"),
        (when({"features": ["a.l1", "b.l1", "a.l1"]}), "'a.l1' twice"),
        (when({"feature_": "a.l1"}), "Is feature_ meant to be feature"),
        (when({"feature": "a.l1", "scope": "answer"}), "scope"),
        (when({"feature": "a.l1", "within_tokens": 0}), "within_tokens"),
        (when({"all": []}), "0 conditions"),
        (when({"all": {"feature": "a.l1"}}), "a list"),
        (when({"not": {"feature": "a.l1"}}), "nothing that has to occur"),
        (when({"at_least": 3, "of": [{"feature": "a.l1"}]}), "at most 1"),
        (when({"sequence": [{"feature": "a.l1"}]}), "sequence"),
        (when({"sequence": [{"feature": "a.l1"}, {"not": {"feature": "b.l1"}}]}), "leaves, or any of leaves"),
        (when({"any": [{"feature": "a.l1"}] * (limits.POLICY_LEAVES + 1)}), "at most"),
        (when({"any": [{"any": [{"feature": "a.l1"}] * 40}] * 2}), "80 leaves"),
        (when(deep(limits.POLICY_DEPTH + 1)), "levels"),
        (
            rule(subject="conversation", when={"feature": "a.l1", "statistic": "mean", "above": 1}),
            "over a conversation",
        ),
    ],
)
def test_what_is_wrong_is_named(bad: Any, where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        read(bad, "p.yaml")


def test_the_deepest_one_is_taken() -> None:
    assert len(read(when(deep(limits.POLICY_DEPTH)), "p.yaml").rules) == 1
