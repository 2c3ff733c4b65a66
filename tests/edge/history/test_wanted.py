"""What a filter chooses, as SQL and as masks."""

from __future__ import annotations

import numpy as np
import pytest

from saewatch.edge.history.wanted import Wanted, listed


@pytest.mark.parametrize(
    ("fields", "chooses"),
    [
        ({}, ""),
        ({"feature_ids": {"a"}}, "firings"),
        ({"min_value": 0.0}, "firings"),
        ({"max_value": 0.0}, "firings"),
        ({"tenants": {""}}, "requests"),
        ({"allowed_tenants": frozenset()}, "requests"),
        ({"request_ids": {""}}, "requests"),
        ({"hook_points": {"x"}}, "streams"),
    ],
)
def test_what_it_leaves_out(fields: dict[str, object], chooses: str) -> None:
    wanted = Wanted(**fields)  # type: ignore[arg-type]  # sets will do
    names = {"firings": wanted.chooses_firings, "requests": wanted.chooses_requests, "streams": wanted.chooses_streams}
    assert [name for name, yes in names.items() if yes] == [chooses] * bool(chooses)


def test_values_are_above_the_least_and_up_to_the_largest() -> None:
    value = np.array([-1.0, 0.5, 1.0, 2.0], np.float32)
    assert Wanted().values(value).all()
    assert Wanted(min_value=0.5, max_value=1.0).values(value).tolist() == [False, False, True, False]


def test_values_are_parameters_and_never_text_of_a_statement() -> None:
    nasty = "x' OR 1=1 --"
    wanted = Wanted(
        tenants=frozenset({nasty}),
        conversations=frozenset({nasty}),
        request_ids=frozenset({nasty}),
        allowed_tenants=frozenset({nasty}),
    )
    condition, values = wanted.requests()
    assert nasty not in condition
    assert condition.count("?") == len(values) == 6


def test_nobody_is_allowed_to_see_the_empty_tenant_by_having_none() -> None:
    condition, values = Wanted(allowed_tenants=frozenset()).requests()
    assert (condition, values) == ("tenant IN (SELECT value FROM json_each(?))", ["[]"])
    assert Wanted().requests() == ("true", [])


def test_lists_are_json() -> None:
    assert listed({"b", 'a"'}) == '["a\\"", "b"]'
