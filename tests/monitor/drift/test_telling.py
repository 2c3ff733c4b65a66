from __future__ import annotations

import pytest

from saewatch.monitor.alert import SHADOW
from saewatch.monitor.drift.detector import Moved
from saewatch.monitor.drift.overall import STATISTICS
from saewatch.monitor.drift.telling import WHOLE, alert_of, said
from tests import deployed
from tests.monitor.drift.test_known import table

MOVED = Moved(
    kind="feature",
    subject=3,
    of="n",
    direction="up",
    score=19.0,
    began_block=7,
    opened_ns=5,
    changed_ns=9,
    times=2,
    told=True,
    effect=1.8,
    low=1.5,
    high=2.1,
    tolerance=0.15,
)


def test_an_alert_names_the_feature_its_effect_and_the_baseline() -> None:
    alert = alert_of(MOVED, deployed.baseline(), table(), told=True)
    assert (alert.kind, alert.held_back, alert.activations) == ("drift", "", 2)
    assert alert.evidence[0].features == ("demo03.l1",)
    assert (alert.evidence[0].value, alert.evidence[0].limit) == (1.8, 0.15)
    assert alert.policy_digest == deployed.baseline().digest
    assert alert.claim == "correlational"
    assert "1.80 times as many requests" in alert.why
    assert "1.50 to 2.10" in alert.why


def test_the_same_alarm_has_the_same_id_and_another_one_has_not() -> None:
    known = deployed.baseline()
    first = alert_of(MOVED, known, table(), told=True)
    later = Moved(**{**{name: getattr(MOVED, name) for name in Moved.__slots__}, "changed_ns": 99, "times": 3})
    other = Moved(**{**{name: getattr(MOVED, name) for name in Moved.__slots__}, "opened_ns": 6})
    assert alert_of(later, known, table(), told=True).id == first.id
    assert alert_of(other, known, table(), told=True).id != first.id


def test_what_is_not_told_is_kept() -> None:
    assert alert_of(MOVED, deployed.baseline(), table(), told=False).held_back == SHADOW


@pytest.mark.parametrize("name", STATISTICS)
def test_each_statistic_of_the_whole_has_words(name: str) -> None:
    values = {one: getattr(MOVED, one) for one in Moved.__slots__}
    moved = Moved(**{**values, "kind": "overall", "of": name, "subject": STATISTICS.index(name)})
    assert WHOLE[name] in said(moved)
    assert alert_of(moved, deployed.baseline(), table(), told=True).title == WHOLE[name]


def of_kind(**changes: object) -> Moved:
    return Moved(**{**{name: getattr(MOVED, name) for name in Moved.__slots__}, **changes})


def test_a_new_pair_names_both_features_and_keeps_its_id_when_others_join() -> None:
    known = deployed.baseline()
    one = of_kind(kind="pair", of="pairs", subject=77, pairs=((3, 5),), effect=6.0)
    alert = alert_of(one, known, table(), told=True)
    assert alert.title == "demo03.l1 + demo05.l1 fire together as they did not"
    assert alert.evidence[0].features == ("demo03.l1", "demo05.l1")
    assert len(alert.evidence[0].labels) == 2
    assert "6.00 times as many requests" in alert.why
    more = of_kind(kind="pair", of="pairs", subject=77, pairs=((3, 5), (1, 3)))
    assert alert_of(more, known, table(), told=True).id == alert.id
    assert alert_of(more, known, table(), told=True).evidence[0].features == ("demo03.l1", "demo05.l1", "demo01.l1")


@pytest.mark.parametrize(("of", "words"), [("dead", "not fired for 7 days"), ("dense", "over 10 % of requests, 0.30")])
def test_a_rule_says_what_it_found(of: str, words: str) -> None:
    assert words in said(of_kind(of=of, effect=0.3))
