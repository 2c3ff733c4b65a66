"""From batches to what the sinks get."""

from __future__ import annotations

import numpy as np

from saewatch.core.batch import Origin, Reason
from saewatch.monitor.events import UNKNOWN, Observed
from tests import fakes
from tests.monitor.stage import Stage, firings_of, observed


def newly(event: Observed) -> list[str]:
    return sorted(event.table.features[number].id for number in event.newly_fired)


def live(*requests: int) -> Stage:
    stage = Stage().ready()
    for request in requests:
        stage.label(request)
        stage.start(request)
    return stage


def test_spans_keep_their_requests() -> None:
    stage = live(7, 3)
    (event,) = observed(stage.batch([(7, 0, 2), (3, 5, 1), (7, 9, 1)], [(0, 0, 1.0), (2, 1, 2.0), (3, 3, 3.0)]))
    assert firings_of(event) == {
        (fakes.engine_id(7), 0, 0, 1.0),
        (fakes.engine_id(3), 5, 1, 2.0),
        (fakes.engine_id(7), 9, 3, 3.0),
    }


def test_tokens_of_an_unknown_request_are_counted_as_unattributed() -> None:
    stage = live(7)
    spans: list[fakes.Span] = [(7, 0, 1), (99, 0, 3), (99, 0, 2, Origin.RECOMPUTED)]
    (event,) = observed(stage.batch(spans, [(1, 0, 1.0)], missed=[(98, Reason.GAP, 4), (0, Reason.GAP, 5)]))
    assert event.span_request.tolist() == [0, UNKNOWN, UNKNOWN]
    assert event.missed_request.tolist() == [UNKNOWN, UNKNOWN]
    assert stage.faults() == {"unattributed_tokens": 12}
    assert event.batch.rows == 6, "and they stay in the stream"


def test_a_batch_of_losses_only() -> None:
    stage = live(7)
    (event,) = observed(stage.batch([], missed=[(7, Reason.NO_SLOT, 4)]))
    assert (event.batch.rows, event.missed_request.tolist()) == (0, [0])


def test_a_feature_is_new_once_in_each_live_request() -> None:
    stage = live(7, 8)
    (first,) = observed(stage.batch([(7, 0, 2), (8, 0, 1)], [(0, 0, 1.0), (1, 1, 1.0), (2, 0, 1.0), (2, 2, 1.0)]))
    assert newly(first) == ["animals.g1", "animals.g1", "threat.l1"], "two latents of one group are one feature"
    (second,) = observed(stage.batch([(7, 2, 1), (8, 1, 1)], [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0)]))
    assert newly(second) == ["threat.l1"]


def test_another_request_counts_anew() -> None:
    stage = live(7, 8)
    for request in (7, 8, 9):
        stage.label(request)
        stage.start(request)
        (event,) = observed(stage.batch([(request, 0, 1)], [(0, 2, 1.0)]))
        assert newly(event) == ["threat.l1"]
        stage.end(request)


def test_what_is_known_to_be_a_canary_a_shadow_or_a_test_does_not_count() -> None:
    stage = Stage().ready()
    for number, traffic_class in enumerate(("canary", "shadow", "test"), 1):
        stage.label(number, traffic_class=traffic_class)
        stage.start(number)
    stage.start(4, name="plain")
    stage.label(5)
    stage.start(5)
    spans: list[fakes.Span] = [(number, 0, 1) for number in (1, 2, 3, 4, 99, 5)]
    (event,) = observed(stage.batch(spans, [(row, 0, 1.0) for row in range(5)] + [(5, 2, 1.0)]))
    assert newly(event) == ["animals.g1", "threat.l1"], "the unlabelled one and the live one"
    stage = Stage()
    stage.put(fakes.stream_open(stage.known, role="shadow"), fakes.watch_set(stage.known))
    stage.label(7)
    stage.start(7)
    (event,) = observed(stage.batch([(7, 0, 1)], [(0, 0, 1.0)]))
    assert newly(event) == []


