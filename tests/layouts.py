"""Random dictionaries in the layouts of others, as files or as looked at, and the comparison with an oracle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from saewatch.core.manifest import Exclusions
from saewatch.dictionary.convert import Converted, convert
from saewatch.dictionary.formats import Source
from saewatch.dictionary.formats.forms import Form, Opened
from saewatch.dictionary.formats.source import Asked
from saewatch.engine.encode import Folded, compare, encode, grey_pairs

D_IN, LATENTS, K = 24, 96, 7
POINT = "resid_post.1"
TYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int32: "I32",
    torch.int64: "I64",
}


def noise(*shape: int, seed: int, by: float = 1.0) -> Tensor:
    """Normally distributed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * by


def linear(*, decoder_bias: str = "decoder.bias") -> dict[str, Tensor]:
    """torch's own layers: an encoder and a decoder with biases."""
    return {
        "encoder.weight": noise(LATENTS, D_IN, seed=1, by=D_IN**-0.5),
        "encoder.bias": noise(LATENTS, seed=2, by=0.2),
        "decoder.weight": noise(D_IN, LATENTS, seed=3, by=0.3),
        decoder_bias: noise(D_IN, seed=4, by=0.2),
    }


def jumps() -> dict[str, Tensor]:
    """A JumpReLU dictionary in SAELens' orientation."""
    return {
        "W_enc": noise(D_IN, LATENTS, seed=1, by=D_IN**-0.5),
        "b_enc": noise(LATENTS, seed=2, by=0.2),
        "W_dec": noise(LATENTS, D_IN, seed=3, by=0.3),
        "b_dec": noise(D_IN, seed=4, by=0.2),
        "threshold": noise(LATENTS, seed=5, by=0.3).abs(),
    }


