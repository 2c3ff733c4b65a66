"""Llama Scope (``hyperparams.json``, ``checkpoints/final.safetensors``) and what its library writes since.

Both keep torch's own layers (``encoder.weight [n, d]``, ``decoder.weight [d, n]`` and biases), trained on rows that
were scaled to the average norm sqrt(d) by a constant ``a = sqrt(d) / norm`` (``o``: the same of the output).

**Llama Scope**: the library folds the constant when it loads: encoder's bias / a, decoder's / o, decoder's weight
times a / o; then each decoder row's norm goes into the encoder's row and bias (``sparsity_include_decoder_norm``). What
comes out is compared with *one* threshold, ``jump_relu_threshold``, as it is. So values are in the rows' own units.
(SAELens scales the threshold by a and leaves the norms out: its values are a times these, and it has the same firings
only where the decoder's rows have norm 1 after the first step.)

**lm-saes, llamascopium** (``config.json`` with ``sae_type``, ``sae_weights.safetensors``; Llama Scope R1): a threshold
for each latent, stored as its *logarithm*. The gate compares the pre-activation *times the decoder row's norm*; the
value is not multiplied. It is read as it was trained, on scaled rows: values are in scaled units, as in SAELens, which
leaves the norms out here too. The averages lie in the weights (``dataset_average_activation_norm.*``) or have to be
said.

Sources: https://github.com/OpenMOSS/Language-Model-SAEs, src/lm_saes/sae.py and config.py at 5e5527b7 (2024-10-28), for
the second src/lm_saes/sae.py and abstract_sae.py at 37469ae8 (2025-05-31).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saewatch.core import hookpoint, limits
from saewatch.core.errors import ManifestError
from saewatch.core.fields import Fields
from saewatch.core.manifest import Folding, InputNorm
from saewatch.dictionary.formats.forms import Opened, close, flag, number, skip, where
from saewatch.dictionary.formats.source import Asked, Source, out_of, point_of
from saewatch.engine.encode import exp, ordered_norm

_LOG = ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold")
_AVERAGE = "dataset_average_activation_norm."
_NORMS = ("none", "inference", "token-wise", "dataset-wise")  # batch-wise depends on the batch
_TRAINING = """
bias_init_method ddp_size decoder_exactly_fixed_norm device dtype force_unit_decoder_norm init_decoder_norm
init_encoder_norm init_encoder_with_decoder_transpose jumprelu_threshold_window k_warmup_steps l1_coefficient
l1_coefficient_warmup_steps lp sae_pretrained_name_or_path seed sparsity_threshold_for_triton_spmm_kernel
strict_loading tp_size use_batch_norm_mse use_ghost_grads use_triton_kernel
"""


@dataclass(frozen=True, slots=True)
class _Head:
    """What both configurations say. ``by_norms``: the decoder rows' norms take part in the gate."""

    rows: int
    d_in: int
    act: str
    norm: str
    by_norms: bool
    pre_bias: bool
    point: str
    out: str | None


def recognises(opened: Opened) -> bool:
    """Llama Scope: one threshold in the configuration."""
    return (
        opened.has("d_model", "jump_relu_threshold") and not opened.has("sae_type") and opened.holds("encoder.weight")
    )


def recognises_library(opened: Opened) -> bool:
    """What its library writes since: the configuration names the kind of dictionary."""
    return opened.has("d_model", "sae_type") and opened.holds("encoder.weight")


