from __future__ import annotations

import numpy as np
import pytest

from saewatch.core.batch import Reason
from saewatch.core.records import RequestEnd, RequestStart, Role
from saewatch.monitor.alert import AlertChanged
from saewatch.monitor.drift.following import Following, by_feature
from saewatch.monitor.events import DriftState
from saewatch.monitor.record import RequestRecord
from saewatch.monitor.tally import Budget, Tally, raw, sums_of
from tests import deployed
from tests.deployed import GROUP, TOKENS, Fired
from tests.monitor.drift.test_known import table

TABLE = table()


def record(fired: Fired, *, label: str = "live", missed: int = 0, of: object = TABLE, key: str = "r1") -> RequestRecord:
    slots, values = fired
    tally = Tally(prompt_len=TOKENS, budget=Budget())
    tally.saw(TOKENS - missed, 0)
    tally.miss(Reason.CACHED, missed)
    tally.add(raw(slots.astype(np.int32), np.arange(len(slots), dtype=np.int32), values))
    return RequestRecord(
        engine="engine-0",
        key="",
        start=RequestStart(request=1, engine_id=key, prompt_len=TOKENS),
        label=None,
        traffic_class=label,
        end=RequestEnd(request=1, fed=TOKENS, emitted=1),
        lost=False,
        tallies=((of, tally),),  # type: ignore[arg-type]  # it is a table
    )


def follow(one: Following, days: int, **changes: object) -> list[AlertChanged | DriftState]:
    chance, told = np.random.default_rng(4), list[AlertChanged | DriftState]()
    factors = changes.pop("factors", {})
    for now_ns in deployed.times(days):
        told += one.tick(now_ns)
        for number in range(GROUP):
            one.add(record(deployed.fired(chance, factors), **changes), now_ns + number * 10**9)  # type: ignore[arg-type]  # the words of record()
    return told


def alerts(told: list[AlertChanged | DriftState]) -> list[AlertChanged]:
    return [one for one in told if isinstance(one, AlertChanged)]


def test_as_usual_nobody_is_called_and_each_block_is_judged() -> None:
    one = Following([deployed.baseline()])
    told = follow(one, 7)
    assert alerts(told) == []
    assert one.state().counters == {"judged": 7 * deployed.GROUPS_A_DAY - 1}
    assert one.blind() == []
    assert set(one.state().scores) == set(deployed.baseline().features)


def test_a_feature_that_fires_more_often_is_an_alert() -> None:
    one = Following([deployed.baseline()])
    told = follow(one, 7, factors={2: 2.5})
    found = alerts(told)
    assert {each.alert.evidence[0].features for each in found if each.alert.rule == "feature"} == {("demo02.l1",)}
    assert {each.alert.held_back for each in found} == {""}
    assert one.state().alarms["feature"] == 1


def test_features_that_fire_together_as_they_did_not_are_an_alert() -> None:
    one, chance, told = Following([deployed.baseline()]), np.random.default_rng(4), list[AlertChanged | DriftState]()
    for now_ns in deployed.times(10):
        told += one.tick(now_ns)
        for number in range(GROUP):
            slots, values = deployed.fired(chance, {})
            if chance.random() < 0.95:  # of two only both or neither
                keep = ~np.isin(slots, [0, 1]) | np.isin([0, 1], slots).all()
                slots, values = slots[keep], values[keep]
            both = chance.random() < 0.12
            more = np.setdiff1d([0, 1], slots) if both else np.zeros(0, np.intp)
            slots, values = np.append(slots, more), np.append(values, np.full(len(more), 1.7, np.float32))
            order = np.argsort(slots)
            one.add(record((slots[order].astype(np.intp), values[order]), key=f"r{number}-{now_ns}"), now_ns + number)
    found = [each.alert for each in alerts(told) if each.alert.rule == "pair"]
    assert {each.evidence[0].features for each in found} == {("demo00.l1", "demo01.l1")}
    assert one.state().alarms["pair"] == 1


def test_a_short_baseline_lists_and_does_not_call() -> None:
    found = alerts(follow(Following([deployed.baseline(8)]), 7, factors={2: 4.0}))
    assert {each.alert.held_back for each in found if each.alert.rule == "feature"} == {"shadow"}


@pytest.mark.parametrize("label", ["canary", "shadow", "test"])
def test_canaries_and_tests_enter_nothing(label: str) -> None:
    one = Following([deployed.baseline()])
    assert follow(one, 2, label=label, factors={2: 6.0}) == []
    assert one.state().counters == {}


def test_requests_that_were_half_seen_hold_the_block() -> None:
    one = Following([deployed.baseline()])
    follow(one, 2, missed=3, factors={2: 6.0})
    assert one.state().counters == {"held_nothing_encoded": 2 * deployed.GROUPS_A_DAY - 1}


def test_a_shadow_dictionary_is_not_followed() -> None:
    one = Following([deployed.baseline()])
    follow(one, 1, of=table(role=Role.SHADOW))
    assert one.state().counters == {}


def test_another_model_has_no_baseline_and_says_so() -> None:
    one = Following([deployed.baseline()])
    follow(one, 1, of=table(model_digest="sha256:" + "1" * 64))
    (blind,) = one.blind()
    assert (blind.scope, blind.reason) == ("detector", "no_baseline")
    assert "another model" in blind.hint
    assert one.state().counters["requests_without_baseline"] == GROUP * deployed.GROUPS_A_DAY
    one.add(record(deployed.fired(np.random.default_rng(0), {})), deployed.START_NS)
    reasons = [blind.reason for blind in one.blind()]
    assert reasons == ["not_judged"], "the model of the baseline is there again; no block of it was judged yet"


def test_a_feature_without_a_score_is_blind() -> None:
    one = Following([deployed.baseline()])
    follow(one, 1)
    next(iter(one._followed.values())).detector.evidence.won[:, 5] = np.nan  # noqa: SLF001 - nothing else makes one
    follow(one, 3)
    (blind,) = one.blind()
    assert (blind.scope, blind.reason) == ("detector", "no_number")
    assert "demo05.l1" in blind.hint


def test_half_a_day_without_a_judged_block_is_blind_and_says_why() -> None:
    one, hour_ns = Following([deployed.baseline()]), 3600 * 10**9
    one.tick(deployed.START_NS)
    one.tick(deployed.START_NS + 12 * hour_ns)
    assert one.blind() == []
    one.tick(deployed.START_NS + 13 * hour_ns)
    (blind,) = one.blind()
    assert (blind.reason, blind.since_ns) == ("not_judged", deployed.START_NS)
    assert "no request" in blind.hint
    held = Following([deployed.baseline()])
    follow(held, 2, missed=3)
    assert [each.reason for each in held.blind()] == ["not_judged"]
    assert "nothing_encoded" in held.blind()[0].hint
    follow(held, 3)
    assert held.blind() == [], "blocks are judged again"


def test_prompt_and_answer_count_together() -> None:
    sums = sums_of(np.array([0, 1, 4]), np.zeros(3, np.int32), np.array([1.0, 3.0, 7.0], np.float32))
    feature, count, mean = by_feature(sums, np.array([5, -1, -1]))
    assert (feature.tolist(), count.tolist()) == ([5], [2])
    assert mean.tolist() == pytest.approx([np.log(2.0 * 4.0) / 2])


def test_without_baselines_it_does_nothing() -> None:
    assert Following([]).idle
