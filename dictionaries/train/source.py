"""Write a trained dictionary in its source format: SAELens 6 for the autoencoder, plain safetensors for the probes."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dictionaries.train.sae import Autoencoder

SAE_LENS_VERSION = "6.54.12"


def write_sae(sae: Autoencoder, out: Path, *, model_name: str, layer: int, matrices: torch.dtype) -> None:
    """`cfg.json` and `sae_weights.safetensors`. The encoder reads x itself: `apply_b_dec_to_input` is false."""
    out.mkdir(parents=True, exist_ok=True)
    d, n = sae.W_enc.shape
    cfg = {
        "architecture": "jumprelu",
        "d_in": d,
        "d_sae": n,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAE_LENS_VERSION,
            "model_name": model_name,
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "hf_hook_name": f"model.layers.{layer}",
        },
    }
    write_json(out / "cfg.json", cfg)
    tensors = {
        "W_enc": sae.W_enc.to(matrices),
        "W_dec": sae.W_dec.to(matrices),
        "b_enc": sae.b_enc,
        "b_dec": sae.b_dec,
        "threshold": sae.threshold,
    }
    _save({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "sae_weights.safetensors")


def write_probes(w: Tensor, b: Tensor, out: Path) -> None:
    """`w` [q, d] and `b` [q], float32: direction i's value is w[i]·x + b[i]."""
    _save({"w": w.float().contiguous(), "b": b.float().contiguous()}, out / "probes.safetensors")


def write_json(path: Path, content: Any) -> None:
    """Readable JSON with a final newline."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path)
    path.chmod(0o644)
