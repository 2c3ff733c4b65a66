from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from saewatch.core import aggregate, catalogue
from saewatch.core.aggregate import Aggregation, Firings, Requests, scores
from saewatch.core.catalogue import Feature, read_catalogue
from saewatch.core.errors import ConfigError, RecordError
from tests import fakes


def feature(aggregation: str = "max", **what: Any) -> Feature:
    common = {"label": "made", "category": "vcr", "severity": "low", "floor": 0.0, "latents": (1,)}
    return Feature(**{"id": "threat.l1", **common, "aggregation": aggregation, **what})


@dataclass(frozen=True)
class Text:
    """One request: for each token what fired (unit, value), or None where it takes no part."""

    tokens: tuple[tuple[tuple[int, float], ...] | None, ...]
    prompt_len: int = 0


def columns(texts: Sequence[Text], features: int = 1) -> tuple[Requests, Firings]:
    rows = [
        (request, position, number, unit, value)
        for number in range(features)
        for request, text in enumerate(texts)
        for position, fired in enumerate(text.tokens)
        for unit, value in fired or ()
    ]
    shuffled = [rows[i] for i in np.random.default_rng(len(rows)).permutation(len(rows))]
    columns = np.array(shuffled, np.float64).reshape(-1, 5)
    names = ("request", "position", "feature", "unit")
    whole: dict[str, Any] = {name: columns[:, i].astype(np.int64) for i, name in enumerate(names)}
    scored = np.array([fired is not None for text in texts for fired in text.tokens], bool)
    requests = Requests.of([len(text.tokens) for text in texts], [text.prompt_len for text in texts], scored)
    return requests, Firings(**whole, value=columns[:, 4].astype(np.float32))


# --- the slow, obvious reference --------------------------------------------------------------------------------------
def plainly(spelt: str, values: list[float]) -> float:
    """The aggregate of a request's scored values in their order."""
    if not values:
        return math.nan
    descending = sorted(values, reverse=True)
    if spelt == "max":
        return descending[0]
    if spelt == "mean":
        return math.fsum(values) / len(values)
    if spelt.startswith("top"):
        most = int(spelt[3:])
        return math.fsum(descending[:most]) / most
    if spelt.startswith("run"):
        k = n = int(spelt[3:])
    else:
        k, n = map(int, spelt.split("of"))
    padded = values + [0.0] * n  # a short request is filled up
    return max(sorted(padded[i : i + n], reverse=True)[k - 1] for i in range(len(values)))


def expected(one: Feature, text: Text) -> float:
    parts = {"all": (0, len(text.tokens)), "prompt": (0, text.prompt_len), "reply": (text.prompt_len, len(text.tokens))}
    inside = [fired for fired in text.tokens[slice(*parts[one.scope])] if fired is not None]
    if not one.head:
        return plainly(one.aggregation, [max((value for _, value in fired), default=0.0) for fired in inside])
    each = [plainly(one.aggregation, [dict(fired).get(unit, 0.0) for fired in inside]) for unit in range(len(one.head))]
    return sum(weight * math.log1p(value) for weight, value in zip(one.head, each, strict=True))


VALUE = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 7.0])
FIRED = st.dictionaries(st.integers(0, 2), VALUE, max_size=3).map(lambda found: tuple(found.items()))
TOKENS = st.lists(st.none() | FIRED, max_size=9).map(tuple)
TEXTS = st.lists(st.builds(Text, tokens=TOKENS, prompt_len=st.integers(0, 9)), min_size=1, max_size=6)
SPELT = st.sampled_from(["max", "mean", "top1", "top2", "top5", "1of3", "2of3", "3of3", "2of5", "4of8", "run1", "run3"])
FEATURE = st.builds(
    lambda spelt, scope, head: feature(spelt, scope=scope, head=head, id="threat.g1", latents=(1, 4, 9)),
    SPELT,
    st.sampled_from(catalogue.SCOPES),
    st.sampled_from([(), (0.5, -0.25, 2.0)]),
)


