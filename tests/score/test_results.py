"""What scoring gives: columns, objects and frames agree with one another and with the sidecar's own sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saewatch.core import aggregate
from saewatch.monitor.tables import WatchTable
from saewatch.monitor.tally import Budget, Tally, raw
from saewatch.score.results import Coverage, Scores, total, unit_of
from tests import fakes
from tests.score.texts import a_table, scored


@pytest.fixture(scope="module")
def table() -> WatchTable:
    return a_table()


def test_coverage_is_an_equality(table: WatchTable) -> None:
    found = scored(table, not_finite=1, cut=3).coverage
    assert (found.fed, found.encoded, found.missed) == (6, 5, {"excluded": 1})
    assert found.share == 5 / 6
    text = str(found)
    assert text == (
        "coverage 83.3% of 6 tokens fed (missed: 1 excluded); 1 of them NOT FINITE; 3 tokens cut off beforehand"
    )
    assert str(Coverage(fed=0, encoded=0)) == "coverage 100.0% of 0 tokens fed (missed: none)"
    both = total([found, Coverage(fed=4, encoded=4)])
    assert (both.fed, both.encoded, dict(both.missed), both.not_finite, both.cut) == (10, 9, {"excluded": 1}, 1, 3)


def test_tokens_carry_what_fired_on_them(table: WatchTable) -> None:
    tokens = scored(table).tokens
    assert [token.text for token in tokens] == ["a", " b", " c", " d", " e", " f", "."]
    assert [token.prompt for token in tokens] == [True] * 4 + [False] * 3
    assert [token.encoded for token in tokens] == [False, *[True] * 5, False], "excluded, and never fed"
    assert [(one.feature.id, one.unit, one.value) for one in tokens[1].firings] == [
        ("animals.g1", "latent 1", 2.0),
        ("threat.l1", "latent 3", 0.5),
    ]
    assert [(one.feature.id, one.unit) for one in tokens[5].firings] == [("threat.p1", "direction 0")]
    assert tokens[2].firings == ()
    assert unit_of(table, 1) == "latent 2"


def test_peaks_are_those_of_a_served_requests_record(table: WatchTable) -> None:
    one = scored(table)
    tally = Tally(prompt_len=4, budget=Budget())
    tally.add(raw(one.feature, one.position, one.value))
    sums = tally.sums()
    found = [
        (2 * table.features.index(peak.feature) + (peak.part == "answer"), peak.firings, peak.value, peak.position)
        for peak in one.peaks
    ]
    columns = (sums.key, sums.count, sums.largest, sums.peak)
    assert found == list(zip(*(column.tolist() for column in columns), strict=True))
    assert [(peak.feature.id, peak.part, peak.first) for peak in one.peaks] == [
        ("animals.g1", "prompt", 1),
        ("animals.g1", "answer", 4),
        ("threat.l1", "prompt", 1),
        ("threat.p1", "answer", 4),
    ]


def test_columns_run_over_all_texts(table: WatchTable) -> None:
    scores = Scores([scored(table), scored(table, [], index=1), scored(table, [(2, 3, 9.0)], index=2)], table)
    assert scores.text.tolist() == [0] * 6 + [2]
    assert scores.position.tolist() == [1, 1, 3, 4, 4, 5, 2]
    assert scores.token.tolist() == [11, 11, 13, 14, 14, 15, 12]
    assert [scores.features[index].id for index in scores.feature[-2:]] == ["threat.p1", "threat.p1"]
    assert scores.value.dtype == np.float32
    assert (scores.coverage.fed, scores.coverage.missed) == (18, {"excluded": 3})


def test_frames_have_words(table: WatchTable) -> None:
    scores = Scores([scored(table), scored(table, [(2, 3, 9.0)], index=5)], table)
    frame = scores.frame()
    assert list(frame) == [
        "text", "position", "token_id", "token", "prompt", "feature", "label", "label_review", "category", "unit",
        "value",
    ]  # fmt: skip
    assert frame.iloc[-1].to_dict() == {
        "text": 5,
        "position": 2,
        "token_id": 12,
        "token": " c",
        "prompt": True,
        "feature": "threat.p1",
        "label": "label of threat.p1",
        "label_review": "",
        "category": "vcr",
        "unit": "direction 0",
        "value": 9.0,
    }
    assert frame["prompt"].tolist() == [True, True, True, False, False, False, True]
    summary = scores.summary()
    assert summary[["text", "feature", "part", "firings", "value", "position", "token"]].to_numpy().tolist()[-2:] == [
        [0, "threat.p1", "answer", 2, 7.5, 5, " f"],
        [5, "threat.p1", "prompt", 1, 9.0, 2, " c"],
    ]


def test_nothing_has_the_same_columns(table: WatchTable) -> None:
    full, empty = Scores([scored(table)], table), Scores([], table)
    for of in (Scores.frame, Scores.summary):
        assert list(of(empty)) == list(of(full))
        assert of(empty).dtypes.to_dict() == of(full).dtypes.to_dict()
        assert len(of(empty)) == 0
    assert empty.coverage.share == 1.0


def test_a_feature_fires_above_its_own_floor_only() -> None:
    """A latent that two features read is emitted at the lower of their floors."""
    low, high = fakes.feature("low.l1", latents=(1,)), fakes.feature("high.l1", latents=(1,), floor=3.0)
    table = a_table((high, low))
    found = scored(table, [(1, 0, 2.0), (2, 0, 4.0)])
    assert [[one.feature.id for one in token.firings] for token in found.tokens[1:3]] == [
        ["low.l1"],
        ["high.l1", "low.l1"],
    ]


def test_columns_give_the_scores_of_the_peaks(table: WatchTable) -> None:
    texts = [scored(table, index=7), scored(table, (), index=9), scored(table, ((2, 3, 4.0),), index=3)]
    requests, firings = Scores(texts, table).columns()
    assert requests.tokens("all").tolist() == [5, 5, 5]
    for part, scope in (("prompt", "prompt"), ("answer", "reply")):
        features = [replace(one, scope=scope) for one in table.features]
        found = aggregate.scores(features, requests, firings)
        peaks = [{peak.feature.id: peak.value for peak in one.peaks if peak.part == part} for one in texts]
        assert found.T.tolist() == [[of.get(one.id, 0.0) for one in table.features] for of in peaks]


def test_columns_of_nothing(table: WatchTable) -> None:
    assert aggregate.scores(table.features, *Scores([], table).columns()).shape == (3, 0)
