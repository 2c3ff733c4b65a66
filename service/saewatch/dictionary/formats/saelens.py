"""SAELens 6: ``cfg.json`` and ``sae_weights.safetensors``.

8 of its 11 inference classes are watched row by row; the other three are refused by name. BatchTopK and Matryoshka
dictionaries save themselves as JumpReLU. A transcoder's decoder speaks of another hook point, so its bundle states no
reconstruction and its skip connection is left out. Files of an older SAELens leave out what decides a firing: they are
to be loaded and saved again.

Source: https://github.com/decoderesearch/SAELens, sae_lens/saes/*.py and loading/pretrained_sae_loaders.py of 6.54.12,
which is also the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saewatch.core import hookpoint, limits
from saewatch.core.errors import ManifestError
from saewatch.core.fields import Fields
from saewatch.core.manifest import InputNorm
from saewatch.dictionary.formats.forms import Opened, close, flag, skip, where
from saewatch.dictionary.formats.source import Asked, Source, point_of
from saewatch.engine.encode import activation_of


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
_NORMS: Mapping[str, InputNorm] = {
    "none": InputNorm(),
    "layer_norm": InputNorm(kind="layer_norm", eps=1e-5),
    "constant_norm_rescale": InputNorm(kind="constant_norm_rescale"),
}
_PROCESSED = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")


def recognises(opened: Opened) -> bool:
    """Whether the configuration is one of SAELens, of any version, and the weights may be its."""
    return opened.has("d_in", "d_sae") and (opened.holds("W_dec") or opened.holds("W_enc"))


def read(opened: Opened, asked: Asked) -> Source:
    """SAELens 6's layout. ManifestError for its configuration, TensorFileError for its tensors."""
    cfg = opened.fields(asked)
    if not cfg.has("metadata"):
        raise _too_old(f"{cfg.subject}metadata.sae_lens_version", "none")
    name = cfg.text("architecture")
    if name not in _ARCHITECTURES:
        activation_of(name)  # says why the three that do not fold are refused
        raise ManifestError(f"{opened.config_name}: architecture", found=repr(name), expected=", ".join(_ARCHITECTURES))
    row = _ARCHITECTURES[name]
    d_in, rows = cfg.integer("d_in", 1, limits.D_IN), cfg.integer("d_sae", 1, limits.LATENTS)
    d_out = cfg.integer("d_out", 1, limits.D_IN) if row.kind == "transcoder" else d_in
    dtype = cfg.choice("dtype", _DTYPES)
    found = opened.tensors(_shapes(row, d_in, rows, d_out), dtype=_DTYPES[dtype])
    pre_bias = flag(cfg, "apply_b_dec_to_input")
    rescaled = (
        row.activation == "topk"
        and cfg.has("rescale_acts_by_decoder_norm")
        and flag(cfg, "rescale_acts_by_decoder_norm")
    )
    metadata = cfg.section("metadata")
    point, out = _read_hook(metadata, row)
    source = Source(
        activation=row.activation,
        architecture=name,
        kind=row.kind,
        W=found["W_enc"].t().contiguous(),
        vectors={name: found[name].float() for name in activation_of(row.activation).vectors if name in found},
        files=opened.files,
        hook_point=point_of(point, asked.hook_point),
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
        subject = f"{opened.config_name}: apply_b_dec_to_input"
        raise ManifestError(subject, found=True, expected="false for a transcoder")
    return source


def _shapes(row: _Architecture, d_in: int, rows: int, d_out: int) -> dict[str, tuple[int, ...]]:
    names = [name for name in activation_of(row.activation).vectors if name != "decoder_norm"]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (rows,))
    shapes |= {"W_enc": (d_in, rows), "W_dec": (rows, d_out), "b_dec": (d_out,)}
    if row.skips:
        shapes["W_skip"] = (d_out, d_in)
    return shapes


def _read_hook(metadata: Fields, row: _Architecture) -> tuple[str, str | None]:
    version = metadata.text("sae_lens_version") if metadata.has("sae_lens_version") else "none"
    if not version.split(".")[0].isdecimal() or int(version.split(".")[0]) < 6:
        raise _too_old(where(metadata, "sae_lens_version"), version)
    _refuse_processed(metadata)
    point = str(hookpoint.parse(metadata.text("hook_name")))
    out = str(hookpoint.parse(metadata.text("hook_name_out"))) if metadata.has("hook_name_out") else None
    if (row.kind == "transcoder") != (out is not None):
        expected = "a hook point" if row.kind == "transcoder" else "nothing"
        raise ManifestError(where(metadata, "hook_name_out"), found=out or "nothing", expected=expected)
    return point, out


def _too_old(subject: str, version: str) -> ManifestError:
    hint = "Load it with SAELens 6 and save it again: older files leave out what decides a firing."
    return ManifestError(subject, found=f"{version:.40}", expected="6 or later", hint=hint)


def _refuse_processed(metadata: Fields) -> None:
    if not metadata.has("model_from_pretrained_kwargs"):
        return
    options = metadata.take("model_from_pretrained_kwargs")
    done = [name for name in _PROCESSED if isinstance(options, dict) and options.get(name)]
    if done:
        hint = "It was trained on TransformerLens' processed weights, whose residual stream is not the served model's."
        raise ManifestError(
            where(metadata, "model_from_pretrained_kwargs"),
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
        raise ManifestError(where(cfg, "normalize_activations"), found=name, expected=", ".join(_NORMS), hint=hint)
    return _NORMS[name]


def _close(cfg: Fields) -> None:
    if cfg.has("reshape_activations"):
        cfg.choice("reshape_activations", ("none",))
    skip(cfg, ("device",))
    close(cfg)