@given(TEXTS, st.lists(FEATURE, min_size=1, max_size=4))
@example([Text(())], [feature()])
def test_scores_are_those_of_the_slow_reference(texts: list[Text], features: list[Feature]) -> None:
    found = scores(features, *columns(texts, len(features)))
    wanted = np.array([[expected(one, text) for text in texts] for one in features])
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@given(TOKENS, SPELT.filter(lambda spelt: spelt != "mean"), st.none() | FIRED)
def test_a_token_more_never_makes_a_score_smaller_but_for_the_mean(tokens: Any, spelt: str, more: Any) -> None:
    one = feature(spelt, id="threat.g1", latents=(1, 4, 9))
    before, after = scores([one], *columns([Text(tokens), Text((*tokens, more))]))[0]
    assert math.isnan(before) or after >= before


@given(TEXTS, FEATURE)
def test_a_score_has_the_same_bits_whatever_it_is_computed_together_with(texts: list[Text], one: Feature) -> None:
    whole = scores([one], *columns(texts))[0]
    alone = [scores([one], *columns([text]))[0, 0] for text in texts]
    np.testing.assert_array_equal(whole, alone)


def test_windows_that_are_looked_at_in_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(1)
    values = [tuple(((0, float(v)),) if v > 0.3 else () for v in chance.random(200)) for _ in range(5)]
    given_columns = columns([Text(tokens) for tokens in values])
    whole = scores([feature("7of20")], *given_columns)
    monkeypatch.setattr(aggregate, "_CELLS", 50)
    np.testing.assert_array_equal(scores([feature("7of20")], *given_columns), whole)


def test_a_token_that_takes_no_part_does_not_split_a_run() -> None:
    fired = ((0, 2.0),)
    together, apart, split = Text((fired, fired)), Text((fired, None, fired)), Text((fired, (), fired))
    np.testing.assert_array_equal(scores([feature("run2")], *columns([together, apart, split])), [[2.0, 2.0, 0.0]])


def test_a_request_without_a_scored_token_has_no_score() -> None:
    fired, silent = ((0, 2.0),), ()
    requests, firings = columns([Text((None, None)), Text((silent,)), Text((fired,), prompt_len=1)])
    found = scores([feature(), feature(scope="reply")], requests, firings)
    np.testing.assert_array_equal(found, [[np.nan, 0.0, 2.0], [np.nan, 0.0, np.nan]])
    assert requests.tokens("all").tolist() == [0, 1, 1]


# --- spelling ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "kind", "k", "n"),
    [
        ("max", "top", 1, 1),
        ("mean", "mean", 1, 1),
        ("top999", "top", 999, 1),
        ("3of10", "window", 3, 10),
        ("run4", "window", 4, 4),
    ],
)
def test_every_spelling_of_the_catalogue_is_read(text: str, kind: str, k: int, n: int) -> None:
    assert aggregate.read(text) == Aggregation(kind, k, n)
    known = fakes.dictionary([replace(fakes.FEATURES[1], aggregation=text)])
    assert read_catalogue(known.catalogue.data(), known.manifest).features[0].aggregation == text


@pytest.mark.parametrize("text", ["", "MAX", "top0", "top", "top1000", "5of3", "3 of 10", "run", "run٣", "maxx"])
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="aggregation"):
        aggregate.read(text)


# --- contradictions ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"position": 1}, "a token that takes no part"),
        ({"position": 2}, "outside of its request"),
        ({"position": -1}, "outside of its request"),
        ({"request": 1}, r"firings\.request"),
        ({"feature": 1}, r"firings\.feature"),
        ({"value": 0.0}, "a value above 0"),
        ({"value": math.nan}, "NaN"),
    ],
)
def test_firings_that_contradict_the_requests_are_refused(changed: dict[str, float], said: str) -> None:
    requests = Requests.of([2], [0], np.array([True, False]))
    row = {"request": 0, "position": 0, "feature": 0, "unit": 0, "value": 1.0, **changed}
    whole: dict[str, Any] = {
        name: np.array([value], np.float32 if name == "value" else np.int64) for name, value in row.items()
    }
    with pytest.raises(RecordError, match=said):
        scores([feature()], requests, Firings(**whole))
