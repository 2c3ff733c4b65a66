"""dictionary_learning: ``config.json`` and the pickle ``ae.pt``. The class decides what the same tensors mean.

AutoEncoder, AutoEncoderNew, GatedAutoEncoder, AutoEncoderTopK and BatchTopKSAE keep torch's own layers
(``encoder.weight [n, d]``, ``decoder.weight [d, n]``); JumpReluAutoEncoder and MatryoshkaBatchTopKSAE keep ``W_enc
[d, n]``, ``W_dec [n, d]``. The decoder's bias (``bias``, ``decoder_bias`` or ``b_dec``) is subtracted before the
encoder, but not in AutoEncoderNew and JumpReluAutoEncoder. AutoEncoderTopK stores a threshold that its encoder does not
use; BatchTopKSAE and Matryoshka compare with theirs, one number for all latents, which below zero was never set: then
every latent would fire.
Activations' normalisation is worked into the biases when the trainer saves. Where an AutoEncoder's decoder rows have
other norms than 1 the library's loader scales encoder and decoder, so that values are in the decoder's units.

Source: https://github.com/saprmarks/dictionary_learning, dictionary_learning/dictionary.py, utils.py, training.py and
trainers/*.py of 0.1.0, which is also the oracle of the tests.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saewatch.core import limits
from saewatch.core.errors import ManifestError, TensorFileError
from saewatch.core.fields import Fields
from saewatch.core.manifest import Folding
from saewatch.dictionary.formats.forms import Opened, close, skip, where
from saewatch.dictionary.formats.source import Asked, Source, point_of
from saewatch.engine.encode import ordered_norm

Found = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Class:
    """``biases``: vectors of ``[n]``, ours -> theirs; ``scalars``: tensors of one number each."""

    activation: str
    biases: Mapping[str, str]
    decoder_bias: str
    linear: bool = True
    pre_bias: bool = True
    scalars: tuple[str, ...] = ()
    unit_decoder: bool = False


_GATES = {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
_LINEAR, _PLAIN = {"b_enc": "encoder.bias"}, {"b_enc": "b_enc"}
_COUNTS = ("k", "threshold")
_CLASSES: Mapping[str, _Class] = {
    "AutoEncoder": _Class("relu", _LINEAR, "bias", unit_decoder=True),
    "AutoEncoderNew": _Class("relu", _LINEAR, "decoder.bias", pre_bias=False),
    "GatedAutoEncoder": _Class("gated", _GATES, "decoder_bias"),
    "AutoEncoderTopK": _Class("topk", _LINEAR, "b_dec", scalars=_COUNTS),
    "BatchTopKSAE": _Class("jumprelu", _LINEAR, "b_dec", scalars=_COUNTS),
    "JumpReluAutoEncoder": _Class(
        "jumprelu", {**_PLAIN, "threshold": "threshold"}, "b_dec", linear=False, pre_bias=False
    ),
    "MatryoshkaBatchTopKSAE": _Class("jumprelu", _PLAIN, "b_dec", linear=False, scalars=_COUNTS),
}
_TRAINING = """
anneal_start auxk_alpha bandwidth decay_start device group_fractions group_sizes group_weights l1_penalty lr
n_sparsity_updates norm_factor p_end p_start resample_steps seed sparsity_function sparsity_penalty
sparsity_queue_length sparsity_warmup_steps steps target_l0 threshold_beta threshold_start_step top_k_aux trainer_class
wandb_name warmup_steps
"""
_RESIDUAL = re.compile(r"resid_post_layer_(\d{1,4})")


def recognises(opened: Opened) -> bool:
    """Whether the configuration has a trainer that names a class."""
    trainer = opened.config.get("trainer") if isinstance(opened.config, dict) else None
    return isinstance(trainer, dict) and "dict_class" in trainer


def read(opened: Opened, asked: Asked) -> Source:
    """dictionary_learning's layout. ManifestError for its configuration, TensorFileError for its tensors."""
    cfg = opened.fields(asked)
    trainer = cfg.section("trainer")
    skip(trainer, asked.ignore)
    name = trainer.choice("dict_class", _CLASSES)
    row = _CLASSES[name]
    rows, d_in = opened.sizes("encoder.weight") if row.linear else opened.sizes("W_enc", transposed=True)
    _check_sizes(trainer, rows, d_in)
    found = _tensors(opened, row, rows, d_in)
    k = _read_k(trainer, found, rows) if row.scalars else None
    source = Source(
        activation=row.activation,
        architecture=name,
        W=found["encoder.weight"] if row.linear else found["W_enc"].t().contiguous(),
        vectors=_vectors(opened, row, found, rows),
        files=opened.files,
        hook_point=point_of(_point(trainer, cfg), asked.hook_point),
        model=trainer.text("lm_name") if trainer.has("lm_name") else "",
        pre_bias=row.pre_bias,
        k=k if row.activation == "topk" else None,
        W_dec=(found["decoder.weight"].t() if row.linear else found["W_dec"]).contiguous(),
        b_dec=found[row.decoder_bias].float(),
    )
    skip(trainer, _TRAINING.split())
    close(trainer)
    close(cfg)
    return _unit_decoder(source) if row.unit_decoder else source


