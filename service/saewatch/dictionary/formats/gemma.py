"""Gemma Scope (``params.npz``) and Gemma Scope 2 (``config.json``, ``params.safetensors``): JumpReLU, raw rows.

``W_enc [d, n]``, ``W_dec [n, d_out]`` (2: ``w_enc``, ``w_dec``), ``b_enc``, ``b_dec``, ``threshold [n]``, float32. The
pre-activation is compared with the threshold as it is; nothing is subtracted or normalised before. The first release
says in the *path* only which tensor it reads, and whether it is a transcoder; the second has it in its configuration,
with a module of a transformers model (what Gemma's MLP adds to the residual stream comes out of the norm after it).
A transcoder's affine connection is no part of what fires, and is left out. Cross-layer transcoders, whose decoder has
a matrix for each layer, and embedding dictionaries, which want their rows scaled, are not read.

Sources: the tutorial of Gemma Scope (JumpReLUSAE, quoted in many repositories); sae_lens
loading/pretrained_sae_loaders.py of 6.54.12, gemma_2_sae_huggingface_loader and gemma_3_sae_huggingface_loader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from saewatch.core.errors import TensorFileError
from saewatch.core.fields import Fields
from saewatch.dictionary.formats.forms import Opened, close, flag, skip
from saewatch.dictionary.formats.source import Asked, Source, out_of, point_of

_VECTORS = ("b_enc", "b_dec", "threshold")
_AFFINE = "affine_skip_connection"
_POINTS: Mapping[str, str] = {
    "output": "resid_post",
    "pre_feedforward_layernorm.output": "mlp_in",
    "post_feedforward_layernorm.output": "mlp_out",
}
_DESCRIBES = ("width", "l0", "type")  # nothing that decides a firing


def recognises(opened: Opened) -> bool:
    """Gemma Scope: a JumpReLU dictionary without a configuration."""
    enc, dec = _names(opened)
    return opened.config is None and opened.holds(enc, dec, *_VECTORS)


def recognises_2(opened: Opened) -> bool:
    """Gemma Scope 2: its configuration names a module of a transformers model."""
    return opened.has("hf_hook_point_in") and opened.holds("w_enc")


def read(opened: Opened, asked: Asked) -> Source:
    """Gemma Scope. What it reads, and where a transcoder's output goes, have to be said."""
    return _source(opened, asked, point="", out=asked.hook_out, architecture="jumprelu")


def read_2(opened: Opened, asked: Asked) -> Source:
    """Gemma Scope 2."""
    cfg = opened.fields(asked)
    cfg.choice("architecture", ("jump_relu",))
    point, out = _point(cfg, "hf_hook_point_in"), _point(cfg, "hf_hook_point_out")
    model = cfg.text("model_name")
    affine = flag(cfg, "affine_connection") if cfg.has("affine_connection") else False
    skip(cfg, _DESCRIBES)
    close(cfg)
    stated = out if out != point else ""
    goes = out_of(stated, asked.hook_out) if stated or asked.hook_out else None
    return _source(opened, asked, point=point, out=goes, architecture="jump_relu", model=model, affine=affine)


def _source(
    opened: Opened,
    asked: Asked,
    *,
    point: str,
    out: str | None,
    architecture: str,
    model: str = "",
    affine: bool = False,
) -> Source:
    enc, dec = _names(opened)
    if len(opened.shape(dec)) == 3:
        hint = "It is a cross-layer transcoder: each latent writes to several layers."
        subject = f"{opened.weights}: {dec}"
        raise TensorFileError(subject, found=list(opened.shape(dec)), expected="a matrix", hint=hint)
    rows, d_in = opened.sizes(enc, transposed=True)
    opened.refuse_square(enc, asked)
    d_out = d_in if out is None else opened.sizes(dec)[1]
    shapes: dict[str, tuple[int, ...]] = {enc: (d_in, rows), dec: (rows, d_out), "b_dec": (d_out,)}
    shapes |= {"b_enc": (rows,), "threshold": (rows,)} | ({_AFFINE: (d_in, d_out)} if affine else {})
    found = opened.tensors(shapes)
    return Source(
        activation="jumprelu",
        architecture=architecture,
        kind="sae" if out is None else "transcoder",
        W=found[enc].t().contiguous(),
        vectors={"b_enc": found["b_enc"].float(), "threshold": found["threshold"].float()},
        files=opened.files,
        hook_point=point_of(point, asked.hook_point),
        hook_out=None if out is None else out_of(out, None),
        model=model,
        W_dec=found[dec],
        b_dec=found["b_dec"].float(),
    )


def _names(opened: Opened) -> tuple[str, str]:
    return ("w_enc", "w_dec") if opened.holds("w_enc") else ("W_enc", "W_dec")


def _point(cfg: Fields, key: str) -> str:
    """Our spelling of a module's output; a module that is no hook point of ours as it is; empty where there is none."""
    if not cfg.has(key) or cfg.absent(key):
        return ""
    text = cfg.text(key)
    match = re.fullmatch(r"model\.layers\.(\d{1,4})\.(.+)", text)
    known = _POINTS.get(match[2]) if match else None
    return f"{known}.{match[1]}" if match and known else text
