"""Formats that a dictionary may come in, each read into the same `Source` by code of our own.

``CONVERTERS`` has one row a format. A reader goes by keys and shapes and takes nothing on trust: an unknown key of the
configuration, an extra or missing tensor, a matrix stored wider than the configuration says, a normalisation that
ought to have been folded: each is refused, because each has produced dictionaries that load and are wrong.

SAELens 6 (``cfg.json``, ``sae_weights.safetensors``): 8 of its 11 inference classes are watched row by row; the other
three are refused by name. A transcoder's decoder speaks of another hook point, so its bundle states no reconstruction
and its skip connection is left out. Probes (``probes.safetensors``): rows ``w [q, d]`` and biases ``b [q]``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from saewatch.core import hookpoint, limits
from saewatch.core.errors import ManifestError, TensorFileError
from saewatch.core.fields import Fields
from saewatch.core.manifest import InputNorm
from saewatch.core.tensorfile import Entry, read_header
from saewatch.engine.encode import activation_of

SAELENS_CONFIG = "cfg.json"
SAELENS_WEIGHTS = "sae_weights.safetensors"
PROBES = "probes.safetensors"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Source:
    """An encoder as its trainer wrote it, in our orientation. ``vectors`` are float32, ``[rows]`` each."""

    activation: str
    W: Tensor  # [rows, d_in]
    vectors: Mapping[str, Tensor]
    files: tuple[str, ...]
    kind: str = "sae"
    hook_point: str = ""
    hook_out: str | None = None
    model: str = ""
    """What the trainer calls the model."""
    pre_bias: bool = False
    k: int | None = None
    rescaled: bool = False
    """Values and ranking are multiplied by the decoder rows' norms."""
    input_norm: InputNorm = field(default_factory=InputNorm)
    W_dec: Tensor | None = None  # [rows, d_out]
    b_dec: Tensor | None = None  # [d_out] float32


@dataclass(frozen=True, slots=True)
class Converter:
    """One format: the file that it is known by, and its reader (folder -> Source)."""

    marker: str
    read: Callable[[Path], Source]


@dataclass(frozen=True, slots=True)
class _Architecture:
    activation: str
    kind: str = "sae"
    skips: bool = False


_ARCHITECTURES: Mapping[str, _Architecture] = {
    "standard": _Architecture("relu"),
    "jumprelu": _Architecture("jumprelu"),
    "gated": _Architecture("gated"),
    "topk": _Architecture("topk"),
    "transcoder": _Architecture("relu", "transcoder"),
    "skip_transcoder": _Architecture("relu", "transcoder", skips=True),
    "jumprelu_transcoder": _Architecture("jumprelu", "transcoder"),
    "jumprelu_skip_transcoder": _Architecture("jumprelu", "transcoder", skips=True),
}
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "torch.float32": "F32"}
_NARROWER = ("F16", "BF16")  # than F32: widening them is exact
_NORMS: Mapping[str, InputNorm] = {
    "none": InputNorm(),
    "layer_norm": InputNorm(kind="layer_norm", eps=1e-5),
    "constant_norm_rescale": InputNorm(kind="constant_norm_rescale"),
}
_PROCESSED = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")


def read_saelens(folder: Path) -> Source:
    """SAELens 6's layout. ManifestError for its configuration, TensorFileError for its tensors."""
    cfg = Fields(read_json(folder / SAELENS_CONFIG), f"{SAELENS_CONFIG}: ")
    name = cfg.text("architecture")
    if name not in _ARCHITECTURES:
        activation_of(name)  # says why the three that do not fold are refused
        raise ManifestError(f"{SAELENS_CONFIG}: architecture", found=repr(name), expected=", ".join(_ARCHITECTURES))
    row = _ARCHITECTURES[name]
    d_in, rows = cfg.integer("d_in", 1, limits.D_IN), cfg.integer("d_sae", 1, limits.LATENTS)
    d_out = cfg.integer("d_out", 1, limits.D_IN) if row.kind == "transcoder" else d_in
    dtype = cfg.choice("dtype", _DTYPES)
    shapes = _saelens_shapes(row, d_in, rows, d_out)
    found = _tensors(folder / SAELENS_WEIGHTS, shapes, _DTYPES[dtype])
    pre_bias = _flag(cfg, "apply_b_dec_to_input")
    rescaled = (
        row.activation == "topk"
        and cfg.has("rescale_acts_by_decoder_norm")
        and _flag(cfg, "rescale_acts_by_decoder_norm")
    )
    metadata = cfg.section("metadata")
    point, out = _read_hook(metadata, row)
    source = Source(
        activation=row.activation,
        kind=row.kind,
        W=found["W_enc"].t().contiguous(),
        vectors={name: found[name].float() for name in activation_of(row.activation).vectors if name in found},
        files=(SAELENS_CONFIG, SAELENS_WEIGHTS),
        hook_point=point,
        hook_out=out,
        model=metadata.text("model_name") if metadata.has("model_name") else "",
        pre_bias=pre_bias,
        k=cfg.integer("k", 1, rows) if row.activation == "topk" else None,
        rescaled=rescaled,
        input_norm=_norm(cfg),
        W_dec=found["W_dec"],
        b_dec=found["b_dec"].float(),
    )
    _close(cfg)
    if source.pre_bias and row.kind == "transcoder":
        raise ManifestError(f"{SAELENS_CONFIG}: apply_b_dec_to_input", found=True, expected="false for a transcoder")
    return source


