"""From captured tokens to one number per request: the maximum over the tokens of a scope."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dictionaries.train.corpus import families
from dictionaries.train.dataset import Labelled

CHUNK = 8_192


@dataclass(frozen=True, slots=True)
class Maxima:
    """Each request's largest value of each column, over its prompt and over its reply; -inf where a scope is empty."""

    prompt: Tensor  # [R, n]
    reply: Tensor  # [R, n]

    def scope(self, concept: str) -> Tensor:
        """The scope that the concept is looked for in."""
        return self.reply if families()[concept].reply_side else self.prompt


def maxima(found: Labelled, values: Callable[[Tensor], Tensor], width: int) -> Maxima:
    """`values` maps tokens [T, d] to [T, width]; it is called on CHUNK tokens at a time."""
    out = Maxima(*(torch.full((len(found.requests), width), float("-inf")) for _ in range(2)))
    for start in range(0, len(found.labels), CHUNK):
        rows = slice(start, start + CHUNK)
        part, request = values(found.capture.x[rows]), found.capture.request[rows].long()
        for into, reply in ((out.prompt, False), (out.reply, True)):
            kept = found.in_reply[rows] == reply
            into.scatter_reduce_(0, request[kept][:, None].expand(-1, width), part[kept], "amax")
    return out
