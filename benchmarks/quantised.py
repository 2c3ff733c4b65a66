"""A tiny model in four bits, as compressed-tensors stores it, and the same model with its weights multiplied out.

Weights only: activations stay as they are, so that transformers with the second model computes what an engine with the
first one should. Each group's scale is a power of two, and no rounding comes in between.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

BITS, GROUP = 4, 32
METHOD = "compressed-tensors"
PLAIN = "-plain"
"""Behind the folder's name: where the same weights are multiplied out."""


def quantise(model: Path, folder: Path) -> Path:
    """Writes ``model`` with quantised linear layers to ``folder``, and what they mean to ``folder`` + `PLAIN`."""
    plain = folder.with_name(folder.name + PLAIN)
    for one in (folder, plain):
        shutil.copytree(model, one, dirs_exist_ok=True)
    packed: dict[str, Tensor] = {}
    whole: dict[str, Tensor] = {}
    for name, weight in load_file(model / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            packed[name] = whole[name] = weight
            continue
        steps, scale = _rounded(weight)
        of = name.removesuffix(".weight")
        packed |= {
            f"{of}.weight_packed": _packed(steps),
            f"{of}.weight_scale": scale,
            f"{of}.weight_shape": torch.tensor(weight.shape),
        }
        whole[name] = (steps.reshape(*scale.shape, GROUP) * scale[..., None]).reshape(weight.shape)
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(whole, plain / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": _CONFIG}))
    return folder


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole steps of -8 to 7 ``[out, in]``, and how long a step is ``[out, in / GROUP]``."""
    groups = weight.reshape(len(weight), -1, GROUP)
    scale = torch.exp2(torch.ceil(torch.log2(groups.abs().amax(-1) / 7)))
    return (groups / scale[..., None]).round().reshape(weight.shape), scale


def _packed(steps: Tensor) -> Tensor:
    """Eight steps to an int32, the first one lowest, each 8 higher than it is: ``[out, in / 8]``."""
    eights = (steps.to(torch.int64) + 8).reshape(len(steps), -1, 8)
    return (eights << (BITS * torch.arange(8))).sum(-1).to(torch.int32)


_CONFIG: dict[str, Any] = {
    "quant_method": METHOD,
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": BITS, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP},
            "input_activations": None,
            "output_activations": None,
        }
    },
    "ignore": ["lm_head"],
}
