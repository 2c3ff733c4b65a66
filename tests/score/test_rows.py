"""Rows at a hook point, against what transformers itself hands out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saewatch.score import Scorer
from saewatch.score.rows import rows_at

FIXTURE = Path(__file__).resolve().parents[1] / "fixture"
TOKENS = [5, 9, 200, 31, 7]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(FIXTURE / "model", FIXTURE / "bundle", progress=False)


def test_the_residual_stream_is_the_list_of_hidden_states(scorer: Scorer) -> None:
    with torch.no_grad():
        states = scorer.model(torch.tensor([TOKENS]), output_hidden_states=True).hidden_states
    for layer in range(3):
        torch.testing.assert_close(rows_at(scorer.model, f"resid_pre.{layer}", TOKENS), states[layer][0])
        torch.testing.assert_close(rows_at(scorer.model, f"resid_post.{layer}", TOKENS), states[layer + 1][0])


def test_no_hook_stays(scorer: Scorer) -> None:
    def hooks() -> int:
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in scorer.model.modules())  # noqa: SLF001 - torch lists them nowhere else

    before = hooks()
    for point in ("mlp_out.1", "resid_mid.1"):
        assert rows_at(scorer.model, point, TOKENS).shape == (len(TOKENS), 128)
    assert hooks() == before


def test_texts_give_their_tokens_and_rows(scorer: Scorer) -> None:
    ((ids, x),) = scorer.rows("I will find out where you live.")
    (text,) = scorer.score("I will find out where you live.").texts
    assert ids == text.ids.tolist()
    assert x.shape == (len(ids), 128)
    torch.testing.assert_close(x, rows_at(scorer.model, scorer.opening.hook_point, ids))
    assert list(scorer.rows([[]])) == []
