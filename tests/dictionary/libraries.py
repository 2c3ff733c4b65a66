"""Dictionaries of other libraries in the files that those write, and bundles with the same weights folded by hand."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saewatch.core.catalogue import Catalogue
from saewatch.core.manifest import EncoderSheet, Manifest
from saewatch.dictionary.bundle import Parts, write_bundle
from saewatch.engine.dictionary_file import sheet_of
from saewatch.engine.encode import F64, fold

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    from sparsify import SparseCoder, SparseCoderConfig

D_IN, LATENTS, K = 24, 96, 7
CLASSES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
)


def noise(*shape: int, seed: int, by: float = 1.0) -> Tensor:
    """Normally distributed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * by


def sparsify(folder: Path, *, transcode: bool = False) -> Mapping[str, Tensor]:
    """A random dictionary of sparsify in ``folder``; gives its tensors."""
    tensors = {
        "encoder.weight": noise(LATENTS, D_IN, seed=1, by=D_IN**-0.5),
        "encoder.bias": noise(LATENTS, seed=2, by=0.2),
        "W_dec": noise(LATENTS, D_IN, seed=3, by=0.3),
        "b_dec": noise(D_IN, seed=4, by=0.2),
    }
    coder = SparseCoder(D_IN, SparseCoderConfig(num_latents=LATENTS, k=K, transcode=transcode))
    coder.load_state_dict(tensors)
    coder.save_to_disk(folder)
    return tensors


def learned(folder: Path, dict_class: str) -> Mapping[str, Tensor]:
    """A random dictionary of dictionary_learning in ``folder``: ``config.json``, and ``ae.pt``, a pickle."""
    W, b, b_dec = (
        noise(LATENTS, D_IN, seed=1, by=D_IN**-0.5),
        noise(LATENTS, seed=2, by=0.2),
        noise(D_IN, seed=4, by=0.2),
    )
    decoder = torch.nn.functional.normalize(noise(D_IN, LATENTS, seed=3), dim=0)
    linear = {"encoder.weight": W, "encoder.bias": b, "decoder.weight": decoder}
    counts = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.3)}
    jump = {"W_enc": W.t().contiguous(), "b_enc": b, "W_dec": decoder.t().contiguous(), "b_dec": b_dec}
    tensors = {
        "AutoEncoder": {**linear, "bias": b_dec},
        "AutoEncoderNew": {**linear, "decoder.bias": b_dec},
        "GatedAutoEncoder": {
            "encoder.weight": W,
            "decoder.weight": decoder,
            "decoder_bias": b_dec,
            "gate_bias": b,
            "mag_bias": noise(LATENTS, seed=5, by=0.2),
            "r_mag": noise(LATENTS, seed=6, by=0.2),
        },
        "JumpReluAutoEncoder": {**jump, "threshold": noise(LATENTS, seed=5, by=0.3).abs()},
        "AutoEncoderTopK": {**linear, **counts, "b_dec": b_dec},
        "BatchTopKSAE": {**linear, **counts, "b_dec": b_dec},
        "MatryoshkaBatchTopKSAE": {**jump, **counts, "group_sizes": torch.tensor([32, 64])},
    }[dict_class]
    folder.mkdir()
    torch.save(tensors, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": dict_class, "layer": 1, "k": K}}))
    return tensors


def bundle(
    folder: Path,
    activation: str,
    *,
    W: Tensor,
    vectors: Mapping[str, Tensor],
    pre_bias: Tensor | None = None,
    k: int | None = None,
) -> Path:
    """A bundle of an encoder ``W [rows, d_in]``, folded by the table of the engine."""
    arrays: dict[str, F64] = {name: np.asarray(vector.double().numpy()) for name, vector in vectors.items()}
    if activation == "topk":
        arrays["decoder_norm"] = np.ones(len(W))
    before = None if pre_bias is None else np.asarray(pre_bias.double().numpy())
    folded = fold(activation, arrays, W=W, pre_bias=before)
    tensors: dict[str, Any] = {"W": W, **{name: torch.from_numpy(getattr(folded, name)) for name in ("lim", "s", "c")}}
    tensors |= {"W_dec": torch.ones_like(W), "b_dec": pre_bias if pre_bias is not None else torch.zeros(W.shape[1])}
    manifest = Manifest(
        kind="sae",
        hook_point="resid_post.1",
        encoder=EncoderSheet(
            activation=activation, latents=len(W), directions=0, d_in=W.shape[1], d_out=W.shape[1], k=k
        ),
        tensors={name: sheet_of(name, tensor) for name, tensor in tensors.items()},
    )
    catalogue = Catalogue(weights=manifest.digest, features=())
    write_bundle(Parts(manifest=manifest, tensors=tensors, catalogue=catalogue), folder)
    return folder
