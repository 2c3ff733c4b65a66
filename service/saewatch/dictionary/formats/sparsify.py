"""EleutherAI's sparsify: ``cfg.json``, ``sae.safetensors`` in a folder that is named after the hook point.

``encoder.weight [n, d]``, ``encoder.bias``, ``W_dec [n, d]``, ``b_dec``; values are the k largest of the rectified
pre-activations. ``b_dec`` is subtracted before the encoder, but not in a transcoder. Nothing is ever normalised, and
``normalize_decoder`` speaks of training only. ``groupmax`` lets the largest of each of k groups win: that does not
fold. The folder's name is no part of the file, so the hook point has to be said.

Source: https://github.com/EleutherAI/sparsify, sparsify/sparse_coder.py, config.py and fused_encoder.py of 1.3.3
(PyPI: eai-sparsify), which is also the oracle of the tests. SAELens' loader for it transposes ``W_dec`` once too often.
"""

from __future__ import annotations

from saewatch.core import limits
from saewatch.core.errors import ManifestError
from saewatch.core.fields import Fields
from saewatch.dictionary.formats.forms import Opened, close, flag, skip, where
from saewatch.dictionary.formats.source import Asked, Source, out_of, point_of

_TRAINING = ("normalize_decoder", "multi_topk")


def recognises(opened: Opened) -> bool:
    """Whether the configuration has a k, and the decoder lies beside an encoder of torch's own class."""
    return opened.has("d_in", "k") and opened.holds("encoder.weight", "W_dec")


def read(opened: Opened, asked: Asked) -> Source:
    """sparsify's layout. ManifestError for its configuration, TensorFileError for its tensors."""
    cfg = opened.fields(asked)
    rows, d_in = opened.sizes("encoder.weight")
    _check_sizes(cfg, rows, d_in)
    name = cfg.text("activation") if cfg.has("activation") else "topk"
    if name != "topk":
        hint = "Of groups, each one's largest wins: that is no threshold, and no choice of the k largest."
        raise ManifestError(
            where(cfg, "activation"), found=name, expected="topk", hint=hint if name == "groupmax" else ""
        )
    if cfg.has("signed") and flag(cfg, "signed"):
        raise ManifestError(where(cfg, "signed"), found=True, expected="false: a latent fires above zero")
    k = cfg.integer("k", 1, rows)
    skips = cfg.has("skip_connection") and flag(cfg, "skip_connection")
    transcodes = cfg.has("transcode") and flag(cfg, "transcode")
    skip(cfg, _TRAINING)
    close(cfg)
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (rows, d_in), "encoder.bias": (rows,)}
    shapes |= {"W_dec": (rows, d_in), "b_dec": (d_in,)} | ({"W_skip": (d_in, d_in)} if skips else {})
    found = opened.tensors(shapes)
    return Source(
        activation="topk",
        architecture="topk",
        kind="transcoder" if transcodes else "sae",
        W=found["encoder.weight"],
        vectors={"b_enc": found["encoder.bias"].float()},
        files=opened.files,
        hook_point=point_of("", asked.hook_point),
        hook_out=out_of("", asked.hook_out) if transcodes else None,
        pre_bias=not transcodes,
        k=k,
        W_dec=found["W_dec"],
        b_dec=found["b_dec"].float(),
    )


def _check_sizes(cfg: Fields, rows: int, d_in: int) -> None:
    """The configuration must say of the sizes what the tensors say; no number of latents stands for a factor."""
    width = cfg.integer("d_in", 1, limits.D_IN)
    stated = cfg.integer("num_latents", 0, limits.LATENTS) if cfg.has("num_latents") else 0
    factor = cfg.integer("expansion_factor", 1, limits.LATENTS) if cfg.has("expansion_factor") else 0
    if (width, stated or width * factor) != (d_in, rows):
        found = f"{stated or width * factor} latents of width {width}"
        raise ManifestError(
            f"{cfg.subject}d_in and num_latents", found=found, expected=f"{rows} of {d_in}, as the weights have"
        )