def _tensors(opened: Opened, row: _Class, rows: int, d_in: int) -> Found:
    names = ("encoder.weight", "decoder.weight") if row.linear else ("W_dec", "W_enc")
    shapes: dict[str, tuple[int, ...]] = {names[0]: (rows, d_in), names[1]: (d_in, rows), row.decoder_bias: (d_in,)}
    shapes |= dict.fromkeys(row.biases.values(), (rows,))
    needed = row.activation == "jumprelu"  # older versions of TopK stored neither scalar
    shapes |= {name: () for name in row.scalars if needed or name in opened.forms}
    if "group_sizes" in opened.forms and row.scalars:  # Matryoshka's, in training
        shapes["group_sizes"] = opened.shape("group_sizes")[:1]
    return opened.tensors(shapes, integers=("k", "group_sizes"))


def _vectors(opened: Opened, row: _Class, found: Found, rows: int) -> Found:
    vectors = {ours: found[theirs].float() for ours, theirs in row.biases.items()}
    if row.activation == "jumprelu" and row.scalars:
        vectors["threshold"] = _threshold(opened, found).expand(rows).contiguous()
    return vectors


def _check_sizes(trainer: Fields, rows: int, d_in: int) -> None:
    for key, stored, most in (("dict_size", rows, limits.LATENTS), ("activation_dim", d_in, limits.D_IN)):
        if trainer.has(key) and (stated := trainer.integer(key, 1, most)) != stored:
            raise ManifestError(where(trainer, key), found=stated, expected=f"{stored}, as the weights have")


def _read_k(trainer: Fields, found: Found, rows: int) -> int | None:
    stated = trainer.integer("k", 1, rows) if trainer.has("k") else None
    stored = int(found["k"]) if "k" in found else None
    if stated is not None and stored is not None and stated != stored:
        raise ManifestError(where(trainer, "k"), found=stated, expected=f"{stored}, as the weights have")
    k = stored if stated is None else stated
    if k is not None and not 1 <= k <= rows:
        raise ManifestError(where(trainer, "k"), found=k, expected=f"1 to {rows}")
    return k


def _threshold(opened: Opened, found: Found) -> Tensor:
    value = found["threshold"].float()
    if float(value) < 0:
        subject, hint = f"{opened.weights}: threshold", "Training never set it: every latent above zero would fire."
        raise TensorFileError(subject, found=float(value), expected="0 or more", hint=hint)
    return value


def _point(trainer: Fields, cfg: Fields) -> str:
    """The hook point, where the configuration says that it is the residual stream after a layer; empty otherwise."""
    layer = trainer.take("layer") if trainer.has("layer") else None
    name = trainer.take("submodule_name") if trainer.has("submodule_name") else None
    match = _RESIDUAL.fullmatch(name) if isinstance(name, str) else None
    buffer = cfg.take("buffer") if cfg.has("buffer") else None
    reads = buffer.get("io", "out") if isinstance(buffer, dict) else "out"
    return f"resid_post.{match[1]}" if match and reads == "out" and str(layer) == match[1] else ""


def _unit_decoder(source: Source) -> Source:
    """What AutoEncoder.from_pretrained does unless all norms are 1: the norms go from the decoder into the encoder."""
    assert source.W_dec is not None
    norms = ordered_norm(source.W_dec)
    if np.allclose(norms, 1.0):
        return source
    if not norms.all():
        raise ManifestError("decoder.weight", found="a latent without a direction", expected="norms above 0")
    scale = torch.from_numpy(norms)
    return dataclasses.replace(
        source,
        W=(source.W.double() * scale[:, None]).float(),
        vectors={"b_enc": source.vectors["b_enc"].double() * scale},
        W_dec=(source.W_dec.double() / scale[:, None]).float(),
        folded=(Folding(what="decoder_norm"),),
    )
