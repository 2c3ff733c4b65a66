"""Parts of made dictionaries that resemble one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saewatch.core.catalogue import Catalogue, Feature
from saewatch.core.manifest import EncoderSheet
from saewatch.dictionary.bundle import Parts
from saewatch.engine.dictionary_file import Dictionary, sheet_of
from tests import made


def parts(one: Dictionary | None = None, features: Sequence[Feature] | None = None) -> Parts:
    one = one or made.dictionary()
    known = made.features(one.manifest.encoder) if features is None else features
    catalogue = Catalogue(weights=one.manifest.digest, features=tuple(known))
    return Parts(manifest=one.manifest, tensors=made.tensors_of(one), catalogue=catalogue)


def changed(before: Parts, tensors: Mapping[str, Tensor], features: Sequence[Feature] = (), **sheet: Any) -> Parts:
    """With other tensors, and the data sheet that they need."""
    whole = {**before.tensors, **tensors}
    encoder: EncoderSheet = replace(before.manifest.encoder, **sheet)
    sheets = {name: sheet_of(name, tensor) for name, tensor in whole.items()}
    manifest = replace(before.manifest, tensors=sheets, encoder=encoder)
    catalogue = Catalogue(weights=manifest.digest, features=tuple(features))
    return replace(before, manifest=manifest, tensors=whole, catalogue=catalogue, attestations=(), rows={})


def permuted(before: Parts, scale: Tensor | None = None, seed: int = 5) -> tuple[Parts, list[int]]:
    """The same latents in another order, values times ``scale [latents]``; where each old latent went."""
    n = before.manifest.encoder.latents
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    factor = torch.ones(n) if scale is None else scale
    rows = torch.cat([order, torch.arange(n, before.manifest.encoder.rows)])
    times = torch.cat([factor[order], torch.ones(len(rows) - n)])
    tensors = {"W": before.tensors["W"][rows], "lim": before.tensors["lim"][rows]}
    tensors |= {name: before.tensors[name][rows] * times for name in ("s", "c")}
    dtype = before.tensors["W_dec"].dtype
    tensors["W_dec"] = (before.tensors["W_dec"][order].float() / factor[order, None]).to(dtype)
    return changed(before, tensors), torch.argsort(order).tolist()


def rows_of(before: Parts, count: int = 600, seed: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, before.manifest.encoder.d_in, generator=generator)
