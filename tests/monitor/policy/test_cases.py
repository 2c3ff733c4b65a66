"""Written tests of rules, read strictly."""

from __future__ import annotations

from typing import Any

import pytest

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.monitor.policy.cases import read

GOOD: dict[str, Any] = {"name": "a", "tokens": [{}], "expect": {"r": [{"active": 0}]}}


def a_case(**fields: Any) -> Any:
    return {"cases": [{**GOOD, **fields}]}


def test_tokens_repeat_and_may_be_unseen() -> None:
    tokens = [None, {"repeat": 3, "x.l1": 2}, {"d.g1": {"0": 1.5, "2": 2}}]
    [case] = read(a_case(tokens=tokens, prompt=2), "c.yaml").cases
    [turn] = case.turns
    assert turn.prompt_len == 2
    assert turn.tokens == (None, *[{"x.l1": {0: 2.0}}] * 3, {"d.g1": {0: 1.5, 2: 2.0}})
    assert case.expect == {"r": (("active", 0),)}


def test_turns_and_recorded_requests() -> None:
    turns = [{"prompt": 1, "tokens": [{}]}, {"tokens": []}]
    case = {"name": "a", "turns": turns, "expect": {"r": []}}
    named = {"name": "b", "request": "client-1", "expect": {"r": []}}
    found = read({"cases": [case, named], "limits": {"x.l1": 2}}, "c.yaml")
    assert [len(one.turns) for one in found.cases] == [2, 0]
    assert (found.cases[1].request, found.limits) == ("client-1", {"x.l1": 2.0})


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ([], "a mapping"),
        ({"cases": []}, "at least one case"),
        ({"cases": [GOOD] * (limits.POLICY_CASES + 1)}, "at most"),
        (a_case(colour="red"), "colour"),
        (a_case(expect=None), "expect"),
        (a_case(expect={"r": [{}]}), "one of"),
        (a_case(expect={"r": [{"active": 1, "resolved": 2}]}), "active and resolved|pending"),
        (a_case(expect={"r": [{"active": -1}]}), "active"),
        (a_case(tokens=[{"x.l1": float("nan")}]), r"tokens\[0\].*nan"),
        (a_case(tokens=[{"x.l1": 0}]), "above 0"),
        (a_case(tokens=[{"x.l1": True}]), "above 0"),
        (a_case(tokens=[{"x.l1": {"a": 1.0}}]), "which latent"),
        (a_case(tokens=[{"repeat": limits.POLICY_CASE_TOKENS}, {}]), "tokens"),
        (a_case(tokens=[{"repeat": 10**9}]), "repeat"),
        ({**a_case(), "limits": {"x.l1": "calibrated"}}, "a number"),
        ({"cases": [{"name": "a", "tokens": [{}]}]}, "expect"),
        (a_case(expect={}), "expect"),
        (a_case(expect={"r": [{"active_": 1}]}), "Is active_ meant to be active"),
        (a_case(tokens=[]), "at least one token"),
        ({"cases": [GOOD, GOOD]}, "'a' twice"),
        ({"cases": [{**GOOD, "name": str(n), "tokens": [{"repeat": 65_536}]} for n in range(17)]}, "in all cases"),
    ],
)
def test_what_is_wrong_is_named(bad: Any, where: str) -> None:
    with pytest.raises(ConfigError, match=where) as caught:
        read(bad, "c.yaml")
    assert "c.yaml" in str(caught.value)
