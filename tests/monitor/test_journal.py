"""What batches came to, by request."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from saewatch.core.batch import Reason
from saewatch.monitor.events import UNKNOWN
from saewatch.monitor.journal import Entry, Journal, Share
from saewatch.monitor.tables import StreamIdentity, WatchTable, join
from tests import fakes

PLACES = st.sampled_from([UNKNOWN, 0, 1, 5, 300])
Span = tuple[int, int, int]
"""Place, tokens of the prompt and of the answer."""
Miss = tuple[int, Reason, int]
Firing = tuple[int, int, int, float]
"""Place, feature, position, value."""


def table(number: int = 1) -> WatchTable:
    known = fakes.dictionary()
    stream = StreamIdentity(number=1, opening=fakes.stream_open(known), dictionary=known)
    return join([fakes.watch_set(known)], number=number, stream=stream)


def entry(spans: list[Span], missed: list[Miss], firings: list[Firing]) -> Entry:
    place, prompt, answer = zip(*spans, strict=True) if spans else ((), (), ())
    miss, reason, tokens = zip(*missed, strict=True) if missed else ((), (), ())
    whose, feature, position, value = zip(*firings, strict=True) if firings else ((), (), (), ())
    return Entry(
        span_place=np.array(place, np.int64),
        prompt_tokens=np.array(prompt, np.int32),
        answer_tokens=np.array(answer, np.int32),
        missed_place=np.array(miss, np.int64),
        missed_reason=np.array(reason, np.uint8),
        missed_tokens=np.array(tokens, np.int32),
        firing_place=np.array(whose, np.int64),
        feature=np.array(feature, np.int32),
        position=np.array(position, np.int32),
        value=np.array(value, np.float32),
    )


def plain(share: Share) -> tuple[int, int, dict[Reason, int], list[tuple[int, int, float]]]:
    feature, position, bits = share.firings.T
    firings = zip(feature.tolist(), position.tolist(), bits.copy().view(np.float32).tolist(), strict=True)
    return share.prompt_tokens, share.answer_tokens, dict(share.missed), list(firings)


@st.composite
def entries(draw: st.DrawFn) -> tuple[list[Span], list[Miss], list[Firing]]:
    spans = draw(st.lists(st.tuples(PLACES, st.integers(0, 9), st.integers(0, 9)), max_size=6))
    missed = draw(st.lists(st.tuples(PLACES, st.sampled_from(Reason), st.integers(1, 9)), max_size=4))
    known = [place for place, _, _ in spans]
    values = st.sampled_from([0.5, 1.0, -2.0])
    firing = st.tuples(st.sampled_from(known or [UNKNOWN]), st.integers(0, 3), st.integers(0, 99), values)
    return spans, missed, draw(st.lists(firing, max_size=8)) if known else []


@given(st.lists(entries(), max_size=5))
def test_each_request_gets_its_share_in_order(parts: list[tuple[list[Span], list[Miss], list[Firing]]]) -> None:
    journal, of = Journal(), table()
    expected: dict[int, tuple[int, int, dict[Reason, int], list[tuple[int, int, float]]]] = {}
    for spans, missed, firings in parts:
        journal.add(of, entry(spans, missed, firings))
        for place, prompt, answer in spans:
            before = expected.get(place, (0, 0, {}, []))
            expected[place] = (before[0] + prompt, before[1] + answer, *before[2:])
        for place, reason, tokens in missed:
            known = expected.setdefault(place, (0, 0, {}, []))[2]
            known[reason] = known.get(reason, 0) + tokens
        for place, feature, position, value in firings:
            expected[place][3].append((feature, position, value))
    expected.pop(UNKNOWN, None)
    assert {place: plain(share) for _, place, share in journal.empty()} == expected
    assert (list(journal.empty()), journal.bytes) == ([], 0)


def test_tables_are_apart() -> None:
    journal, one, other = Journal(), table(1), table(2)
    for of, tokens in ((one, 1), (other, 2), (one, 4)):
        journal.add(of, entry([(3, tokens, 0)], [], []))
    assert journal.bytes > 0
    assert {(of, place): share.prompt_tokens for of, place, share in journal.empty()} == {(one, 3): 5, (other, 3): 2}
