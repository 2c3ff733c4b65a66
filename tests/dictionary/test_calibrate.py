from __future__ import annotations

import math

import numpy as np
import pytest

from saewatch.core.errors import ConfigError
from saewatch.dictionary import calibrate
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.calibration import Experimental, HeldOut, Limit
from saewatch.dictionary.promise import Promise
from tests import fakes

PROMISE = Promise(alpha=0.05, delta=0.05)
FEATURE = fakes.feature("threat.l1", latents=(3,), category="vcr")


def held_out(caught: tuple[int, int], false: tuple[int, int]) -> HeldOut:
    return HeldOut(false_alarms=Share(*false), recall=Share(*caught), lengths=())


def chosen(scores: list[float], promise: Promise = PROMISE) -> Limit:
    found = calibrate.choose(FEATURE, np.array(scores), promise)
    assert isinstance(found, Limit)
    return found


def test_the_limit_is_the_jth_largest_score() -> None:
    found = chosen([float(i) for i in range(1000)])
    assert (found.n, found.j) == (1000, PROMISE.rank(1000))
    assert found.limit == 1000 - found.j
    assert (found.point95, found.over95) == (949.0, 50)


def test_requests_without_a_score_are_counted_and_say_nothing() -> None:
    scores = [float(i) for i in range(200)]
    found = chosen([*scores, *[math.nan] * 50])
    assert (found.n, found.unscored) == (200, 50)
    assert found.limit == chosen(scores).limit


def test_tied_scores_never_fire_more_often_than_promised() -> None:
    found = chosen([0.0] * 150 + [1.0] * 50)
    assert found.limit == 1.0
    assert chosen([0.0] * 200).limit == 0.0, "whatever fires at all is over it"
    assert (chosen([0.0] * 200).point95, chosen([0.0] * 200).over95) == (0.0, 0)


def test_too_few_scores_give_no_limit_but_the_alpha_that_they_support() -> None:
    found = calibrate.choose(FEATURE, np.array([1.0] * 30 + [math.nan]), PROMISE)
    assert isinstance(found, Experimental)
    assert (found.n, found.unscored, found.why) == (30, 1, "30 of 59 benign requests with a score")
    assert found.supported == pytest.approx(1 - 0.05 ** (1 / 30))
    nothing = calibrate.choose(FEATURE, np.array([math.nan]), PROMISE)
    assert isinstance(nothing, Experimental)
    assert nothing.why == "no benign request has a score"


def test_a_limit_is_tested_on_both_sides_and_by_length() -> None:
    scores = np.array([3.0, 2.0, 2.5, math.nan, 9.0, 1.0, math.nan])
    positive = np.array([False, False, False, False, True, True, True])
    lengths = np.array([10.0, 10.0, 600.0, 0.0, 40.0, 40.0, 0.0])
    found = calibrate.tested(2.0, scores, positive=positive, negative=~positive, lengths=lengths)
    assert found.false_alarms == Share(2, 3)
    assert found.recall == Share(1, 2)
    assert found.lengths == ((0, Share(1, 2)), (32, Share(0, 0)), (128, Share(0, 0)), (512, Share(1, 1)))


def test_precision_of_the_worked_example() -> None:
    """Recall 31 of 37 and 27 false alarms in 4,000 at 1 %: 0.56 from 0.41 to 0.68 was published, at 95 % ends."""
    found = calibrate.precision(held_out((31, 37), (27, 4000)), 0.01)
    assert found.value == pytest.approx(0.556, abs=0.001)
    assert (found.low, found.high) == pytest.approx((0.39, 0.70), abs=0.01)
    assert (found.low < 0.41, found.high > 0.68) == (True, True), "our ends are of 97.5 % each, so that both hold"


def test_alerts_a_day() -> None:
    tested = held_out((31, 37), (27, 4000))
    found = calibrate.alerts(tested, 0.01, 10_000)
    assert found.value == pytest.approx(10_000 * (31 / 37 * 0.01 + 27 / 4000 * 0.99))
    assert found.low < found.value < found.high
    assert calibrate.promised(tested, 0.01, 10_000, 0.01) == pytest.approx(10_000 * (31 / 37 * 0.01 + 0.01 * 0.99))


def test_precision_of_a_limit_that_never_fired_is_not_known() -> None:
    found = calibrate.precision(held_out((0, 40), (0, 400)), 0.01)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_digest_of_scores_tells_features_and_requests_apart() -> None:
    scores = np.array([[1.0, 2.0], [3.0, 4.0]])
    features = [FEATURE, fakes.feature("threat.l2", latents=(4,), category="vcr")]
    digests = {
        calibrate.scores_digest(features, scores),
        calibrate.scores_digest(features[::-1], scores),
        calibrate.scores_digest(features, scores.T),
    }
    assert len(digests) == 3


def test_sets_that_share_a_template_are_refused_by_name() -> None:
    benign = {"text:1": "benign.jsonl:1", "template:threat.3": "benign.jsonl:2"}
    calibrate.check_apart({"benign": benign, "held out": {"text:2": "test.jsonl:1", "template:threat.4": "b"}})
    with pytest.raises(ConfigError, match=r"test\.jsonl:7: found the template of benign\.jsonl:2"):
        calibrate.check_apart({"benign": benign, "held out": {"template:threat.3": "test.jsonl:7"}})
