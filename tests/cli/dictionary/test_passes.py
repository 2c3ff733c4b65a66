"""What texts come to, one at a time: scores are those of the tap that serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from saewatch.cli.dictionary import passes
from saewatch.cli.dictionary.passes import Rivalry, Scores, Used
from saewatch.core import aggregate
from saewatch.dictionary.baselines import Frozen
from saewatch.dictionary.coder import Coder
from saewatch.engine.dictionary_file import load_bundle
from saewatch.score import Exchange, Scorer

FIXTURE = Path(__file__).resolve().parents[2] / "fixture"
TEXTS = [[1, 300, 12, 40, 7, 99], [1], [5, 6, 7, 800, 20, 30, 31, 32]]
ENTRIES = [
    (f"text {i}", {"tokens": ids, "answer": [44, 45, 46]} if i == 2 else {"tokens": ids}) for i, ids in enumerate(TEXTS)
]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(FIXTURE / "model", FIXTURE / "bundle", progress=False)


@pytest.fixture(scope="module")
def used(scorer: Scorer) -> Used:
    bundle = load_bundle(FIXTURE / "bundle", decoder=True)
    features = bundle.catalogue.features
    return Used(coder=Coder.of(bundle.dictionary), rules=bundle.manifest.exclusions, features=features)


def test_scores_are_those_of_the_tap(scorer: Scorer, used: Used) -> None:
    found = Scores(used, len(ENTRIES))
    for number, text in passes.read(scorer, ENTRIES, "texts", chat=False, cut=False):
        found.add(number, text, used.coder.encode(text.x))
    given = [Exchange(TEXTS[0]), Exchange(TEXTS[1]), Exchange(TEXTS[2], [44, 45, 46])]
    scores = scorer.score(given)
    expected = aggregate.scores(scores.features, *scores.columns())
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(found.scores[0, 1]), "its only token is excluded"
    assert (found.scores > 0).any()
    replies = [index for index, one in enumerate(used.features) if one.scope == "reply"]
    assert found.lengths[replies, 2].tolist() == [2.0] * len(replies), "the last token of an answer is not fed"


def test_baselines_read_the_tokens_of_each_scope(scorer: Scorer, used: Used) -> None:
    random = Frozen(torch.eye(128)[:4], torch.zeros(128), torch.full((4,), 0.1))
    rivalry = Rivalry(used, len(ENTRIES), random)
    read = dict(passes.read(scorer, ENTRIES, "texts", chat=False, cut=False))
    for number, text in read.items():
        rivalry.add(number, text, scorer.tokenizer)
    prompt, reply = rivalry.scopes["prompt"], rivalry.scopes["reply"]
    np.testing.assert_allclose(prompt.means[2], read[2].x[1:8].mean(0).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(reply.means[2], read[2].x[8:10].mean(0).numpy(), rtol=1e-4, atol=1e-5)
    assert np.isnan(reply.means[0]).all()
    assert reply.texts[2] == scorer.tokenizer.decode([44, 45])
    columns = read[2].x[1:8, :4]
    largest = torch.where(columns > 0.1, columns, 0.0).amax(0)
    np.testing.assert_allclose(prompt.random[2], largest.numpy(), rtol=1e-5)
