"""The census against a dense encode of the same rows, and its sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saewatch.core.manifest import InputNorm, Manifest
from saewatch.engine import census as module
from saewatch.engine import whole as whole_module
from saewatch.engine.census import Census, sampled
from saewatch.engine.encode import encode, unnormalise
from saewatch.engine.whole import Whole
from tests import made

CASES = [
    ("jumprelu", None, InputNorm()),
    ("topk", 9, InputNorm()),
    ("relu", None, InputNorm(kind="layer_norm", eps=1e-5)),
    ("jumprelu", None, InputNorm(kind="constant_norm_rescale")),
]


@pytest.mark.parametrize(("activation", "k", "norm"), CASES)
def test_the_census_is_what_a_dense_encode_gives(
    monkeypatch: pytest.MonkeyPatch, activation: str, k: int | None, norm: InputNorm
) -> None:
    monkeypatch.setattr(whole_module, "BLOCK", 40)  # blocks that end inside the latents
    monkeypatch.setattr(module, "ROWS", 30)
    one, x = made.dictionary(activation, k=k, norm=norm), made.rows(100)
    whole = Whole.sized(one, decoder=True)
    whole.load(one, "exact")
    census = Census(whole, d_in=made.D_IN, norm=norm)
    excluded = torch.zeros(100, dtype=torch.bool)
    excluded[10:14] = True
    census.add(x.bfloat16(), excluded)
    found = census.take()

    kept = x.bfloat16().float()[~excluded]
    values = encode(kept, one.W, one.limits, one.manifest.encoder)
    latents = values[:, : made.LATENTS]
    assert found.tokens == 96
    assert np.array_equal(found.count, (values > 0).sum(0).numpy())
    assert np.allclose(found.total, values.double().sum(0).numpy(), rtol=1e-5)
    assert one.W_dec is not None
    assert one.b_dec is not None
    l0 = (latents > 0).sum(1).double()
    assert found.l0_mean == pytest.approx(float(l0.mean()))
    assert found.l0_sd == pytest.approx(float(l0.std(correction=0)))
    error = kept - unnormalise(latents @ one.W_dec + one.b_dec, kept, norm)
    assert found.squared_error == pytest.approx(float(error.double().square().sum()), rel=1e-5)
    centred = kept - kept.mean(0)
    assert found.squared_total == pytest.approx(float(centred.double().square().sum()), rel=1e-5)
    assert found.fvu == pytest.approx(found.squared_error / found.squared_total)


def test_outlying_rows_take_no_part() -> None:
    one = made.dictionary()
    whole = Whole.sized(one, decoder=True)
    whole.load(one, "exact")
    census = Census(whole, d_in=made.D_IN, norm=InputNorm())
    x = made.rows(3)
    x[1] = torch.nan
    census.add(x, torch.tensor([False, True, False]))
    found = census.take()
    assert found.tokens == 2
    assert np.isfinite(found.squared_error)
    assert found.count.max() <= 2


def test_taking_the_census_empties_it() -> None:
    one = made.dictionary()
    whole = Whole.sized(one, decoder=False)
    whole.load(one, "exact")
    census = Census(whole, d_in=made.D_IN, norm=InputNorm())
    census.add(made.rows(10), torch.zeros(10, dtype=torch.bool))
    first = census.take()
    assert first.count.any()
    assert first.fvu is None  # without a decoder
    again = census.take()
    assert (again.tokens, again.l0_mean, again.l0_sd, again.squared_total) == (0, 0.0, 0.0, 0.0)
    assert not again.count.any()


def test_a_transcoder_states_no_reconstruction() -> None:
    one = made.dictionary()
    transcoder = type(one)(
        manifest=_as_transcoder(one.manifest), W=one.W, limits=one.limits, W_dec=one.W_dec, b_dec=one.b_dec
    )
    whole = Whole.sized(one, decoder=True)
    whole.load(transcoder, "exact")
    assert not whole.decodes


def _as_transcoder(manifest: Manifest) -> Manifest:
    return type(manifest)(
        kind="transcoder",
        hook_point=manifest.hook_point,
        hook_out="mlp_out.1",
        encoder=manifest.encoder,
        tensors=manifest.tensors,
    )


def test_sampling_is_by_the_rows_number_alone() -> None:
    whole = sampled(1000, 5000, 0.1) + 1000
    parts = [sampled(first, 500, 0.1) + first for first in range(1000, 6000, 500)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert 0.08 * 5000 < len(whole) < 0.12 * 5000
    assert not np.array_equal(sampled(0, 5000, 0.1), sampled(0, 5000, 0.1, seed=1))


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (-1.0, 0), (1.0, 100), (2.0, 100)])
def test_the_shares_ends(share: float, count: int) -> None:
    assert len(sampled(7, 100, share)) == count


def test_sampling_does_not_follow_a_period() -> None:
    hits = np.zeros(16)
    for start in range(0, 64_000, 16):  # steps of sixteen rows: no row of the step may be preferred
        hits[sampled(start, 16, 0.25)] += 1
    assert hits.min() > 0.85 * hits.mean()
    assert hits.max() < 1.15 * hits.mean()
