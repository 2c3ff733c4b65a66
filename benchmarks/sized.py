"""A Llama-like model of some hundred million random parameters, and a random dictionary for it.

What serving and watching cost does not depend on what the weights say, but on how many there are. The dictionary brings
each row to the norm ``sqrt(d)`` and its rows have norm 1, so a pre-activation is spread like a standard normal and the
threshold alone decides how often a latent fires.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from saewatch.dictionary.convert import import_source

WIDTH, LAYERS, LATENTS, WATCHED = 1024, 20, 16_384, 64
HOOK_LAYER = LAYERS // 2
VOCABULARY = 32_000
THRESHOLD = 0.6745
"""A quarter of the watched latents fire on a token: 16, far more than of a real dictionary."""


def make_model(folder: Path) -> Path:
    """Writes the model, 323 million parameters in float32; the same one each time."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2816,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    transformers.AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": []}))  # requests are token ids
    return folder


def make_bundle(model: Path, folder: Path) -> Path:
    """The bundle ``folder``: 16,384 random latents, 64 of them watched, each as a feature."""
    source = folder.with_name(folder.name + "-source")
    source.mkdir(parents=True)
    chance = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(LATENTS, WIDTH, generator=chance), dim=1)
    tensors = {
        "W_enc": rows.t().contiguous(),
        "W_dec": rows,
        "b_enc": torch.zeros(LATENTS),
        "b_dec": torch.zeros(WIDTH),
        "threshold": torch.full((LATENTS,), THRESHOLD),
    }
    save_file(tensors, source / "sae_weights.safetensors")
    cfg = {
        "architecture": "jumprelu",
        "d_in": WIDTH,
        "d_sae": LATENTS,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "constant_norm_rescale",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": "random",
            "hook_name": f"blocks.{HOOK_LAYER}.hook_resid_post",
        },
    }
    (source / "cfg.json").write_text(json.dumps(cfg))
    (source / "stated.json").write_text(json.dumps({"exclude_first": 1, "exclude_special": []}))
    features = [_feature(number, latent) for number, latent in enumerate(range(0, LATENTS, LATENTS // WATCHED), 1)]
    (source / "features.json").write_text(json.dumps(features))
    import_source(source, model, folder)
    return folder


def _feature(number: int, latent: int) -> dict[str, object]:
    return {
        "id": f"random.l{number}",
        "label": f"latent {latent}",
        "category": "x.serving",
        "severity": "low",
        "kind": "latent",
        "latents": [latent],
        "floor": 0.0,
        "aggregation": "max",
        "claim": "correlational",
    }
