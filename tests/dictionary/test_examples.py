"""Examples in one pass: what is kept is bounded, drawn evenly, and says what it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from saewatch.core.catalogue import Feature
from saewatch.dictionary.examples import Collector, Seen

LATENT = Feature(id="a.l1", label="a", category="x.a", severity="low", floor=0.5, latents=(1,))
REPLY = Feature(id="b.p1", label="b", category="x.b", severity="low", floor=0.0, direction=0, scope="reply")


def seen(name: str, firings: list[tuple[int, int, float]], *, tokens: int = 20, **more: Any) -> Seen:
    """``firings``: position, feature, value."""
    columns = list(zip(*firings, strict=True)) if firings else [(), (), ()]
    return Seen(
        name=name,
        tokens=tokens,
        prompt_len=more.pop("prompt_len", tokens),
        position=np.array(columns[0], np.int64),
        feature=np.array(columns[1], np.int64),
        value=np.array(columns[2], np.float32),
        **more,
    )


def collector(each: int = 4, *, limits: dict[str, float] | None = None, window: int = 2, seed: int = 0) -> Collector:
    return Collector((LATENT, REPLY), limits=limits or {}, each=each, window=window, seed=seed)


def test_the_peak_and_what_is_around_it() -> None:
    one = collector()
    words = tuple(f" w{number}" for number in range(20))
    one.add(seen("r", [(3, 0, 1.0), (5, 0, 4.0), (6, 0, 2.0), (6, 0, 3.0)], ids=range(20), pieces=words))
    (found, _) = one.found()
    (top,) = found.top
    assert (top.request, top.position, top.value, top.start) == ("r", 5, 4.0, 3)
    assert top.fired == ((3, 1.0), (5, 4.0), (6, 3.0)), "of two latents on a token the larger counts"
    assert (top.ids, top.text) == ((3, 4, 5, 6, 7), " w3 w4 w5 w6 w7")
    assert (found.fired, found.requests) == (1, 1)


def test_top_is_the_largest_of_all_and_says_no_words_twice() -> None:
    """Oracle: sorting everything."""
    one, values = collector(), np.random.default_rng(3).random(500).astype(np.float32) + 0.5
    for number, value in enumerate(values.tolist()):
        one.add(seen(f"r{number}", [(5, 0, value)]))
    found = one.found()[0]
    assert [example.value for example in found.top] == sorted(values.tolist(), reverse=True)[:4]
    again = collector()
    for number in range(9):
        again.add(seen(f"r{number}", [(5, 0, 1.0 + number)], ids=range(20)))
    assert len(again.found()[0].top) == 1


def test_strata_are_quarters_of_the_values_and_every_request_has_the_same_chance() -> None:
    drawn: Counter[str] = Counter()
    for seed in range(60):
        one = collector(seed=seed)
        for number in range(400):
            one.add(seen(f"{number // 100}", [(5, 0, 1.0 + number)]))
        strata = one.found()[0].strata
        assert [len(part.examples) for part in strata] == [4] * 4
        assert all(part.low <= example.value <= part.high for part in strata for example in part.examples)
        assert [part.low for part in strata] == sorted(part.low for part in strata)
        drawn.update(example.request for part in strata for example in part.examples)
    expected = 60 * 16 / 4  # a quarter from each hundred requests, whenever they came
    assert all(0.75 * expected < drawn[f"{number}"] < 1.25 * expected for number in range(4)), drawn


def test_near_misses_are_under_the_limit_or_have_the_word() -> None:
    one = collector(limits={"a.l1": 2.0})
    one.add(seen("fires", [(5, 0, 3.0)], ids=range(100, 120)))
    one.add(seen("under", [(7, 0, 1.5)], ids=range(200, 220)))
    one.add(seen("word", [], ids=[*range(300, 310), 105, *range(311, 320)]))
    one.add(seen("neither", [], ids=range(400, 420)))
    found = one.found()[0]
    assert (found.over, found.fired) == (2.0, 1)
    assert [(near.request, near.position, near.value) for near in found.near] == [("under", 7, 1.5), ("word", 10, 0.0)]
    assert {silent.request for silent in found.silent} == {"word", "neither"}
    assert [example.request for example in found.firing] == ["fires"]


def test_a_word_that_was_not_read_is_no_near_miss() -> None:
    one = collector()
    one.add(seen("fires", [(5, 0, 3.0)], ids=range(100, 120)))
    one.add(seen("word", [], ids=[105] * 20, unread=np.arange(20)))
    assert one.found()[0].near == ()


def test_only_tokens_of_the_scope_count() -> None:
    one = collector()
    one.add(seen("both", [(2, 1, 9.0), (12, 1, 1.0)], prompt_len=10))
    one.add(seen("prompt", [(2, 1, 9.0)], prompt_len=10))
    found = one.found()[1]
    assert [(example.request, example.position, example.value) for example in found.top] == [("both", 12, 1.0)]
    assert [example.request for example in found.silent] == ["prompt"]


def test_the_same_requests_give_the_same_examples() -> None:
    def gathered(seed: int) -> object:
        one = collector(seed=seed)
        for number in range(200):
            one.add(seen(f"r{number}", [(number % 20, 0, 1.0 + number % 7)] if number % 3 else [], ids=range(20)))
        return one.found()

    assert gathered(0) == gathered(0)
    assert gathered(0) != gathered(1)


@pytest.mark.parametrize("requests", [300, 3000])
def test_what_is_kept_does_not_grow(requests: int) -> None:
    one = collector()
    for number in range(requests):
        one.add(seen(f"r{number}", [(5, 0, 1.0 + number)] if number % 2 else [], ids=range(number, number + 20)))
    found = one.found()[0]
    assert (len(found.top), len(found.near), len(found.silent)) == (4, 4, 4)
    assert len(found.firing) <= 4 + 16


def test_an_empty_request_is_counted_and_nothing_else() -> None:
    one = collector()
    one.add(seen("empty", [], tokens=0))
    assert (one.requests, one.tokens, one.found()[0].silent) == (1, 0, ())
