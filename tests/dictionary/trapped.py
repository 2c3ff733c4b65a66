"""A dictionary read wrongly in every usual way: its tensors or its data sheet changed as the mistake would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saewatch.core.attestation import Attestation
from saewatch.core.catalogue import Catalogue
from saewatch.core.manifest import Exclusions, InputNorm
from saewatch.dictionary.bundle import Parts
from saewatch.engine.dictionary_file import sheet_of

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Change:
    """What a mistake makes of a dictionary."""

    tensors: Tensors = field(default_factory=dict)
    encoder: Mapping[str, Any] = field(default_factory=dict)
    rules: Exclusions | None = None
    point: str = ""


def planted(before: Parts, change: Change, *, features: bool = True) -> Parts:
    """The dictionary after a mistake: what its authors state is as it was; no rows say what it should give."""
    tensors = {**before.tensors, **change.tensors}
    manifest = replace(
        before.manifest,
        tensors={name: sheet_of(name, tensor) for name, tensor in tensors.items()},
        encoder=replace(before.manifest.encoder, **change.encoder),
        exclusions=before.manifest.exclusions if change.rules is None else change.rules,
        hook_point=change.point or before.manifest.hook_point,
    )
    kept = [replace(one, weights=manifest.digest) for one in before.attestations if one.kind in {"stated", "fit"}]
    known = before.catalogue.features if features else ()
    catalogue = Catalogue(weights=manifest.digest, features=known)
    attestations: list[Attestation] = kept
    return replace(before, manifest=manifest, tensors=tensors, catalogue=catalogue, attestations=attestations, rows={})


# --- pieces -----------------------------------------------------------------------------------------------------------
def latents(of: Parts) -> int:
    return of.manifest.encoder.latents


def column(of: Parts, name: str) -> Tensor:
    """A column's latents, as a copy of the whole."""
    return of.tensors[name].clone().float()


def thresholds(of: Parts) -> Tensor:
    lim, s, c = (column(of, name)[: latents(of)] for name in ("lim", "s", "c"))
    return s * lim + c


def with_thresholds(of: Parts, wanted: Tensor) -> dict[str, Tensor]:
    lim, n = column(of, "lim"), latents(of)
    lim[:n] = (wanted.clamp_min(0) - column(of, "c")[:n]) / column(of, "s")[:n]
    return {"lim": lim}


def encoder_rows(of: Parts, rows: Tensor) -> dict[str, Tensor]:
    W = of.tensors["W"].clone()
    W[: latents(of)] = rows.to(W.dtype)
    return {"W": W}


def shifted(of: Parts, sign: float) -> dict[str, Tensor]:
    """Encoders that see ``x + sign * b_dec``: the pre-activations move by ``W b_dec``."""
    n = latents(of)
    wb = (of.tensors["W"][:n].float() @ of.tensors["b_dec"].float()) * sign
    lim, c = column(of, "lim"), column(of, "c")
    lim[:n] -= wb
    c[:n] += column(of, "s")[:n] * wb
    return {"lim": lim, "c": c}


def scaled(of: Parts, factor: float) -> dict[str, Tensor]:
    """A dictionary of rows ``factor * x``."""
    made = encoder_rows(of, of.tensors["W"][: latents(of)].float() / factor)
    made |= {name: (of.tensors[name].float() * factor).to(of.tensors[name].dtype) for name in ("W_dec", "b_dec")}
    return made


def norms(of: Parts) -> Tensor:
    """Made decoder norms around 1, one for each latent."""
    return torch.from_numpy(np.exp(np.random.default_rng(3).normal(size=latents(of)) * 0.7)).float()


