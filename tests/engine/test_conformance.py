"""The start-up proof: stored rows, the oracle's stored answers, and this encoder."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from saewatch.core.errors import SelfTestFailed
from saewatch.engine.conformance import full_watch, load_rows, self_check
from saewatch.engine.dictionary_file import Bundle, load_bundle
from saewatch.engine.encoder import Encoder
from saewatch.engine.whole import Whole
from tests import made

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the oracle's own dependencies
    from saewatch.dictionary.convert import import_source
    from saewatch.dictionary.oracle import SAELENS


@pytest.fixture(params=["jumprelu", "topk"])
def bundle(request, tmp_path: Path) -> Bundle:
    options = {"k": 7} if request.param == "topk" else {"apply_b_dec_to_input": True}
    source = made.source(tmp_path / "source", made.saelens(request.param, **options), directions=2, half=True)
    import_source(source, made.model(tmp_path / "model"), tmp_path / "bundle", oracle=SAELENS)
    return load_bundle(tmp_path / "bundle")


def encoder_of(bundle: Bundle, *, whole_watch: bool = True) -> Encoder:
    sheet = bundle.manifest.encoder
    whole = Whole.sized(bundle.dictionary, decoder=False) if sheet.k else None
    found = Encoder(rows_max=512, d_in=sheet.d_in, slots_max=sheet.rows, whole=whole)
    watch = full_watch(sheet) if whole_watch else bundle.catalogue.watch_list(bundle.manifest)
    found.load(bundle.dictionary, watch)
    return found


@pytest.mark.parametrize("whole_watch", [True, False])
def test_a_sound_encoder_agrees_with_the_oracle(bundle, whole_watch):
    verdict = self_check(encoder_of(bundle, whole_watch=whole_watch), bundle)
    assert verdict is not None
    assert verdict.oracle.startswith("sae-lens 6.")
    assert verdict.compared > (300 if whole_watch else 10)
    assert verdict.good


def test_stored_rows_fire_latents_and_directions(bundle):
    stored = load_rows(bundle)
    assert stored is not None
    _, x, dense = stored
    assert x.shape == (64, made.D_IN)
    latents = bundle.manifest.encoder.latents
    assert (dense[:, :latents] > 0).any(dim=1).all()
    assert (dense[:, latents:] > 0).any()


def test_a_bundle_without_rows_proves_nothing(tmp_path):
    plain = made.bundle(tmp_path / "bundle")
    assert self_check(encoder_of(plain), plain) is None


BREAKS = {
    "limits": lambda e: e._lim.mul_(0.5),
    "scale": lambda e: e._s.mul_(1.001),
    "offset": lambda e: e._c.add_(0.01),
    "matrix": lambda e: e._W.copy_(e._W.roll(1, dims=1)),
    "precision": lambda e: e._W.copy_(e._W.to(torch.float8_e4m3fn).float()),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_broken_encoder_is_refused(tmp_path, fault):
    source = made.source(tmp_path / "source", made.saelens("jumprelu"), directions=2)
    import_source(source, made.model(tmp_path / "model"), tmp_path / "bundle", oracle=SAELENS)
    bundle = load_bundle(tmp_path / "bundle")
    encoder = encoder_of(bundle)
    BREAKS[fault](encoder)
    with pytest.raises(SelfTestFailed, match=r"encoder of sha256:\w+: found .* expected what sae-lens 6.\d+.\d+ gives"):
        self_check(encoder, bundle)


def test_rows_that_the_sheet_excludes_take_no_part(tmp_path):
    source = made.source(tmp_path / "source", made.saelens("jumprelu"), max_norm=0.001)
    import_source(source, made.model(tmp_path / "model"), tmp_path / "bundle", oracle=SAELENS)
    bundle = load_bundle(tmp_path / "bundle")
    verdict = self_check(encoder_of(bundle), bundle)
    assert verdict is not None
    assert verdict.compared == 0
    assert np.isfinite(verdict.error_max)
