"""Activations of a language model at one hook point, and which of their tokens a dictionary is trained on.

The model is cut behind the hook point's block and runs in float32 on its bf16 weights. Left out, as the engine's tap
leaves them out: a request's first token (its norm is a hundred times the others'), special tokens, and tokens whose
norm is above `max_norm`, five times the median of this text (a handful that would carry half of the variance).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

BATCH_TOKENS = 2_048
MAX_NORM_MEDIANS = 5.0


@dataclass(frozen=True, slots=True)
class Capture:
    """Kept tokens of many requests, in the requests' order: which request, and which of its tokens."""

    x: Tensor  # [N, d] f32
    request: Tensor  # [N] i32
    position: Tensor  # [N] i32
    norm: Tensor  # [N] f32
    cpu_s: float

    def below(self, max_norm: float) -> "Capture":
        """Without outliers."""
        kept = self.norm <= max_norm
        return Capture(self.x[kept], self.request[kept], self.position[kept], self.norm[kept], self.cpu_s)


class Reader:
    """A model cut behind block `layer`, and its tokenizer."""

    def __init__(self, model: Path, layer: int) -> None:
        self.model = model
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(model)
        self.special = sorted(set(self.tokenizer.get_added_vocab().values()))
        trunk = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval().model
        trunk.layers = trunk.layers[: layer + 1]
        trunk.norm = nn.Identity()  # what comes out is the residual stream, not its normalised copy
        self.trunk = trunk

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and their character spans in `text`."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found["input_ids"], found["offset_mapping"]

    def capture(self, requests: Sequence[Sequence[int]]) -> Capture:
        """Run `requests` (token ids) in batches of similar length; padding is on the right, hidden by causality."""
        started = time.process_time()
        parts: list[tuple[int, Tensor]] = []
        for batch in _batches(requests):
            longest = max(len(requests[i]) for i in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            for row, i in enumerate(batch):
                ids[row, : len(requests[i])] = torch.tensor(requests[i])
            with torch.inference_mode():
                out = self.trunk(ids, use_cache=False).last_hidden_state
            parts += [(i, out[row, : len(requests[i])].clone()) for row, i in enumerate(batch)]
        parts.sort(key=lambda part: part[0])
        return self._kept(requests, [x for _, x in parts], started)

    def _kept(self, requests: Sequence[Sequence[int]], xs: list[Tensor], started: float) -> Capture:
        lengths = torch.tensor([len(ids) for ids in requests])
        request = torch.repeat_interleave(torch.arange(len(requests)), lengths)
        position = torch.cat([torch.arange(int(n)) for n in lengths])
        ids = torch.cat([torch.tensor(ids) for ids in requests])
        kept = (position > 0) & ~torch.isin(ids, torch.tensor(self.special))
        x = torch.cat(xs)[kept]
        return Capture(x, request[kept].int(), position[kept].int(), x.norm(dim=1), time.process_time() - started)


def _batches(requests: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices, sorted by length, in batches of at most BATCH_TOKENS padded tokens."""
    batches: list[list[int]] = []
    for i in sorted(range(len(requests)), key=lambda i: len(requests[i])):
        if not batches or (len(batches[-1]) + 1) * len(requests[i]) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def max_norm(norms: Tensor) -> float:
    """Five medians, rounded to three digits: a number that a manifest can state exactly."""
    return float(f"{MAX_NORM_MEDIANS * float(norms.median()):.3g}")