def read(opened: Opened, asked: Asked) -> Source:
    """Llama Scope. ManifestError for its configuration, TensorFileError for its tensors."""
    cfg = opened.fields(asked)
    head = _read_head(cfg, opened, asked, acts=("relu", "jumprelu", "topk"))
    threshold = _from_zero(cfg, "jump_relu_threshold")
    act = "jumprelu" if head.act == "topk" and threshold > 0 else head.act  # as the library does when it loads
    k = cfg.integer("top_k", 1, head.rows) if act == "topk" else None
    skip(cfg, ("top_k",))
    a, o = _scales(head, _stated_averages(cfg), asked)
    close(cfg)
    stored = opened.tensors(_shapes(head))
    W, bias = stored["encoder.weight"], stored["encoder.bias"].double() / a
    W_dec, folded = stored["decoder.weight"].t().double() * (a / o), _normalisation(a)
    if head.by_norms:
        norms = torch.from_numpy(ordered_norm(W_dec))
        W, bias = (W.double() * norms[:, None]).float(), bias * norms
        W_dec = torch.where(norms[:, None] > 0, W_dec / norms[:, None], 0.0)
        folded += (Folding(what="decoder_norm"),)
    vectors = {"b_enc": bias} | ({"threshold": torch.full_like(bias, threshold)} if act == "jumprelu" else {})
    b_dec = stored["decoder.bias"].double() / o
    return Source(
        **_common(opened, head), activation=act, k=k, W=W, vectors=vectors, folded=folded, **_decoder(W_dec, b_dec)
    )


def read_library(opened: Opened, asked: Asked) -> Source:
    """lm-saes' later layout."""
    cfg = opened.fields(asked)
    cfg.choice("sae_type", ("sae",))
    head = _read_head(cfg, opened, asked, acts=("relu", "jumprelu"))
    skip(cfg, ("jump_relu_threshold", "top_k", "promote_act_fn_dtype"))  # of other activations
    close(cfg)
    log = next((name for name in _LOG if name in opened.forms), _LOG[0])
    averages: Mapping[str, tuple[int, ...]] = {name: () for name in opened.forms if name.startswith(_AVERAGE)}
    shapes = {**_shapes(head), **averages, **({log: (head.rows,)} if head.act == "jumprelu" else {})}
    stored = opened.tensors(shapes, unchecked=averages)  # never set where nothing is scaled by them
    a, o = _scales(head, {name.removeprefix(_AVERAGE): float(stored[name]) for name in averages}, asked)
    W = stored["encoder.weight"] if a == 1.0 else (stored["encoder.weight"].double() * a).float()
    W_dec, folded = stored["decoder.weight"].t().double(), _normalisation(a)
    vectors = {"b_enc": stored["encoder.bias"].float()}
    if head.act == "jumprelu":
        vectors["threshold"] = torch.from_numpy(exp(stored[log].double().numpy()))
        if head.by_norms:
            norms = torch.from_numpy(ordered_norm(W_dec))  # a row without a direction never fires
            vectors["threshold"] = torch.where(norms > 0, vectors["threshold"] / norms, math.inf)
            folded += (Folding(what="decoder_norm"),)
    rest = _decoder(W_dec / o, stored["decoder.bias"].double() / o)
    return Source(**_common(opened, head), activation=head.act, W=W, vectors=vectors, folded=folded, **rest)


def _read_head(cfg: Fields, opened: Opened, asked: Asked, *, acts: Collection[str]) -> _Head:
    rows, d_in = opened.sizes("encoder.weight")
    _check_sizes(cfg, rows, d_in)
    if cfg.has("use_glu_encoder") and flag(cfg, "use_glu_encoder"):
        hint = "A second matrix gates the first: that does not fold."
        raise ManifestError(where(cfg, "use_glu_encoder"), found=True, expected="false", hint=hint)
    if cfg.has("use_decoder_bias") and not flag(cfg, "use_decoder_bias"):
        raise ManifestError(where(cfg, "use_decoder_bias"), found=False, expected="true")
    point, goes = cfg.text("hook_point_in"), ""
    if cfg.has("hook_point_out") and not cfg.absent("hook_point_out"):
        goes = cfg.text("hook_point_out")
    head = _Head(
        rows=rows,
        d_in=d_in,
        act=cfg.choice("act_fn", acts),
        norm=cfg.choice("norm_activation", _NORMS),
        by_norms=flag(cfg, "sparsity_include_decoder_norm") if cfg.has("sparsity_include_decoder_norm") else True,
        pre_bias=cfg.has("apply_decoder_bias_to_pre_encoder") and flag(cfg, "apply_decoder_bias_to_pre_encoder"),
        point=point_of(point, asked.hook_point),
        out=out_of(goes, asked.hook_out) if (goes and goes != point) or asked.hook_out else None,
    )
    skip(cfg, _TRAINING.split())
    if head.pre_bias and head.out is not None:
        subject = where(cfg, "apply_decoder_bias_to_pre_encoder")
        raise ManifestError(subject, found=True, expected="false for a transcoder")
    return head


