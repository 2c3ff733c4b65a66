"""Batches as people and numpy see them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saewatch.client import Firings, decode
from saewatch.client.firings import SHOWN
from saewatch.edge.pb import common_pb2
from tests.client.messages import NOT_KNOWN, batch
from tests.client.test_decode import TABLES


def firings() -> Firings:
    spans = [(0, 3, 2), (NOT_KNOWN, 5, 1), (0, 0, 3)]
    origins = [common_pb2.ORIGIN_COMPUTED, common_pb2.ORIGIN_COMPUTED, common_pb2.ORIGIN_RECOMPUTED]
    message = batch(spans, [(0, 2, 2.5), (1, 0, 2.0), (2, 3, 1.0), (3, 0, 0.1)], origins=origins, missed=[(0, 1, 4)])
    return decode.firings(message, TABLES, "t")


def test_plain_objects() -> None:
    first, second, third, fourth, fifth = firings()
    assert (first.feature, first.label, first.category) == ("violence.p1", "Threats of violence", "vcr")
    assert (first.severity, first.value, first.position, first.prompt) == ("high", 2.5, 3, True)
    assert (first.hook_point, first.time_ns, first.unit) == ("resid_post.7", 10**18, "direction 0")
    assert first.request is not None
    assert (first.request.client_id, second.position, second.prompt) == ("r1", 4, False)
    assert [second.feature, third.feature] == ["greeting.g1", "hesitation.l1"]
    assert (fourth.request, fourth.prompt) == (None, None)
    assert (fifth.feature, fifth.label, fifth.unit) == ("", "", "latent 12"), "below every floor"


def test_what_was_seen() -> None:
    found = firings()
    assert (found.tokens, found.recomputed, found.missed) == (6, 3, {"cached": 4})


def test_an_event_in_which_nothing_fired_is_still_one() -> None:
    assert decode.firings(batch([(0, 0, 1)]), TABLES, "")


def test_columns_make_a_data_frame() -> None:
    frame = pd.DataFrame(firings().columns())
    assert len(frame) == 5
    assert frame.feature.tolist() == ["violence.p1", "greeting.g1", "hesitation.l1", "medical.p1", ""]
    assert frame.request.tolist() == ["r1", "r1", "r1", "", "r1"]
    assert frame.prompt.tolist() == [True, False, False, False, True]
    assert frame.value.dtype == np.float32


def test_a_line() -> None:
    text = str(firings())
    assert "6 tokens seen, missed 4 cached: r1 prompt 3 violence.p1 2.50; r1 answer 4 greeting.g1 2.00" in text
    assert "unknown ? 5 medical.p1 1.00; and 1 more" in text
    assert "\n" not in text
    assert text.count(";") == SHOWN
    assert str(decode.firings(batch([(0, 0, 1)]), TABLES, "")).endswith("1 tokens seen: nothing fired")
