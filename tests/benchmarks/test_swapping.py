"""Batches judged under the digest of their stream: what is mixed, lost or twice is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.oracle import Expected
from benchmarks.swapping import LOGIT_BAND, Judged, Table, differing, judge, near, table_of
from deploy.demo.chat import Answer
from saewatch.edge.pb.saewatch.v1 import common_pb2, firing_pb2

TABLES = {
    number: Table(weights=weights, unit=np.arange(2), floor=np.zeros(2, np.float32))
    for number, weights in ((1, "old"), (2, "new"))
}


def oracle(factor: float) -> object:
    """Unit 0 fires on every token, with its position plus one times ``factor``."""

    def expected(tokens: Sequence[int]) -> Expected:
        value = np.zeros((len(tokens), 2), np.float32)
        value[:, 0] = factor * (np.arange(len(tokens)) + 1)
        largest = np.full(len(tokens), 100.0, np.float32)
        return Expected(value=value, margin=np.full_like(value, 50.0), largest=largest, norm=largest)

    return expected


ORACLES = {"old": oracle(1.0), "new": oracle(2.0)}
ANSWER = Answer("a", prompt=[5, 6, 7], tokens=[8, 9])  # positions 0 to 3 are fed


def batch(table: int, first: int, values: Sequence[float], *, slot: int = 0) -> firing_pb2.FiringBatch:
    """Rows of the only request from ``first`` on; a value of 0 does not fire."""
    fired = [(row, value) for row, value in enumerate(values) if value]
    return firing_pb2.FiringBatch(
        table=table,
        requests=[common_pb2.Request(client_id="a")],
        span_request=[0],
        span_position=[first],
        span_tokens=[len(values)],
        row=[row for row, _ in fired],
        slot=[slot] * len(fired),
        value=[value for _, value in fired],
    )


def judged(*batches: firing_pb2.FiringBatch, left_out: int = 0) -> Judged:
    return judge({"a": ANSWER}, batches, TABLES, ORACLES, left_out={"a": left_out}, late={})  # type: ignore[arg-type]  # stand-ins


def test_a_request_that_crosses_a_swap_cleanly() -> None:
    found = judged(batch(1, 0, [1, 2]), batch(2, 2, [6, 8]))
    assert (found.mixed, found.lost, found.twice, found.unknown, found.crossed) == (set(), 0, 0, 0, 1)
    assert found.rows == {"old": 2, "new": 2}
    assert (found.tally.compared, found.tally.mismatched) == (4, 0)


@pytest.mark.parametrize(
    "second",
    [
        batch(2, 2, [6, 4]),  # its last row by the old dictionary
        batch(2, 2, [6, 0]),  # a firing is missing
        batch(2, 2, [6, 8], slot=1),  # by another latent
        batch(1, 2, [6, 8]),  # all by the new one, in the old one's stream
    ],
)
def test_a_mixed_batch_is_found_and_the_other_is_not(second: firing_pb2.FiringBatch) -> None:
    found = judged(batch(1, 0, [1, 2]), second)
    assert found.mixed == {1}
    assert found.tally.mismatched > 0


def test_lost_and_twice() -> None:
    assert judged(batch(1, 0, [1, 2])).lost == 2
    assert judged(batch(1, 1, [2, 3, 4]), left_out=1).lost == 0
    twice = judged(batch(1, 0, [1, 2, 3, 4]), batch(2, 3, [8]))
    assert (twice.twice, twice.lost) == (1, 0)
    nobody = judged()
    assert (nobody.unknown, nobody.lost) == (1, 4)


def test_a_request_whose_label_came_late_is_found_by_the_engines_id() -> None:
    whole = batch(1, 0, [1, 2, 3, 4])
    whole.requests[0].client_id, whole.requests[0].engine_id = "", "e"
    found = judge({"a": ANSWER}, [whole], TABLES, ORACLES, left_out={}, late={"a": "e"})  # type: ignore[arg-type]  # stand-ins
    assert (found.unknown, found.lost, found.mixed) == (0, 0, set())


def test_a_table_has_latents_before_directions() -> None:
    table = firing_pb2.FeatureTable(
        slot_kind=[common_pb2.UNIT_KIND_LATENT, common_pb2.UNIT_KIND_DIRECTION], slot_unit=[7, 0], slot_floor=[0, 0.5]
    )
    table.stream.weights_digest = "w"
    found = table_of(table, latents=10)
    assert (found.weights, found.unit.tolist(), found.floor.tolist()) == ("w", [7, 10], [0.0, 0.5])


def test_where_an_answer_leaves_that_without_swaps() -> None:
    plain = {"p": Answer("p", prompt=[1], tokens=[2, 3, 4])}
    answers = {
        "same": Answer("same", prompt=[1], tokens=[2, 3, 4]),
        "other": Answer("other", prompt=[1], tokens=[2, 9, 4]),
        "short": Answer("short", prompt=[1], tokens=[2]),
    }
    assert list(differing(answers, plain, lambda _: "p")) == [([1, 2], 9, 3), ([1, 2], -1, 3)]
    logits = np.zeros(16, np.float32)
    logits[3], logits[9] = 4.0, 4.0 - 4.0 * LOGIT_BAND / 2
    assert near(logits, 9, 3)
    assert not near(logits, 0, 3)
    assert not near(logits, -1, 3), "an answer that ended early is none"
