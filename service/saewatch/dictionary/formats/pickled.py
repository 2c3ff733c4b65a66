"""Dictionaries that come as one checkpoint without a configuration: OpenAI's, Goodfire's, Qwen-Scope's.

**OpenAI**: ``pre_bias [d]``, ``encoder.weight [n, d]``, ``latent_bias [n]``, ``decoder.weight [d, n]``, and the
activation's name. The pre-bias is subtracted before the encoder. Rows are brought to mean 0 and deviation 1 *iff* the
activation is TopK: a convention of its code. Statistics of training lie beside them. **Goodfire** (and DeepSeek R1's,
which have the same layers under other names): an encoder and a decoder with biases, ReLU, nothing before.
**Qwen-Scope**: ``W_enc [n, d]``, ``W_dec [d, n]``, ``b_enc``, ``b_dec``; the k largest win, nothing before; k stands in
the repository's name only. None says which tensor of the model it reads.

Sources: https://github.com/openai/sparse_autoencoder, sparse_autoencoder/model.py at 764586ae; model cards of
Goodfire/Llama-3.1-8B-Instruct-SAE-l19 and Qwen/SAE-Res-Qwen3.5-27B-W80K-L0_100; sae_lens
loading/pretrained_sae_loaders.py of 6.54.12 (get_goodfire_huggingface_loader, deepseek_r1_sae_huggingface_loader,
qwen_scope_sae_huggingface_loader).
"""

from __future__ import annotations

from saewatch.core.errors import ManifestError, TensorFileError
from saewatch.core.manifest import InputNorm
from saewatch.dictionary.formats.forms import Opened
from saewatch.dictionary.formats.source import Asked, Source, point_of

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_QWEN = ("W_enc", "W_dec", "b_enc", "b_dec")


def recognises_openai(opened: Opened) -> bool:
    """Whether its two biases have the names that only OpenAI gives them."""
    return opened.holds("pre_bias", "latent_bias")


def recognises_goodfire(opened: Opened) -> bool:
    """Whether there is nothing but an encoder and a decoder with biases."""
    return opened.config is None and any(set(opened.forms) == set(_layers(name)) for name in ("_linear", ""))


def recognises_qwen(opened: Opened) -> bool:
    """Whether there is an encoder ``[n, d]`` without a threshold."""
    enc, bias = opened.shape("W_enc"), opened.shape("b_enc")
    bare = opened.config is None and set(opened.forms) == set(_QWEN)
    return bare and len(enc) == 2 and enc[:1] == bias


def read_openai(opened: Opened, asked: Asked) -> Source:
    """OpenAI's layout. TensorFileError for its tensors, ManifestError for an activation that does not fold."""
    rows, d_in = opened.sizes("encoder.weight")
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (rows, d_in), "decoder.weight": (d_in, rows)}
    shapes |= {"pre_bias": (d_in,), "latent_bias": (rows,)}
    shapes |= {name: (rows,) for name in _STATISTICS if name in opened.forms}
    found = opened.tensors(shapes, integers=_STATISTICS[:1])
    activation, k = _openai_activation(opened, rows)
    return Source(
        activation=activation,
        architecture="TopK" if k else "ReLU",
        W=found["encoder.weight"],
        vectors={"b_enc": found["latent_bias"].float()},
        files=opened.files,
        hook_point=point_of("", asked.hook_point),
        pre_bias=True,
        k=k,
        input_norm=InputNorm(kind="layer_norm", eps=1e-5) if k else InputNorm(),
        W_dec=found["decoder.weight"].t().contiguous(),
        b_dec=found["pre_bias"].float(),
    )


def read_goodfire(opened: Opened, asked: Asked) -> Source:
    """Goodfire's layout. TensorFileError for its tensors."""
    kind = "_linear" if opened.holds("encoder_linear.weight") else ""
    encoder, bias, decoder, decoder_bias = _layers(kind)
    rows, d_in = opened.sizes(encoder)
    shapes = {encoder: (rows, d_in), bias: (rows,), decoder: (d_in, rows), decoder_bias: (d_in,)}
    dtype = opened.forms[encoder].dtype
    found = opened.tensors(shapes, dtype=dtype if dtype == "BF16" else "F32")
    return Source(
        activation="relu",
        architecture="ReLU",
        W=found[encoder],
        vectors={"b_enc": found[bias].float()},
        files=opened.files,
        hook_point=point_of("", asked.hook_point),
        W_dec=found[decoder].t().contiguous(),
        b_dec=found[decoder_bias].float(),
    )


def read_qwen(opened: Opened, asked: Asked) -> Source:
    """Qwen-Scope's layout. ManifestError without k, TensorFileError for its tensors."""
    rows, d_in = opened.sizes("W_enc")
    opened.refuse_square("W_enc", asked)
    found = opened.tensors({"W_enc": (rows, d_in), "W_dec": (d_in, rows), "b_enc": (rows,), "b_dec": (d_in,)})
    if asked.k is None or asked.k > rows:
        hint = "How many latents win stands in the repository's name: L0_50 means 50."
        expected = f"--k K, from 1 to {rows}"
        raise ManifestError(f"{opened.weights}: k", found=asked.k or "nothing", expected=expected, hint=hint)
    return Source(
        activation="topk",
        architecture="TopK",
        W=found["W_enc"],
        vectors={"b_enc": found["b_enc"].float()},
        files=opened.files,
        hook_point=point_of("", asked.hook_point),
        k=asked.k,
        W_dec=found["W_dec"].t().contiguous(),
        b_dec=found["b_dec"].float(),
    )


def _layers(kind: str) -> tuple[str, str, str, str]:
    return f"encoder{kind}.weight", f"encoder{kind}.bias", f"decoder{kind}.weight", f"decoder{kind}.bias"


def _openai_activation(opened: Opened, rows: int) -> tuple[str, int | None]:
    """Ours, and k. As its loader has it, no name means ReLU; so does any other name there, which is refused here."""
    scalars = dict(opened.scalars)
    name = scalars.pop("activation", "ReLU")
    k = scalars.pop("activation_state_dict.k", None)
    after = scalars.pop("activation_state_dict.postact_fn", "ReLU")
    for key in sorted(scalars):
        raise TensorFileError(f"{opened.weights}: {key[:80]}", found="a plain value", expected="no such member")
    if name not in ("ReLU", "TopK") or after != "ReLU":
        subject = f"{opened.weights}: activation"
        hint = "A latent may fire below zero." if after == "Identity" else ""
        raise ManifestError(subject, found=f"{name}, {after}", expected="ReLU, or TopK with ReLU", hint=hint)
    if name == "ReLU":
        return "relu", None
    if type(k) is not int or not 1 <= k <= rows:
        raise ManifestError(f"{opened.weights}: activation_state_dict.k", found=k, expected=f"1 to {rows}")
    return "topk", k