def longer(of: Parts) -> Parts:
    """The same function with decoder rows of these norms: the encoder's values are divided by them."""
    n, by = latents(of), norms(of)
    tensors = encoder_rows(of, of.tensors["W"][:n].float() / by[:, None])
    lim, c = column(of, "lim"), column(of, "c")
    lim[:n] /= by
    c[:n] /= by
    W_dec = of.tensors["W_dec"]
    tensors |= {"lim": lim, "c": c, "W_dec": (W_dec.float() * by[:, None]).to(W_dec.dtype)}
    return planted(of, Change(tensors))


def folded_without_threshold(of: Parts) -> Change:
    """Decoder norms folded into encoder and bias, and thresholds left as they were before."""
    before, n = longer(of), latents(of)
    c = column(of, "c")
    lim = column(of, "lim")
    lim[:n] = (thresholds(before) - c[:n]) / column(of, "s")[:n]
    return Change({"lim": lim, "c": c})


def typical(of: Parts, x: Tensor) -> float:
    """The constant that brings rows to the norm of the root of their width."""
    return float(x.shape[1] ** 0.5 / torch.linalg.vector_norm(x, dim=1).mean())


def mistakes(of: Parts, x: Tensor) -> Mapping[str, Callable[[], Change]]:
    """Every mistake that figures show, by the name that it is to be called by."""
    unit = typical(of, x)
    rules = of.manifest.exclusions
    ten = longer(of)
    return {
        "threshold_lost": lambda: Change(with_thresholds(of, torch.zeros(latents(of)))),
        "threshold_too_high": lambda: Change(with_thresholds(of, thresholds(of) * 2)),
        "log_threshold_read_as_plain": lambda: _log_read_as_plain(of),
        "plain_threshold_read_as_log": lambda: Change(with_thresholds(of, thresholds(of).clamp(max=80.0).exp())),
        "topk_for_threshold": lambda: Change(
            {**with_thresholds(of, torch.zeros(latents(of)))}, {"activation": "topk", "k": 30}
        ),
        "normalisation_lost": lambda: Change(scaled(of, unit)),
        "normalised_twice": lambda: Change(scaled(of, 1 / unit)),
        "normalised_per_token": lambda: Change({}, {"input_norm": InputNorm(kind="constant_norm_rescale")}),
        "pre_bias_lost": lambda: Change(shifted(of, 1.0)),
        "pre_bias_added": lambda: Change(shifted(of, -1.0)),
        "decoder_norm_not_divided": lambda: Change({"W_dec": ten.tensors["W_dec"]}),
        "decoder_norm_without_threshold": lambda: folded_without_threshold(of),
        "decoder_as_encoder": lambda: Change(encoder_rows(of, of.tensors["W_dec"].float())),
        "first_token": lambda: Change(rules=replace(rules, exclude_first=0, special=(), max_norm=None)),
        "outlier_norms": lambda: Change(rules=replace(rules, max_norm=None)),
    }


def _log_read_as_plain(of: Parts) -> Change:
    """The values times ten, so that a threshold's logarithm is above 0 wherever the dictionary was trained."""
    n = latents(of)
    made = encoder_rows(of, of.tensors["W"][:n].float() * 10)
    lim, c = column(of, "lim"), column(of, "c")
    c[:n] *= 10
    lim[:n] = (thresholds(of) * 10).log() - c[:n]
    W_dec = of.tensors["W_dec"]
    return Change({**made, "lim": lim, "c": c, "W_dec": (W_dec.float() / 10).to(W_dec.dtype)})


def silent(of: Parts) -> Mapping[str, Change]:
    """Mistakes that move no figure: rounded thresholds, rounded weights, rows centred before they are read."""
    n = latents(of)
    lim = column(of, "lim")
    rounded = with_thresholds(of, thresholds(of).bfloat16().float())
    W = of.tensors["W"]
    centred = W[:n].float() - W[:n].float().mean(1, keepdim=True)
    assert lim.shape == rounded["lim"].shape
    return {
        "threshold_in_bf16": Change(rounded),
        "weights_in_bf16": Change({"W": W.bfloat16().to(W.dtype)}),
        "centred": Change(encoder_rows(of, centred)),
    }