def opened(
    tensors: Mapping[str, Tensor],
    config: Any = None,
    *,
    scalars: Mapping[str, Any] | None = None,
    weights: str = "weights.safetensors",
) -> Opened:
    """What looking at a file of these tensors gives."""
    return Opened(
        folder=Path(),
        weights=weights,
        forms={name: Form(TYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()},
        load=lambda: tensors,
        scalars=scalars or {},
        config_name="" if config is None else "config.json",
        config=config,
    )


def rows(count: int = 300, *, seed: int = 1) -> Tensor:
    """Activations ``[count, d_in]`` float32."""
    return noise(count, D_IN, seed=seed, by=2.0)


def values(converted: Converted, x: Tensor) -> Tensor:
    """Our encoding."""
    sheet, tensors = converted.manifest.encoder, converted.tensors
    return encode(x, tensors["W"], Folded(*(tensors[name].numpy() for name in ("lim", "s", "c"))), sheet)


def check(source: Source, expected: Callable[[Tensor], Tensor], *, at_least: int = 500) -> None:
    """Our encoding equals the oracle's: the same set outside the grey band, values within 1e-5."""
    converted, x = convert(source, exclusions=Exclusions()), rows()
    with torch.no_grad():
        theirs = expected(x)
    sheet, tensors = converted.manifest.encoder, converted.tensors
    folded = Folded(*(tensors[name].numpy() for name in ("lim", "s", "c")))
    verdict = compare(values(converted, x), theirs, grey_pairs(x, tensors["W"], folded, sheet))
    assert verdict.compared >= at_least, verdict
    assert verdict.in_grey_band <= 4, verdict
    assert verdict.good, verdict


def decoded(source: Source, expected: Callable[[Tensor], Tensor]) -> None:
    """Our decoder reconstructs what the oracle's does, from our encoding of raw rows."""
    converted, x = convert(source, exclusions=Exclusions()), rows()
    found = values(converted, x) @ converted.tensors["W_dec"].float() + converted.tensors["b_dec"]
    with torch.no_grad():
        assert torch.allclose(found, expected(x), atol=1e-4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Files of one format, small, and what has to be said when they are read."""

    weights: str
    tensors: Mapping[str, Any]
    config: Mapping[str, Any] | None = None
    config_name: str = "config.json"
    asked: Asked = field(default_factory=Asked)

    def write(self, folder: Path) -> Path:
        """Writes them; gives the folder."""
        path = folder / self.weights
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            np.savez(path, **{name: tensor.numpy() for name, tensor in self.tensors.items()})
        elif path.suffix == ".safetensors":
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, path)
        else:
            torch.save(dict(self.tensors), path)
        if self.config is not None:
            (folder / self.config_name).write_text(json.dumps(self.config))
        return folder


def transposed(tensors: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    """The same with some matrices transposed."""
    return {name: tensor.t().contiguous() if name in names else tensor for name, tensor in tensors.items()}


GEMMA_2: dict[str, Any] = {
    "architecture": "jump_relu",
    "model_name": "gemma-3-1b-pt",
    "hf_hook_point_in": "model.layers.1.output",
}
LLAMA: dict[str, Any] = {
    "d_model": D_IN,
    "d_sae": LATENTS,
    "expansion_factor": LATENTS // D_IN,
    "hook_point_in": "blocks.1.hook_resid_post",
    "hook_point_out": "blocks.1.hook_resid_post",
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.05,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 9.5, "out": 9.5},
    "sparsity_include_decoder_norm": True,
    "use_decoder_bias": True,
    "apply_decoder_bias_to_pre_encoder": False,
    "use_glu_encoder": False,
    "top_k": 50,
    "dtype": "torch.float32",
}
LIBRARY: dict[str, Any] = {
    "sae_type": "sae",
    "d_model": D_IN,
    "expansion_factor": LATENTS // D_IN,
    "hook_point_in": "blocks.1.hook_resid_post",
    "hook_point_out": "blocks.1.hook_resid_post",
    "act_fn": "jumprelu",
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
    "use_decoder_bias": True,
    "top_k": 50,
}
SPARSIFY: dict[str, Any] = {
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": LATENTS,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D_IN,
}
TRAINER: dict[str, Any] = {
    "trainer_class": "BatchTopKTrainer",
    "dict_class": "BatchTopKSAE",
    "activation_dim": D_IN,
    "dict_size": LATENTS,
    "k": K,
    "layer": 1,
    "lm_name": "made-1M",
    "submodule_name": "resid_post_layer_1",
}
COUNTS = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.3)}
_SAID = Asked(hook_point=POINT)


def sparsify_tensors() -> dict[str, Tensor]:
    """sparsify's names: its decoder is a parameter ``[n, d]``."""
    found = linear(decoder_bias="b_dec")
    found["W_dec"] = found.pop("decoder.weight").t().contiguous()
    return found


def layouts() -> Mapping[str, Layout]:
    """One of each format of others that has no library here or writes plain files, by its name in the table."""
    openai = {**linear(decoder_bias="pre_bias"), "activation": "TopK"}
    openai |= {"activation_state_dict": {"k": K, "postact_fn": "ReLU"}}
    openai["latent_bias"] = openai.pop("encoder.bias")
    qwen = transposed({name: tensor for name, tensor in jumps().items() if name != "threshold"}, "W_enc", "W_dec")
    lower = {name.replace("W_", "w_"): tensor for name, tensor in jumps().items()}
    log = {**linear(), "log_jumprelu_threshold": noise(LATENTS, seed=5, by=0.3) - 2.0}
    log |= {"dataset_average_activation_norm.blocks.1.hook_resid_post": torch.tensor(9.5)}
    return {
        "gemma_scope": Layout(weights="params.npz", tensors=jumps(), asked=_SAID),
        "gemma_scope_2": Layout(weights="params.safetensors", tensors=lower, config=GEMMA_2),
        "llama_scope": Layout(
            weights="checkpoints/final.safetensors", tensors=linear(), config=LLAMA, config_name="hyperparams.json"
        ),
        "lm_saes": Layout(weights="sae_weights.safetensors", tensors=log, config=LIBRARY),
        "sparsify": Layout(
            weights="sae.safetensors",
            tensors=sparsify_tensors(),
            config=SPARSIFY,
            config_name="cfg.json",
            asked=_SAID,
        ),
        "dictionary_learning": Layout(
            weights="ae.pt",
            tensors={**linear(decoder_bias="b_dec"), **COUNTS},
            config={"trainer": TRAINER, "buffer": {"ctx_len": 1024, "io": "out"}},
            asked=Asked(allow_pickle=True),
        ),
        "openai": Layout(weights="v5.pt", tensors=openai, asked=Asked(hook_point=POINT, allow_pickle=True)),
        "goodfire": Layout(
            weights="l1.pth",
            tensors={name.replace(".", "_linear."): tensor for name, tensor in linear().items()},
            asked=Asked(hook_point=POINT, allow_pickle=True),
        ),
        "qwen_scope": Layout(
            weights="layer1.sae.pt", tensors=qwen, asked=Asked(hook_point=POINT, k=K, allow_pickle=True)
        ),
    }
