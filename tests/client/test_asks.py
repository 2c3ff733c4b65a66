"""Calls as plans, driven by hand."""

from __future__ import annotations

from typing import Any

import pytest

from saewatch.client import asks
from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.edge.pb import common_pb2, dictionary_pb2, history_pb2


def drive(plan: asks.Plan[Any], *answers: Any) -> tuple[list[Any], Any]:
    """What is asked, and the result; requests are copied, since a plan may use one again."""
    asked: list[Any] = []
    answer = None
    waiting = iter(answers)
    while True:
        try:
            ask = plan.send(answer)
        except StopIteration as done:
            return asked, done.value
        asked.append(asks.Ask(ask.service, ask.method, type(ask.request).FromString(ask.request.SerializeToString())))
        answer = next(waiting)


def dictionaries(*digests: str, following: str = "") -> dictionary_pb2.ListDictionariesResponse:
    found = [dictionary_pb2.Dictionary(weights_digest=digest) for digest in digests]
    return dictionary_pb2.ListDictionariesResponse(dictionaries=found, next_page_token=following)


def features(*names: str, following: str = "") -> dictionary_pb2.ListFeaturesResponse:
    found = [common_pb2.Feature(id=name) for name in names]
    return dictionary_pb2.ListFeaturesResponse(features=found, next_page_token=following)


def test_pages_are_followed_to_the_last() -> None:
    asked, found = drive(
        asks.dictionaries(), dictionaries("a", following="2"), dictionaries("b", following="3"), dictionaries()
    )
    assert [one.weights_digest for one in found] == ["a", "b"]
    assert [one.request.page_token for one in asked] == ["", "2", "3"]


def test_features_of_every_dictionary() -> None:
    asked, found = drive(
        asks.features("", "vcr"), dictionaries("a", "b"), features("x", following="2"), features("y"), features("z")
    )
    assert [one.id for one in found] == ["x", "y", "z"]
    requests = [one.request for one in asked[1:]]
    assert [(one.weights_digest, one.page_token) for one in requests] == [("a", ""), ("a", "2"), ("b", "")]
    assert {one.category for one in requests} == {"vcr"}


def test_features_of_one() -> None:
    asked, _ = drive(asks.features("a", ""), features("x"))
    assert [one.method for one in asked] == ["ListFeatures"]


def test_a_page_of_history_may_take_as_long_as_reading_it() -> None:
    for request, method in (
        (history_pb2.QueryFiringsRequest(), "QueryFirings"),
        (history_pb2.ListRequestsRequest(), "ListRequests"),
    ):
        ask: Any = next(asks.history_page(request))
        assert (ask.method, ask.longer_s) == (method, limits.QUERY_WAIT_S)


def test_the_next_page_is_asked_for_anew() -> None:
    asked = history_pb2.QueryFiringsRequest(page_size=7)
    following = asks.next_page(asked, history_pb2.QueryFiringsResponse(next_page_token="2"))
    assert following == history_pb2.QueryFiringsRequest(page_size=7, page_token="2")
    assert asked.page_token == "", "the first one is left alone"
    assert asks.next_page(asked, history_pb2.QueryFiringsResponse()) is None


def test_a_role_that_no_engine_runs_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match="role: found 'candidate', expected one of stable, shadow"):
        next(asks.apply_bundle("b", "candidate", "", engine="", timeout_s=1.0, validate_only=False))


def test_comparisons_are_asked_for_by_name() -> None:
    ask: Any = next(asks.shadow("m", "resid_post.3"))
    assert (ask.method, ask.request.model_name, ask.request.hook_point) == ("CompareShadow", "m", "resid_post.3")


def test_a_self_test_is_waited_for() -> None:
    ask: Any = next(asks.self_test("e", 2.5))
    assert ask.longer_s > 2.5
    assert ask.request.timeout.ToMilliseconds() == 2500


def test_a_change_is_waited_for_and_says_what_is_wanted() -> None:
    where = {"engine": "e", "hook_point": "resid_post.3"}
    for plan, method, fields in (
        (asks.set_watching("e", 2.5, on=False), "SetWatching", {"engine": "e", "on": False}),
        (
            asks.set_watch_list("w", ["a.l1"], timeout_s=2.5, **where),
            "SetWatchList",
            {"weights_digest": "w", "feature_ids": ["a.l1"], **where},
        ),
        (
            asks.load_dictionary("old", "new", "/p", timeout_s=2.5, **where),
            "LoadDictionary",
            {"replaces_digest": "old", "weights_digest": "new", "path": "/p", **where},
        ),
        (
            asks.apply_bundle("b", "shadow", "/p", engine="e", timeout_s=2.5, validate_only=True),
            "ApplyBundle",
            {"bundle_digest": "b", "role": common_pb2.ROLE_SHADOW, "path": "/p", "engine": "e", "validate_only": True},
        ),
    ):
        ask: Any = next(plan)
        assert (ask.method, ask.longer_s) == (method, 2.5 + asks.MARGIN_S)
        assert {name: getattr(ask.request, name) for name in fields} == fields
        assert ask.request.timeout.ToMilliseconds() == 2500
    assert next(asks.set_watching("", 1.0, on=False)).request.HasField("on"), "off is said, and no default"
