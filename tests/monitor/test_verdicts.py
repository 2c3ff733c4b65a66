"""Verdicts from a monitor's events: what each state rests on, what makes it unknown, and what is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from saewatch.core import limits
from saewatch.core.batch import Origin, Reason
from saewatch.core.records import RequestStart, Role
from saewatch.monitor.events import BlindState, Standing
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.unjudged import NO_RULE
from saewatch.monitor.verdict import NOT_SEEN, Verdict
from saewatch.monitor.verdicts import Verdicts
from tests import fakes
from tests.monitor.stage import ENGINE
from tests.monitor.test_alerts import PROBE, THREAT, Watching, a_policy

FLAG = {"action": "flag"}


class Book(Watching):
    """Alerts with verdicts over them."""

    def __init__(self, *policies: Policy, **known: Any) -> None:
        self.verdicts = Verdicts(self._because, self._streams, self._read, self._gaps)
        super().__init__(*policies, **known)
        self.told_of: dict[str, int] = {}

    def _told(self, events: list[Any]) -> list[Any]:
        self.verdicts.follow(events)
        return super()._told(events)

    def _because(self, *asked: Any) -> str:
        return self.alerts.unjudged_because(*asked)

    def _gaps(self, stream: int) -> int:
        return self.monitor.status(self.now).streams[stream - 1].seq_gaps

    def _streams(self, engine: str) -> Any:
        link = self.monitor.engines().get(engine)
        return () if link is None else self.monitor.opened(link)

    def _read(self) -> frozenset[str]:
        return frozenset({"threat.l1"})

    def of(self, name: str = "plain-7") -> Verdict:
        """The verdict on a request."""
        [found] = self.verdicts.newer({name: -1})
        return found

    def state(self, name: str = "plain-7") -> tuple[str, int]:
        """Its state, and how far it is covered."""
        found = self.of(name)
        return found.state, found.covered_through


def begun(book: Book, request: int = 7, **fields: Any) -> Book:
    book.start(request, name=f"plain-{request}", **fields)
    return book


def test_a_request_that_nobody_saw_is_unknown() -> None:
    found = Book().of("plain-7")
    assert (found.state, found.reason, found.identity) == ("unknown", NOT_SEEN, None)


def test_what_was_judged_and_found_nothing_is_clear_as_far_as_it_came() -> None:
    book = begun(Book())
    book.batch([(7, 0, 4)])
    assert book.state() == ("clear", 3)
    book.batch([(7, 4, 1)], [(0, THREAT, 1.0)])
    assert book.state() == ("clear", 4), "below its limit"


def test_a_rule_that_asks_for_a_flag_flags_and_the_flag_stays() -> None:
    book = begun(Book(a_policy({**FLAG, "when": {"feature": "threat.l1", "within_tokens": 2}})))
    book.batch([(7, 0, 4)])
    book.fire(7, 4)
    found = book.of()
    assert (found.state, found.covered_through, [one.rule for one in found.alerts]) == ("flagged", 4, ["threat"])
    book.batch([(7, 5, 9)])
    assert book.of().alerts[0].state == "resolved"
    assert book.state() == ("flagged", 13)
    book.end(7, fed=14)
    assert (book.state(), book.of().ended) == (("flagged", 13), True)


def test_a_rule_that_asks_for_no_flag_elevates() -> None:
    book = begun(Book())
    book.fire(7, 0)
    assert book.state() == ("elevated", 0)
    book.end(7, fed=1)
    assert book.state() == ("elevated", 0)


def test_a_pending_rule_elevates_until_it_is_dropped() -> None:
    rule = {**FLAG, "for_tokens": 5, "when": {"feature": "threat.l1", "within_tokens": 2}}
    book = begun(Book(a_policy(rule)))
    book.fire(7, 0)
    assert "is pending" in book.of().reason
    assert book.state() == ("elevated", 0)
    book.batch([(7, 1, 4)])
    assert book.state() == ("clear", 4)


@pytest.mark.parametrize(
    ("rule", "fields", "state"),
    [
        ({"shadow": True}, {}, "unknown"),
        ({}, {"silences": [{"rules": ["threat"], "until": "2026-01-01T00:00:00Z", "reason": "a release"}]}, "flagged"),
        ({"rate": {"alerts": 1, "seconds": 3600}}, {}, "flagged"),
    ],
)
def test_of_what_is_held_back_only_shadow_does_not_count(
    rule: dict[str, Any], fields: dict[str, Any], state: str
) -> None:
    book = begun(begun(Book(a_policy({**FLAG, **rule}, **fields))), 8)
    book.fire(7, 0)
    [alert] = book.fire(8, 0)
    assert alert.held_back
    assert book.state("plain-8") == (state, -1 if state == "unknown" else 0)


@pytest.mark.parametrize("reason", [one for one in Reason if one is not Reason.EXCLUDED])
def test_what_is_missing_is_unknown_whatever_the_reason(reason: Reason) -> None:
    book = begun(Book())
    book.batch([(7, 0, 2)])
    book.batch([(7, 5, 2)], missed=[(7, reason, 3)])
    assert book.state() == ("unknown", 1)
    assert book.of().reason.endswith(f"{reason.label} 3")
    assert book.of().missed == {reason.label: 3}


def test_a_flag_stands_although_something_is_missing() -> None:
    book = begun(Book(a_policy(FLAG)))
    book.batch([(7, 3, 1)], [(0, THREAT, 3.0)], missed=[(7, Reason.CACHED, 3)])
    assert book.state() == ("flagged", -1)


def test_what_the_dictionary_excludes_is_not_missing() -> None:
    book = begun(Book())
    book.batch([(7, 1, 3)], missed=[(7, Reason.EXCLUDED, 1)])
    assert book.state() == ("clear", 3)


def test_a_lost_batch_leaves_no_hole_for_excluded_tokens_to_fill() -> None:
    for seq, state in ((2, ("clear", 6)), (3, ("unknown", 3))):
        book = begun(Book())
        book.batch([(7, 0, 4)], seq=1)
        book.batch([(7, 5, 2)], missed=[(7, Reason.EXCLUDED, 1)], seq=seq)
        assert book.state() == state


def test_tokens_computed_again_change_nothing() -> None:
    book = begun(Book())
    book.batch([(7, 0, 4)])
    book.batch([(7, 0, 4, Origin.RECOMPUTED), (7, 4, 1)])
    assert book.state() == ("clear", 4)


def test_an_end_that_not_all_tokens_reached_is_unknown() -> None:
    book = begun(Book())
    book.batch([(7, 0, 4)])
    book.end(7, fed=6)
    assert (book.state(), book.of().ended) == (("unknown", 3), True)


def test_without_a_rule_that_acts_nothing_is_known() -> None:
    book = begun(Book(a_policy({"when": {"feature": "elsewhere.l1"}})))
    book.batch([(7, 0, 4)])
    assert (book.of().state, book.of().reason, book.of().covered_through) == ("unknown", NO_RULE, -1)


def test_a_request_without_room_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "POLICY_SUBJECTS", 1)
    book = begun(begun(Book()), 8)
    book.batch([(7, 0, 1), (8, 0, 1)])
    assert [book.of(name).state for name in ("plain-7", "plain-8")] == ["clear", "unknown"]


def test_a_canary_is_not_judged() -> None:
    book = Book()
    book.put(RequestStart(request=7, engine_id=fakes.engine_id(7), prompt_len=4))
    book.label(7, traffic_class="canary")
    book.batch([(7, 0, 4)])
    assert (book.of("client-7").state, book.of("client-7").reason) == ("unknown", "canary requests are not judged")


def test_a_blind_stream_makes_its_requests_unknown_until_it_sees() -> None:
    book = begun(Book())
    book.batch([(7, 0, 4)])
    version = book.of().version
    assert book.verdicts.newer({"plain-7": version}) == []
    book.tick(5)
    [found] = book.verdicts.newer({"plain-7": version})
    assert (found.state, found.covered_through) == ("unknown", 3)
    assert "blind" in found.reason
    book.beat()
    assert book.state() == ("clear", 3)


def test_a_blind_feature_that_a_rule_reads_does_too() -> None:
    book = begun(Book())
    book.batch([(7, 0, 4)])
    for subject, state in (("other.l1", "clear"), ("threat.l1", "unknown")):
        blind = BlindState(scope="feature", reason="canary", subject=subject, hint="", since_ns=1)
        book.verdicts.follow([Standing(streams=(), blind=(blind,))])
        assert book.of().state == state


def test_an_engine_that_is_gone_leaves_no_clear_behind() -> None:
    book = begun(Book())
    book.batch([(7, 0, 4)])
    book.monitor.disconnect(ENGINE, book.now)
    assert book.state() == ("unknown", 3)
    book.tick(100)
    found = book.of()
    assert (found.state, found.ended, found.reason) == ("unknown", True, "its engine was lost before it told the end")


def test_every_stream_that_rules_read_has_to_have_come_as_far() -> None:
    book = begun(Book())
    fields = {"stream": 2, "hook_point": "resid_post.5"}
    book.put(fakes.stream_open(book.known, **fields), fakes.watch_set(book.known, stream=2))
    book.batch([(7, 0, 4)])
    assert (book.state(), "resid_post.5" in book.of().reason) == (("unknown", -1), True)
    book.batch([(7, 0, 2)], stream=2, seq=1)
    assert book.state() == ("clear", 1)


def test_a_shadow_dictionary_has_no_say() -> None:
    book = begun(Book(a_policy(FLAG)))
    fields = {"stream": 2, "hook_point": "resid_post.5", "role": Role.SHADOW}
    book.put(fakes.stream_open(book.known, **fields), fakes.watch_set(book.known, stream=2))
    book.batch([(7, 0, 4)])
    book.batch([(7, 0, 4)], [(0, THREAT, 9.0)], stream=2, seq=1)
    assert book.state() == ("clear", 3)


def test_a_dictionary_that_came_in_the_middle_has_not_judged_the_beginning() -> None:
    book = begun(Book())
    book.batch([(7, 0, 4)])
    fields = {"stream": 2, "hook_point": "resid_post.5"}
    book.put(fakes.stream_open(book.known, **fields), fakes.watch_set(book.known, stream=2))
    book.batch([(7, 4, 1)], stream=2, seq=1)
    assert book.state() == ("unknown", -1)


def test_an_alert_about_a_conversation_is_one_of_its_next_request_too() -> None:
    rule = {**FLAG, "subject": "conversation", "when": {"feature": "threat.l1"}}
    book = Book(a_policy(rule))
    for request in (7, 8, 9):
        book.put(RequestStart(request=request, engine_id=fakes.engine_id(request), prompt_len=4))
        book.label(request, conversation="other" if request == 9 else "talk")
    book.batch([(7, 0, 1)], [(0, THREAT, 3.0)])
    book.batch([(8, 0, 1), (9, 0, 1)])
    assert [book.of(f"client-{request}").state for request in (7, 8, 9)] == ["flagged", "flagged", "clear"]


def test_every_name_of_a_request_finds_it() -> None:
    book = Book()
    book.put(RequestStart(request=7, engine_id=fakes.engine_id(7), prompt_len=4))
    book.label(7)
    book.batch([(7, 0, 4)])
    names = ("client-7", fakes.key(7), fakes.engine_id(7))
    found = book.verdicts.newer(dict.fromkeys(names, -1))
    assert [(one.name, one.state) for one in found] == [(name, "clear") for name in names]


def test_what_is_forgotten_is_told_as_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VERDICT_REQUESTS", 2)
    book = Book()
    for request in (7, 8, 9):
        begun(book, request).batch([(request, 0, 1)])
    [gone] = book.verdicts.newer({"plain-7": 5})
    assert (gone.state, gone.identity) == ("unknown", None)
    assert book.state("plain-9") == ("clear", 0)
    book.batch([(7, 1, 1)])
    assert book.state("plain-7") == ("unknown", -1), "what comes again has lost its beginning"


def test_a_verdict_names_the_gravest_alerts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VERDICT_ALERTS", 2)
    rules: list[dict[str, Any]] = [{"id": f"low{n}", "severity": "low"} for n in range(3)] + [
        {"id": "flag", "severity": "low", **FLAG}
    ]
    book = begun(Book(a_policy(*rules)))
    book.fire(7, 0)
    first, second = book.of().alerts
    assert (first.rule, second.severity) == ("flag", "low")


def test_a_probe_in_another_rule_leaves_the_first_one_alone() -> None:
    rules: list[dict[str, Any]] = [{"id": "probe", "when": {"feature": "threat.p1"}}, {"id": "threat", **FLAG}]
    book = begun(Book(a_policy(*rules)))
    book.fire(7, 0, PROBE)
    assert (book.of().state, [one.rule for one in book.of().alerts]) == ("elevated", ["probe"])
