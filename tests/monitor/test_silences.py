"""Silences: whom they cover and until when, how many there may be, and what is told of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from saewatch.core.errors import RecordError
from saewatch.monitor import silences
from saewatch.monitor.policy.rule import Silence
from saewatch.monitor.silences import ENDED, EXPIRED, SILENCE_NS_MAX, UNKNOWN, Given, SilenceChanged, Silences
from tests.monitor.stage import SECOND
from tests.monitor.test_alerts import Watching, a_policy, begun

NOW = 1_000 * SECOND
OWN = {"rules": ["quiet"], "until": "1970-01-01T00:20:00Z", "reason": "known"}
"""Until 1,200 s."""
RULES = ({"id": "threat"}, {"id": "quiet"})


def given(
    name: str = "a", *, until: int = NOW + 60 * SECOND, policy: str = "trust", by: str = "ada", **what: Any
) -> Given:
    known: dict[str, Any] = {"rules": ("threat",), "tenant": "", "until_ns": until, "reason": "a release"}
    return Given(id=name, policy=policy, what=Silence(**{**known, **what}), by=by, given_ns=NOW)


def some(**fields: Any) -> Silences:
    return Silences([a_policy(*RULES, **fields)])


def told(changes: list[SilenceChanged]) -> list[tuple[str, str]]:
    return [(one.silence.id, one.over) for one in changes]


@pytest.mark.parametrize(
    ("what", "covered"),
    [
        ({}, True),
        ({"rules": ()}, True),
        ({"rules": ("quiet", "threat")}, True),
        ({"rules": ("quiet",)}, False),
        ({"tenant": "acme"}, True),
        ({"tenant": "other"}, False),
    ],
)
def test_it_covers_its_rules_and_its_tenant(what: dict[str, Any], covered: bool) -> None:
    one = some()
    one.give(given(**what), NOW)
    assert one.hold("trust", "threat", "acme", NOW) is covered
    assert one.find("a", NOW).held_back == covered


def test_a_rule_of_the_same_name_in_another_policy_is_not_covered() -> None:
    one = some()
    one.give(given(rules=()), NOW)
    assert not one.hold("other", "threat", "acme", NOW)


def test_it_is_over_at_the_very_instant() -> None:
    one, until = some(), NOW + 60 * SECOND
    one.give(given(until=until), NOW)
    assert one.due_ns == until
    assert one.tick(until - 1) == []
    assert one.hold("trust", "threat", "", until - 1)
    assert not one.hold("trust", "threat", "", until)
    assert (one.all(until), len(one.all(until - 1))) == ([], 1)
    [change] = one.tick(until)
    assert (change.silence.id, change.over, change.silence.held_back) == ("a", EXPIRED, 1)
    assert (one.tick(until), one.due_ns) == ([], math.inf)


def test_it_ends_when_somebody_says_so() -> None:
    one = some()
    one.give(given(), NOW)
    one.hold("trust", "threat", "", NOW)
    ended = one.end("a", "bob", NOW + 1)
    assert (ended.over, ended.by, ended.silence.by, ended.silence.held_back) == (ENDED, "bob", "ada", 1)
    assert not one.hold("trust", "threat", "", NOW + 1)
    with pytest.raises(RecordError, match="in force"):
        one.end("a", "bob", NOW + 2)


def test_two_that_cover_an_alert_count_it_both() -> None:
    one = some(silences=[OWN])
    one.give(given(rules=()), NOW)
    one.hold("trust", "quiet", "", NOW)
    one.hold("trust", "threat", "", NOW)
    assert {each.id: each.held_back for each in one.all(NOW)} == {"a": 2, "trust#0": 1}


@pytest.mark.parametrize(
    ("fields", "subject"),
    [
        ({"policy": "nobody"}, "policy"),
        ({"rules": ("threat", "nothing")}, "rule"),
        ({"until": NOW}, "duration"),
        ({"until": NOW - 1}, "duration"),
        ({"until": NOW + SILENCE_NS_MAX + 1}, "duration"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], subject: str) -> None:
    one = some()
    with pytest.raises(RecordError) as caught:
        one.give(given(**fields), NOW)
    assert caught.value.subject == subject
    assert one.all(NOW) == []


def test_a_week_is_not_too_long() -> None:
    assert some().give(given(until=NOW + SILENCE_NS_MAX), NOW).over == ""


def test_there_are_not_too_many_and_room_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silences, "SILENCES_GIVEN", 2)
    one = some(silences=[OWN])  # which does not count
    one.give(given("a", until=NOW + 1), NOW)
    one.give(given("b"), NOW)
    with pytest.raises(RecordError, match="silences: found 2 in force, expected at most 2"):
        one.give(given("c"), NOW)
    one.give(given("c"), NOW + 1)  # the first one is over, though no tick has come
    one.end("b", "ada", NOW + 1)
    one.give(given("d"), NOW + 1)


def test_a_policys_own_are_told_once_and_end_by_themselves() -> None:
    one = some(silences=[OWN, {**OWN, "until": "1970-01-01T00:00:01Z"}])
    assert one.hold("trust", "quiet", "", NOW)
    assert told(one.tick(NOW)) == [("trust#0", "")], "the other one was over before anybody asked"
    assert one.tick(NOW + 1) == []
    assert told(one.tick(1_200 * SECOND)) == [("trust#0", EXPIRED)]


def test_those_of_an_earlier_run_go_on_unless_they_are_over() -> None:
    one = some()
    kept = [given("a"), given("b", until=NOW), given("c", rules=("gone",)), given("d", until=NOW + 2 * SILENCE_NS_MAX)]
    assert told(one.remember(kept, NOW)) == [("a", ""), ("b", EXPIRED), ("c", UNKNOWN), ("d", UNKNOWN)]
    assert [each.id for each in one.all(NOW)] == ["a"]


# --- over alerts ------------------------------------------------------------------------------------------------------
def test_an_alert_under_it_is_made_and_marked_until_the_instant() -> None:
    stage = Watching(a_policy(*RULES))
    until = stage.now + 60 * SECOND
    stage.alerts.silences.give(given(until=until), stage.now)
    stage.now = until - 1
    assert {one.rule: one.held_back for one in begun(stage, 7).fire(7, 0)} == {"threat": "silenced", "quiet": ""}
    stage.now = until
    assert {one.rule: one.held_back for one in begun(stage, 8).fire(8, 0)} == {"threat": "", "quiet": ""}


def test_one_that_was_delivered_before_is_delivered_to_its_end() -> None:
    stage = begun(Watching())
    stage.fire(7, 0)
    stage.alerts.silences.give(given(until=stage.now + SECOND), stage.now)
    stage.end(7, fed=1)
    assert [(one.state, one.held_back) for one in stage.told] == [("active", ""), ("resolved", "")]


def test_blindness_is_told_under_any_silence() -> None:
    stage = Watching()
    stage.alerts.silences.give(given(rules=(), until=stage.now + 3600 * SECOND), stage.now)
    stage.tick(5)
    assert [(one.kind, one.held_back) for one in stage.told] == [("blind", "")]
