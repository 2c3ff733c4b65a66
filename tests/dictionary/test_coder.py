"""A dictionary as a function, and what can be set aside in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from saewatch.dictionary.coder import Coder
from saewatch.engine.dictionary_file import load_bundle
from tests import made

FIXTURE = Path(__file__).resolve().parents[1] / "fixture"
X = made.rows(50)


def test_values_and_reconstructions_are_those_of_the_library() -> None:
    sae = made.loaded(FIXTURE / "source")
    coder = Coder.of(load_bundle(FIXTURE / "bundle", decoder=True).dictionary)
    x = made.rows(2000, d_in=coder.sheet.d_in, scale=0.7)
    parts = list(coder.both(x))
    assert len(parts) > 1
    values = torch.cat([values[:, : coder.sheet.latents] for _, values, _ in parts])
    decoded = torch.cat([decoded for _, _, decoded in parts if decoded is not None])
    with torch.no_grad():
        expected = sae.encode(x)
        assert int((expected > 0).sum()) > 1000
        torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(decoded, sae.decode(expected), atol=1e-4, rtol=1e-4)


def test_thresholds_are_what_was_stored_and_can_be_put_elsewhere() -> None:
    coder = Coder.of(made.dictionary())
    stored = torch.linspace(-0.4, 0.3, made.LATENTS).abs()
    torch.testing.assert_close(coder.thresholds, stored, atol=1e-5, rtol=1e-5)
    higher = coder.with_thresholds(coder.thresholds * 3)
    values, fewer = (one.encode(X)[:, : made.LATENTS] for one in (coder, higher))
    torch.testing.assert_close(fewer, torch.where(values > 3 * coder.thresholds, values, 0.0))
    assert int((fewer > 0).sum()) < int((values > 0).sum())
    torch.testing.assert_close(coder.pre(X)[values > 0], values[values > 0])


def test_rows_can_be_scaled_shifted_and_firings_left_to_the_largest() -> None:
    coder = Coder.of(made.dictionary("relu", directions=0))
    torch.testing.assert_close(replace(coder, scale=2.0).encode(X), coder.encode(2 * X))
    torch.testing.assert_close(replace(coder, shift=torch.ones(X.shape[1])).encode(X), coder.encode(X + 1))
    few = replace(coder, top=3).encode(X)
    assert int((few > 0).sum(1).max()) <= 3
    assert torch.equal(few.amax(1), coder.encode(X).amax(1))