def test_a_late_label_makes_its_features_new_when_it_comes() -> None:
    stage = Stage().ready()
    stage.start(7)
    stage.batch([(7, 0, 1)], [(0, 0, 1.0)])
    stage.batch([(7, 1, 1)], [(0, 0, 1.0), (0, 2, 1.0)])
    events = observed(stage.label(7))
    assert [newly(event) for event in events] == [["animals.g1"], ["threat.l1"]]


def test_the_tally_is_booked_whether_a_label_is_there_or_not() -> None:
    stage = Stage().ready()
    stage.start(7, prompt_len=3)
    stage.batch([(7, 1, 4)], [(0, 0, 1.0), (2, 0, 5.0), (3, 3, 2.0)], missed=[(7, Reason.EXCLUDED, 1)])
    (record,) = stage.monitor.records(fakes.key(7))
    ((table, tally),) = record.tallies
    assert (tally.prompt_tokens, tally.answer_tokens, tally.missed) == (2, 2, {Reason.EXCLUDED: 1})
    sums = tally.sums()
    found = {
        (table.features[key // 2].id, key % 2): (count, largest)
        for key, count, largest in zip(sums.key.tolist(), sums.count.tolist(), sums.largest.tolist(), strict=True)
    }
    assert found == {("animals.g1", 0): (1, 1.0), ("animals.g1", 1): (1, 5.0), ("threat.p1", 1): (1, 2.0)}


def test_a_random_stream_agrees_with_the_slow_way() -> None:
    random = np.random.default_rng(3)
    stage = live(*range(1, 9))
    expected: dict[tuple[int, str], int] = {}
    position = dict.fromkeys(range(1, 9), 0)
    for _ in range(60):
        chosen = sorted(random.choice(8, 5, replace=False) + 1)
        lengths = random.integers(1, 4, 5).tolist()
        spans: list[fakes.Span] = [(int(n), position[n], length) for n, length in zip(chosen, lengths, strict=True)]
        owner = [n for n, length in zip(chosen, lengths, strict=True) for _ in range(length)]
        places = sorted({(int(random.integers(len(owner))), int(random.integers(4))) for _ in range(12)})
        stage.batch(spans, [(row, slot, 1.0) for row, slot in places])
        for n, length in zip(chosen, lengths, strict=True):
            position[n] += length
        for row, slot in places:
            name = ("animals.g1", "animals.g1", "threat.l1", "threat.p1")[slot]
            expected[owner[row], name] = expected.get((owner[row], name), 0) + 1
    found: dict[tuple[int, str], int] = {}
    for request in range(1, 9):
        (record,) = stage.monitor.records(fakes.key(request))
        for table, tally in record.tallies:
            sums = tally.sums()
            for key, count in zip(sums.key.tolist(), sums.count.tolist(), strict=True):
                place = (request, table.features[key // 2].id)
                found[place] = found.get(place, 0) + count
            assert tally.prompt_tokens + tally.answer_tokens == position[request]
    assert found == expected


def test_what_is_computed_again_under_another_watch_set_replaces_what_it_gave() -> None:
    stage = live(7)
    stage.batch([(7, 0, 4)], [(0, 0, 1.0), (2, 2, 5.0)])
    stage.put(fakes.watch_set(stage.known, watch=2))
    stage.batch([(7, 1, 3, Origin.RECOMPUTED), (7, 4, 1)], [(1, 2, 7.0)], watch=2)
    (record,) = stage.monitor.records(fakes.key(7))
    (_, before), (_, after) = record.tallies
    assert before.sums().largest.tolist() == [1.0], "position 2 fires once, with its last value"
    assert after.sums().largest.tolist() == [7.0]
    assert (before.recomputed_tokens, after.recomputed_tokens) == (0, 3)
    assert (before.prompt_tokens + before.answer_tokens, after.prompt_tokens + after.answer_tokens) == (4, 1)