def read_probes(folder: Path) -> Source:
    """Probe directions: ``w [q, d]``, ``b [q]`` float32; direction i's value is ``w[i] . x + b[i]``."""
    path = folder / PROBES
    entries = {entry.name: entry for entry in read_header(path, foreign=True)}
    width = entries["w"].shape if "w" in entries and len(entries["w"].shape) == 2 else (0, 0)
    found = _tensors(path, {"w": width, "b": width[:1]}, "F32")
    return Source(
        activation="linear",
        kind="probes",
        W=found["w"],
        vectors={"b_enc": found["b"]},
        files=(PROBES,),
    )


CONVERTERS: Mapping[str, Converter] = {
    "saelens": Converter(SAELENS_CONFIG, read_saelens),
    "probes": Converter(PROBES, read_probes),
}


def read_json(path: Path) -> Any:
    """A JSON file that others wrote; ManifestError when it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(str(path), found=error.strerror or str(error), expected="a readable file") from error
    if len(data) > limits.MANIFEST_BYTES:
        raise ManifestError(str(path), found=f"{len(data)} bytes", expected=f"at most {limits.MANIFEST_BYTES}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(str(path), found=str(error), expected="JSON") from error


def _saelens_shapes(row: _Architecture, d_in: int, rows: int, d_out: int) -> dict[str, tuple[int, ...]]:
    names = [name for name in activation_of(row.activation).vectors if name != "decoder_norm"]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (rows,))
    shapes |= {"W_enc": (d_in, rows), "W_dec": (rows, d_out), "b_dec": (d_out,)}
    if row.skips:
        shapes["W_skip"] = (d_out, d_in)
    return shapes


def _tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, Tensor]:
    """The file's tensors, which must have these shapes, be finite and not be wider than ``dtype``."""
    entries = {entry.name: entry for entry in read_header(path, foreign=True)}
    for name in sorted(shapes.keys() ^ entries.keys()):
        there = name in entries
        raise TensorFileError(
            f"{path.name}: {name[:80]}",
            found="present" if there else "nothing",
            expected="no such tensor" if there else "this tensor",
        )
    for name, shape in shapes.items():
        _check_entry(path.name, entries[name], shape, dtype)
    tensors: dict[str, Tensor] = load_file(path)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TensorFileError(f"{path.name}: {name}", found="NaN or infinity", expected="finite values")
    return tensors


def _check_entry(file: str, entry: Entry, shape: tuple[int, ...], dtype: str) -> None:
    if entry.shape != shape:
        hint = "Its width or number of latents is not what the configuration says, or it is transposed."
        raise TensorFileError(f"{file}: {entry.name}", found=list(entry.shape), expected=list(shape), hint=hint)
    if entry.dtype != dtype and (dtype != "F32" or entry.dtype not in _NARROWER):
        hint = "SAELens would round it when loading; save it in the type that the configuration names."
        raise TensorFileError(f"{file}: {entry.name}", found=entry.dtype, expected=f"{dtype} or narrower", hint=hint)


def _read_hook(metadata: Fields, row: _Architecture) -> tuple[str, str | None]:
    version = metadata.text("sae_lens_version") if metadata.has("sae_lens_version") else "none"
    if not version.split(".")[0].isdigit() or int(version.split(".")[0]) < 6:
        hint = "Load it with SAELens 6 and save it again: older files leave out what decides a firing."
        raise ManifestError(f"{metadata.subject}.sae_lens_version", found=version, expected="6 or later", hint=hint)
    _refuse_processed(metadata)
    point = str(hookpoint.parse(metadata.text("hook_name")))
    out = str(hookpoint.parse(metadata.text("hook_name_out"))) if metadata.has("hook_name_out") else None
    if (row.kind == "transcoder") != (out is not None):
        expected = "a hook point" if row.kind == "transcoder" else "nothing"
        raise ManifestError(f"{metadata.subject}.hook_name_out", found=out or "nothing", expected=expected)
    return point, out


def _refuse_processed(metadata: Fields) -> None:
    if not metadata.has("model_from_pretrained_kwargs"):
        return
    options = metadata.take("model_from_pretrained_kwargs")
    done = [name for name in _PROCESSED if isinstance(options, dict) and options.get(name)]
    if done:
        hint = "It was trained on TransformerLens' processed weights, whose residual stream is not the served model's."
        raise ManifestError(
            f"{metadata.subject}.model_from_pretrained_kwargs",
            found=", ".join(done),
            expected="none of these",
            hint=hint,
        )


def _norm(cfg: Fields) -> InputNorm:
    name = cfg.text("normalize_activations")
    if name not in _NORMS:
        hint = (
            "SAELens does nothing for it when encoding: fold it first (fold_activation_norm_scaling_factor or "
            "fold_activation_whitening), and save again."
        )
        raise ManifestError(f"{cfg.subject}normalize_activations", found=name, expected=", ".join(_NORMS), hint=hint)
    return _NORMS[name]


def _flag(cfg: Fields, key: str) -> bool:
    value = cfg.take(key)
    if not isinstance(value, bool):
        raise ManifestError(f"{cfg.subject}{key}", found=value, expected="true or false")
    return value


def _close(cfg: Fields) -> None:
    if cfg.has("reshape_activations"):
        cfg.choice("reshape_activations", ("none",))
    if cfg.has("device"):
        cfg.take("device")
    cfg.close()
