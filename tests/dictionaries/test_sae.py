"""The trainer on data with a known structure, and its pieces."""

from dataclasses import replace

import pytest
import torch

from dictionaries.train import baselines, sae
from saewatch.dictionary import area as measure
from saewatch.dictionary import logistic

RECIPE = sae.Recipe(width=64, k=4, k_start=8, k_steps=20, steps=150, batch=128)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained() -> sae.Autoencoder:
    return sae.train(sparse_rows(2_000), RECIPE, say=False)[0]


def sparse_rows(count: int) -> torch.Tensor:
    """Sums of 3 of 24 directions around a mean, [count, 16], in units far from 1."""
    draw = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(24, 16, generator=draw), dim=1)
    active = torch.rand(count, 24, generator=draw).argsort(dim=1) < 3
    values = active * (1 + torch.rand(count, 24, generator=draw))
    return 40 * (values @ directions) + 7


def test_training_explains_sparse_data_and_is_seeded(trained: sae.Autoencoder) -> None:
    again, _ = sae.train(sparse_rows(2_000), RECIPE, say=False)
    assert torch.equal(trained.W_enc, again.W_enc)
    figures = sae.stated(trained, sparse_rows(3_000)[2_000:])
    assert figures["fvu"] < 0.35
    assert 2 < figures["l0"] < 8


def test_trained_on_from_another_one_it_begins_there_and_stays_near_it(trained: sae.Autoencoder) -> None:
    more = 3 * sparse_rows(3_000)  # of another mean and scale than it was trained on
    gentle = replace(RECIPE, k_start=RECIPE.k, steps=20, rate=1e-4, seed=1)
    begun, _ = sae.train(more, replace(gentle, rate=0.0), start=trained, say=False)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        torch.testing.assert_close(getattr(begun, name), getattr(trained, name), rtol=1e-4, atol=1e-3)
    after, _ = sae.train(more, gentle, start=trained, say=False)
    assert float((after.W_dec * trained.W_dec).sum(1).min()) > 0.98
    assert not torch.equal(after.W_enc, trained.W_enc)
    assert float(after.threshold[0]) > 0


def test_decoder_rows_have_unit_length_and_one_threshold_serves_all(trained: sae.Autoencoder) -> None:
    torch.testing.assert_close(trained.W_dec.norm(dim=1), torch.ones(64))
    assert len(trained.threshold.unique()) == 1
    assert float(trained.threshold[0]) > 0


def test_encode_is_a_jumprelu() -> None:
    made = sae.Autoencoder(torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2), torch.tensor([1.0, 2.0]))
    assert made.encode(torch.tensor([[1.5, 1.5], [1.0, 2.5]])).tolist() == [[1.5, 0.0], [0.0, 2.5]]


def test_frozen_random_fires_as_often_as_the_trained_latents(trained: sae.Autoencoder) -> None:
    x = sparse_rows(4_000)
    random = baselines.frozen_random(trained, x)
    rates = [(made.encode(x) > 0).float().mean(0) for made in (trained, random)]
    live = (rates[0] > 0) & (rates[0] < 0.4)
    torch.testing.assert_close(rates[1][live], rates[0][live], atol=0.01, rtol=0.1)


def test_two_groups_are_told_apart() -> None:
    draw = torch.Generator().manual_seed(0)
    w, b = logistic.two_groups(torch.randn(200, 3, generator=draw) + 4, torch.randn(40, 3, generator=draw), l2=1e-3)
    assert bool((torch.full((1, 3), 4.0) @ w + b > 0).all())
    assert bool((torch.zeros(1, 3) @ w + b < 0).all())


def test_area_counts_ties_half_and_its_interval_holds_it() -> None:
    positive, negative = (torch.tensor(v).double().numpy() for v in ([2.0, 1.0], [1.0, 0.0]))
    assert measure.auroc(positive, negative) == 0.875
    found = measure.area(positive, negative, (["p", "q"], ["r", "s"]))
    assert found.value == 0.875
    assert found.low <= found.value <= found.high
