"""The generated corpus is seeded, its halves are disjoint, and no request written by hand is in it."""

import json
import re
from collections import Counter

import pytest

from dictionaries.train import corpus
from dictionaries.train.corpus import Generator, Half, families, five_grams

HANDWRITTEN = [
    json.loads(line) for line in (corpus.HERE / "handwritten.jsonl").read_text(encoding="utf-8").splitlines()
]


def drawn(half: Half, seed: int = 0) -> list[corpus.Request]:
    generator = Generator(half, seed=seed)
    return generator.hazards(20) + generator.innocents(500)


def test_same_seed_same_corpus() -> None:
    assert drawn("a") == drawn("a")
    assert drawn("a") != drawn("a", seed=1)


def test_every_family_has_forty_wordings_in_two_halves() -> None:
    assert len(families()) == 16
    for family in families().values():
        lines = [*family.asks, *family.statements]
        assert len({wording for line in lines for wording in line}) >= 40, family.concept


def test_halves_share_no_template() -> None:
    kinds = {"hazard", "behaviour", "hard", "topic"}
    a, b = ({r.template for r in drawn(half) if r.kind in kinds} for half in ("a", "b"))
    assert not a & b


def test_spans_are_the_phrases() -> None:
    for request in drawn("a"):
        for span in request.spans:
            text = (request.reply if span.in_reply else request.prompt)[span.start : span.end]
            assert text == text.strip()
            assert text
        if request.kind in {"hard", "confound", "topic", "reply"}:
            assert not request.spans


def test_counterfactual_pairs_differ_in_the_group_only() -> None:
    for axis, one, other in Generator("b", seed=0).counterfactuals():
        left, right = (re.findall(r"\w+", request.prompt) for request in (one, other))
        assert sum((Counter(left) - Counter(right)).values()) <= 2, (axis, one.prompt, other.prompt)


def test_handwritten_requests_are_enough() -> None:
    counts = Counter(entry["concept"] for entry in HANDWRITTEN)
    assert all(counts[concept] >= 20 for concept in families())
    assert counts[None] >= 120
    assert len({entry["text"] for entry in HANDWRITTEN}) == len(HANDWRITTEN)


@pytest.mark.parametrize("source", ["phrases", "requests"])
def test_handwritten_requests_share_no_five_words_with_the_corpus(source: str) -> None:
    texts = (
        list(corpus.phrases())
        if source == "phrases"
        else [t for h in ("a", "b") for r in drawn(h) for t in (r.prompt, r.reply)]
    )
    known = set().union(*map(five_grams, texts))
    shared = {entry["text"]: grams for entry in HANDWRITTEN if (grams := five_grams(entry["text"]) & known)}
    assert not shared


def test_demo_prompts_share_no_five_words_with_the_corpus_or_the_handwritten() -> None:
    path = corpus.HERE.parents[1] / "deploy" / "demo" / "prompts.jsonl"
    prompts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    known = set().union(*map(five_grams, [*corpus.phrases(), *(entry["text"] for entry in HANDWRITTEN)]))
    assert 60 <= len(prompts) <= 80
    assert {p["kind"] for p in prompts} == {"benign", "safety", "bias", "hard_negative"}
    assert not [p["text"] for p in prompts if five_grams(p["text"]) & known]
