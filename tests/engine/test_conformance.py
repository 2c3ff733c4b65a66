"""The start-up proof: stored rows, the oracle's stored answers, and this encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saewatch.core.errors import SelfTestFailed
from saewatch.dictionary.convert import import_source
from saewatch.engine import conformance
from saewatch.engine.conformance import agree_served, full_watch, load_rows, reference_of, self_check
from saewatch.engine.dictionary_file import Bundle, Dictionary, load_bundle
from saewatch.engine.encode import Folded
from saewatch.engine.encoder import Encoder
from saewatch.engine.slab import Slab
from saewatch.engine.whole import Whole
from tests import made


@pytest.fixture(params=["jumprelu", "topk"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    options = {"k": 7} if request.param == "topk" else {"apply_b_dec_to_input": True}
    source = made.source(tmp_path / "source", made.saelens(request.param, **options), directions=2, half=True)
    import_source(source, made.model(tmp_path / "model"), tmp_path / "bundle", oracle=made.ORACLE)
    return load_bundle(tmp_path / "bundle")


def encoder_of(bundle: Bundle, *, whole_watch: bool = True) -> Encoder:
    sheet = bundle.manifest.encoder
    whole = Whole.sized(bundle.dictionary, decoder=False) if sheet.k else None
    found = Encoder(rows_max=512, d_in=sheet.d_in, slots_max=sheet.rows, whole=whole)
    watch = full_watch(sheet) if whole_watch else bundle.catalogue.watch_list(bundle.manifest)
    found.load(bundle.dictionary, watch)
    return found


@pytest.mark.parametrize("whole_watch", [True, False])
def test_a_sound_encoder_agrees_with_the_oracle(bundle: Bundle, whole_watch: bool) -> None:
    verdict = self_check(encoder_of(bundle, whole_watch=whole_watch), bundle)
    assert verdict is not None
    assert verdict.oracle.startswith("sae-lens 6.")
    assert verdict.compared > (300 if whole_watch else 4)
    assert verdict.good


def test_stored_rows_fire_latents_and_directions(bundle: Bundle) -> None:
    stored = load_rows(bundle)
    assert stored is not None
    _, x, dense = stored
    assert x.shape == (64, made.D_IN)
    latents = bundle.manifest.encoder.latents
    assert (dense[:, :latents] > 0).any(dim=1).all()
    assert (dense[:, latents:] > 0).any()


def test_rows_in_parts_give_what_they_give_together(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(bundle)
    whole = self_check(encoder, bundle)
    assert whole is not None
    for pairs in (7 * encoder.slots, 1):
        monkeypatch.setattr(conformance, "PAIRS", pairs)
        parts = self_check(encoder, bundle)
        assert parts is not None
        assert (parts.compared, parts.mismatched, parts.in_grey_band) == (
            whole.compared,
            whole.mismatched,
            whole.in_grey_band,
        )


def test_a_reference_needs_no_file_again(bundle: Bundle) -> None:
    encoder = encoder_of(bundle)
    reference = reference_of(encoder, bundle)
    assert reference is not None
    for file in bundle.folder.rglob("*.safetensors"):
        file.unlink()
    assert conformance.compared(encoder, reference).good


def test_a_bundle_without_rows_proves_nothing(tmp_path: Path) -> None:
    plain = made.bundle(tmp_path / "bundle")
    assert self_check(encoder_of(plain), plain) is None


def broken(one: Dictionary, fault: str) -> Dictionary:
    """What an encoder would hold if this had gone wrong on the way to the device."""
    columns = {name: getattr(one.limits, name).copy() for name in ("lim", "s", "c")}
    changed = {
        "limit": {"lim": columns["lim"] * 0.5},
        "lower": {"lim": columns["lim"] - np.float32(0.1)},  # all that fires fires, and more beside it
        "scale": {"s": columns["s"] * np.float32(1.001)},
    }
    columns |= changed.get(fault, {})
    W = {"transposed": one.W.roll(1, dims=1), "precision": one.W.to(torch.float8_e4m3fn).float()}.get(fault, one.W)
    return replace(one, W=W, limits=Folded(**columns))


@pytest.mark.parametrize("fault", ["limit", "lower", "scale", "transposed", "precision"])
def test_a_broken_encoder_is_refused(tmp_path: Path, fault: str) -> None:
    source = made.source(tmp_path / "source", made.saelens("jumprelu"), directions=2)
    import_source(source, made.model(tmp_path / "model"), tmp_path / "bundle", oracle=made.ORACLE)
    bundle = load_bundle(tmp_path / "bundle")
    encoder = encoder_of(bundle)
    encoder.load(broken(bundle.dictionary, fault), encoder.watch_list)
    with pytest.raises(SelfTestFailed, match=r"encoder of sha256:\w+: found .* expected what sae-lens 6.\d+.\d+ gives"):
        self_check(encoder, bundle)


def test_rows_of_the_engines_type_go_through_other_kernels(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(bundle)
    reference, encode = reference_of(encoder, bundle), Encoder.encode
    assert reference is not None
    types: list[torch.dtype] = []

    def differs(self: Encoder, x: torch.Tensor, **step: Any) -> Slab:
        types.append(x.dtype)
        return encode(self, x.float() * (1.001 if x.dtype == torch.bfloat16 else 1.0), **step)

    agree_served(encoder, reference, bundle, torch.bfloat16)  # without kernels there is one product
    monkeypatch.setattr(Encoder, "launched", False)
    encoder.fused = True
    agree_served(encoder, reference, bundle, torch.bfloat16)
    monkeypatch.setattr(Encoder, "encode", differs)
    agree_served(encoder, reference, bundle, torch.float32)
    assert types == []
    with pytest.raises(SelfTestFailed, match="expected what itself in float32 gives"):
        agree_served(encoder, reference, bundle, torch.bfloat16)
    assert set(types) == {torch.float32, torch.bfloat16}


def test_rows_that_the_sheet_excludes_take_no_part(tmp_path: Path) -> None:
    source = made.source(tmp_path / "source", made.saelens("jumprelu"), max_norm=0.001)
    import_source(source, made.model(tmp_path / "model"), tmp_path / "bundle", oracle=made.ORACLE)
    bundle = load_bundle(tmp_path / "bundle")
    verdict = self_check(encoder_of(bundle), bundle)
    assert verdict is not None
    assert verdict.compared == 0
    assert np.isfinite(verdict.error_max)
