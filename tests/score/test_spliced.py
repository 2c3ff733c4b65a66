"""Other rows in the place of the model's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saewatch.score import Scorer
from saewatch.score.rows import places, rows_at_each
from saewatch.score.spliced import cross_entropy

FIXTURE = Path(__file__).resolve().parents[1] / "fixture"
POINTS = ("resid_post.2", "resid_pre.1", "resid_mid.1", "mlp_in.1", "mlp_out.3", "attn_out.0")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(FIXTURE / "model", FIXTURE / "bundle", progress=False)


@pytest.fixture(scope="module")
def ids(scorer: Scorer) -> list[int]:
    (one,) = scorer.tokens("I will find out where you live.")
    return list(one.prompt)


def test_without_a_change_it_is_what_the_model_says(scorer: Scorer, ids: list[int]) -> None:
    with torch.no_grad():
        expected = float(scorer.model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss)
    assert cross_entropy(scorer.model, "resid_post.2", ids) == pytest.approx(expected * (len(ids) - 1), rel=1e-5)


@pytest.mark.parametrize("point", POINTS)
def test_rows_go_back_where_they_came_from(point: str, scorer: Scorer, ids: list[int]) -> None:
    plain = cross_entropy(scorer.model, point, ids)
    assert cross_entropy(scorer.model, point, ids, lambda x: x) == plain
    seen = list[torch.Tensor]()

    def zeros(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return torch.zeros_like(x)

    assert cross_entropy(scorer.model, point, ids, zeros) != plain
    assert torch.equal(seen[0], rows_at_each(scorer.model, [point], ids)[point])
    assert cross_entropy(scorer.model, point, ids) == plain, "the hook is gone"


def test_places_are_those_of_the_model_each_once(scorer: Scorer) -> None:
    found = places(scorer.model, "resid_post.2")
    assert {"resid_post.0", "resid_pre.0", "mlp_out.1", "attn_out.3", "resid_mid.2"} <= set(found)
    assert "resid_post.2" not in found
    assert "resid_pre.3" not in found, "it is resid_post.2"
    assert "resid_post.0" not in places(scorer.model, "resid_pre.1")
    assert "resid_post.4" not in found
