"""Dictionaries of a stated size for the encoder's benchmark, in our form and in the peers', with the same weights.

Everything is random, never zeros. Rows of W have length 1 and rows of x are normal, so a pre-activation is close to a
standard normal number, and the limit that lets ``l0`` latents of a row fire is its quantile.
"""

from __future__ import annotations

import copy
import statistics
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saewatch.core.catalogue import WatchList
from saewatch.core.manifest import EncoderSheet, Manifest
from saewatch.engine.dictionary_file import Dictionary, sheet_of
from saewatch.engine.encode import VALUE_TOLERANCE, compare, encode, fold, grey_pairs
from tests import made

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the peers' own dependencies
    if "nnsight" not in sys.modules:  # dictionary_learning collects activations with it, which nothing here does
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]  # a module takes any attribute
    from dictionary_learning.dictionary import JumpReluAutoEncoder
    from sparsify.fused_encoder import fused_encoder

SEED = 0
HAS_BF16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
"""Elsewhere a product of bfloat16 is emulated, and takes up to a hundred times as long as one of float32."""
Call = Callable[[Tensor], Any]
"""What is timed: rows ``x [T, d_in]`` to whatever it makes of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What decides a dictionary: latents of ``d_in`` numbers, of which ``l0`` fire on a row, or the k largest."""

    activation: str
    d_in: int
    latents: int
    l0: int = 20
    k: int | None = None
    massive: bool = False
    """A few dimensions are far larger than the others, and nearly the same in all rows, as in language models."""

    @property
    def typical(self) -> Tensor:
        """What all rows have in common, ``[d_in]`` float32."""
        row = torch.zeros(self.d_in)
        if self.massive:
            row[:: self.d_in // len(MASSIVE)][: len(MASSIVE)] = torch.tensor(MASSIVE)
        return row


MASSIVE = (40.0, -120.0, 16.0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Subject:
    """One dictionary: ours, and SAELens' own of the same weights."""

    size: Size
    dictionary: Dictionary
    sae: Any
    """float32, SAELens' default."""

    def rows(self, count: int, *, seed: int = 1) -> Tensor:
        """``[count, d_in]`` float32."""
        return self.size.typical + torch.randn(count, self.size.d_in, generator=torch.Generator().manual_seed(seed))

    def watch(self, count: int) -> WatchList:
        """Latents spread evenly over the dictionary."""
        rows = np.linspace(0, self.size.latents - 1, count).astype(int)
        return WatchList(rows=tuple(rows.tolist()), floors=(0.0,) * count)


def subject(size: Size) -> Subject:
    """Made anew, the same for each call."""
    named = {"jumprelu": "jumprelu", "gated": "gated", "topk": "topk", "relu": "standard"}[size.activation]
    options = {"k": size.k, "rescale_acts_by_decoder_norm": False} if size.k else {}
    sae = made.saelens(named, seed=SEED, d_in=size.d_in, latents=size.latents, **options).requires_grad_(
        requires_grad=False
    )
    sae.W_enc.data /= sae.W_enc.data.norm(dim=0, keepdim=True)
    limit = statistics.NormalDist().inv_cdf(1 - size.l0 / size.latents)
    for name, value in LIMITS[size.activation](limit).items():
        getattr(sae, name).data.fill_(value)
    if size.activation == "gated":
        sae.r_mag.data.normal_(generator=torch.Generator().manual_seed(SEED)).mul_(0.1)
    if size.massive:
        sae.b_enc.data -= size.typical @ sae.W_enc.data
    return Subject(size=size, dictionary=_folded(size, sae), sae=sae)


LIMITS: Mapping[str, Callable[[float], dict[str, float]]] = {
    "jumprelu": lambda limit: {"threshold": limit, "b_enc": 0.0},
    "gated": lambda limit: {"b_gate": -limit, "b_mag": 0.1},
    "relu": lambda limit: {"b_enc": -limit},
    "topk": lambda _: {"b_enc": 0.0},
}
"""The parameters of SAELens' class under which what is above ``limit`` fires."""


def _folded(size: Size, sae: Any) -> Dictionary:
    stored = {name: value.double().numpy() for name, value in sae.named_parameters() if not name.startswith("W_")}
    vectors = {**stored, "decoder_norm": np.ones(size.latents)}
    limits = fold(size.activation, vectors)
    W = sae.W_enc.t().contiguous()
    tensors = {"W": W, **{name: torch.from_numpy(getattr(limits, name)) for name in ("lim", "s", "c")}}
    sheet = EncoderSheet(
        activation=size.activation,
        latents=size.latents,
        directions=0,
        d_in=size.d_in,
        d_out=size.d_in,
        k=size.k,
    )
    manifest = Manifest(
        kind="sae",
        hook_point="resid_post.1",
        encoder=sheet,
        tensors={name: sheet_of(name, tensor) for name, tensor in tensors.items()},
    )
    return Dictionary(manifest=manifest, W=W, limits=limits)


# --- peers ------------------------------------------------------------------------------------------------------------
def peers(one: Subject) -> dict[str, Call]:
    """Other libraries with the same weights, on the CPU. ``product``: the matrix product alone, for what it bounds."""
    W_enc, W, size = one.sae.W_enc.data, one.dictionary.W, one.size
    found: dict[str, Call] = {
        "saelens_f32": one.sae.encode,
        "saelens_f32_nonzero": lambda x: one.sae.encode(x).nonzero(),
        "product_f32": lambda x: x @ W_enc,
    }
    if HAS_BF16:
        half = copy.deepcopy(one.sae).to(torch.bfloat16)
        found["saelens_bf16"] = lambda x: half.encode(x.bfloat16())
    if size.activation == "jumprelu":
        learned = JumpReluAutoEncoder(size.d_in, size.latents).requires_grad_(requires_grad=False)
        learned.W_enc.data, learned.threshold.data = W_enc, one.sae.threshold.data
        found["dictionary_learning_f32"] = learned.encode
    if size.activation == "topk":
        found["sparsify_f32"] = lambda x: fused_encoder(x, W, one.sae.b_enc.data, size.k, "topk")
    return found


# --- is it right ------------------------------------------------------------------------------------------------------
def judged(one: Subject, x: Tensor, found: Tensor, *, columns: Tensor | None = None) -> dict[str, int]:
    """Dense values ``found [T, columns]`` beside the float32 reference, and whether SAELens finds the same."""
    sheet, limits = one.dictionary.manifest.encoder, one.dictionary.limits
    expected = encode(x, one.dictionary.W, limits, sheet)
    grey = grey_pairs(x, one.dictionary.W, limits, sheet)
    theirs = one.sae.encode(x)
    part = slice(None) if columns is None else columns
    verdicts = [compare(found, every[:, part], grey[:, part], whole=every) for every in (expected, theirs)]
    return {
        "compared": sum(verdict.compared for verdict in verdicts),
        "mismatched": sum(verdict.mismatched + (verdict.error_max > VALUE_TOLERANCE) for verdict in verdicts),
        "in_grey_band": sum(verdict.in_grey_band for verdict in verdicts),
    }
