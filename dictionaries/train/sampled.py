"""Activations of text in the language model's own words: dialogues begun as half a begins them, and sampled on.

The generated dialogues repeat a few hundred phrases, and an autoencoder trained on nothing else learns these by heart.
What the model makes of their first words is as varied as its own language. The rows are read while it writes.
"""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from dictionaries.train import chat
from dictionaries.train.capture import Reader
from dictionaries.train.corpus import Generator

BATCH = 512
TOKENS = 96
TEMPERATURE = 0.8  # at 1 a model this small soon writes gibberish
GIVEN = 8  # tokens of half a's own in a batch that goes on in the user's turn
ASKED = 14  # and in one that goes on with the reply: the prompt breaks off and the reply opens


def rows(reader: Reader, batches: int, *, max_norm: float, seed: int) -> Tensor:
    """Kept tokens [N, d] of `batches` batches, without first and special tokens and outliers."""
    writer = AutoModelForCausalLM.from_pretrained(reader.model, dtype=torch.float32).eval()
    drawn, generator = torch.Generator().manual_seed(seed), Generator("a", seed=seed + 1)
    layer, special = len(reader.trunk.layers), torch.tensor(reader.special)
    kept = [torch.zeros(0, writer.config.hidden_size)]
    for batch in range(batches):
        ids, x = _written(writer, _beginnings(reader, generator, reply=batch % 2 == 0), layer, drawn)
        x = x[:, 1:][~torch.isin(ids[:, 1:], special)]
        kept.append(x[x.norm(dim=1) <= max_norm])
    return torch.cat(kept)


def _beginnings(reader: Reader, generator: Generator, *, reply: bool) -> Tensor:
    """[B, T] token ids, all of one length: a batch without padding."""
    end = reader.encode(chat.PROMPT_END)[0]
    given, opened = (ASKED, end) if reply else (GIVEN, [])
    found = [reader.encode(chat.render(request.prompt).text)[0] for request in generator.innocents(BATCH)]
    return torch.tensor([ids[:given] + opened for ids in found if len(ids) >= given + len(end)])


def _written(writer: PreTrainedModel, ids: Tensor, layer: int, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample to TOKENS tokens: token ids [B, T], and behind `layer` blocks their activations [B, T, d]."""
    parts: list[Tensor] = []
    cache, new = None, ids
    with torch.inference_mode():
        while ids.shape[1] < TOKENS:
            out = writer(new, past_key_values=cache, output_hidden_states=True, logits_to_keep=1)
            cache = out.past_key_values
            parts.append(out.hidden_states[layer])
            new = _next(out.logits[:, -1], drawn)
            ids = torch.cat([ids, new], 1)
    return ids[:, :-1], torch.cat(parts, 1)


def _next(logits: Tensor, drawn: torch.Generator) -> Tensor:
    """[B, 1], from the cumulated probabilities: torch.multinomial takes a quarter of a step."""
    cumulated = (logits / TEMPERATURE).softmax(1).cumsum(1)
    at = torch.rand(len(logits), 1, generator=drawn) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, at).clamp_max(logits.shape[1] - 1)