def _check_sizes(cfg: Fields, rows: int, d_in: int) -> None:
    width = cfg.integer("d_model", 1, limits.D_IN)
    stated = int(width * number(cfg, "expansion_factor")) if cfg.has("expansion_factor") else rows
    if cfg.has("d_sae"):
        stated = cfg.integer("d_sae", 1, limits.LATENTS)
    if (stated, width) != (rows, d_in):
        found, expected = f"{stated} latents of width {width}", f"{rows} of {d_in}, as the weights have"
        raise ManifestError(f"{cfg.subject}d_model and d_sae", found=found, expected=expected)


def _stated_averages(cfg: Fields) -> Mapping[str, float]:
    key = "dataset_average_activation_norm"
    if not cfg.has(key) or cfg.absent(key):
        return {}
    section = cfg.section(key)
    return {name: number(section, name) for name in section.names()}


def _scales(head: _Head, averages: Mapping[str, float], asked: Asked) -> tuple[float, float]:
    """``a`` and ``o``; 1 where the rows are not scaled by an average. ManifestError for one that nobody says."""
    if head.norm != "dataset-wise":
        return 1.0, 1.0
    found = [next((averages[name] for name in names if name in averages), asked.mean_norm) for names in _keys(head)]
    for average in found:
        if average is None or not 0 < average < math.inf:
            hint = "Its rows were scaled by their average norm in training. Say it with --mean-norm."
            expected = "the average norm of its rows"
            subject = "dataset_average_activation_norm"
            raise ManifestError(subject, found=average or "nothing", expected=expected, hint=hint)
    a, o = (math.sqrt(head.d_in) / average for average in found if average is not None)
    return a, o


def _keys(head: _Head) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Under which names the averages of input and output may stand: of two places, or of hook points."""
    into = ("in", head.point, hookpoint.parse(head.point).transformer_lens)
    out = head.out or head.point
    return into, ("out", out, hookpoint.parse(out).transformer_lens)


def _normalisation(a: float) -> tuple[Folding, ...]:
    return () if a == 1.0 else (Folding(what="normalisation", constant=a),)


def _from_zero(cfg: Fields, key: str) -> float:
    value = cfg.take(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ManifestError(where(cfg, key), found=f"{value!r:.60}", expected="a number from 0 on")
    return float(value)


def _shapes(head: _Head) -> dict[str, tuple[int, ...]]:
    return {
        "encoder.weight": (head.rows, head.d_in),
        "encoder.bias": (head.rows,),
        "decoder.weight": (head.d_in, head.rows),
        "decoder.bias": (head.d_in,),
    }


def _common(opened: Opened, head: _Head) -> dict[str, Any]:
    return {
        "architecture": head.act,
        "kind": "sae" if head.out is None else "transcoder",
        "files": opened.files,
        "hook_point": head.point,
        "hook_out": head.out,
        "pre_bias": head.pre_bias,
        "input_norm": InputNorm(kind="constant_norm_rescale") if head.norm == "token-wise" else InputNorm(),
    }


def _decoder(W_dec: Tensor, b_dec: Tensor) -> dict[str, Any]:
    return {"W_dec": W_dec.float().contiguous(), "b_dec": b_dec.float()}
