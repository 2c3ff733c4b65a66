"""What an engine has beside a tiny model: a draft model, an EAGLE head, LoRA adapters, all of random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def make_draft(model: Path, folder: Path) -> Path:
    """A model that often says what ``model`` says, and often not: the same weights with noise."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    chance = torch.Generator().manual_seed(5)
    weights = load_file(model / "model.safetensors")
    noisy = {name: one + 0.01 * torch.randn(one.shape, generator=chance) for name, one in weights.items()}
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_eagle(model: Path, folder: Path) -> Path:
    """An EAGLE head: the target's own first block, on what the target made of the token before."""
    folder.mkdir(exist_ok=True)
    config = json.loads((model / "config.json").read_text())
    config |= {"architectures": ["EagleLlamaForCausalLM"], "num_hidden_layers": 1, "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(model / "model.safetensors")
    chance = torch.Generator().manual_seed(6)
    width = config["hidden_size"]
    kept = {name.removeprefix("model."): one.clone() for name, one in weights.items() if ".layers.0." in name}
    kept["fc.weight"] = torch.cat([torch.randn(width, width, generator=chance) * 0.02, torch.eye(width)], dim=1)
    kept = {name: one for name, one in kept.items() if name != "layers.0.input_layernorm.weight"}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


DRAFTERS: Mapping[str, Callable[[Path, Path], Path]] = {"draft": make_draft, "eagle": make_eagle}
METHODS: Mapping[str, str] = {"draft": "draft_model", "eagle": "eagle"}
"""As vLLM names what they do."""
NGRAM: Mapping[str, Any] = {
    "method": "ngram",
    "num_speculative_tokens": 3,
    "prompt_lookup_max": 3,
    "prompt_lookup_min": 1,
}
"""Drafts from the text itself."""

RANK = 4


def make_adapter(model: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter of random weights on two projections of each block."""
    folder.mkdir(exist_ok=True)
    weights = load_file(model / "model.safetensors")
    chance = torch.Generator().manual_seed(seed)
    found = {}
    for name, one in weights.items():
        if name.endswith(("q_proj.weight", "down_proj.weight")):
            base = f"base_model.model.{name.removesuffix('.weight')}"
            found[f"{base}.lora_A.weight"] = torch.randn(RANK, one.shape[1], generator=chance) * 0.2
            found[f"{base}.lora_B.weight"] = torch.randn(one.shape[0], RANK, generator=chance) * 0.2
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj", "down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "bias": "none", "task_type": "CAUSAL_LM"}))
    return folder


def merged(model: Path, adapter: Path) -> Path:
    """``model`` with the adapter's product added to its weights."""
    folder = adapter.with_name(adapter.name + "-merged")
    shutil.copytree(model, folder, dirs_exist_ok=True)
    weights, parts = load_file(model / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name in [name for name in parts if ".lora_A." in name]:
        of = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        weights[of] = weights[of] + 2.0 * parts[name.replace(".lora_A.", ".lora_B.")] @ parts[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
