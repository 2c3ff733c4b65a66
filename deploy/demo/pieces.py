"""The text that each token of a chat adds, without what the chat template adds: special tokens and the roles' names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

TURN = "<|im_start|>"
BEHIND = 8
"""Tokens before the new ones that are decoded with them: no character has as many."""


@dataclass(slots=True)
class Pieces:
    """Grows with its tokens; characters of several tokens appear with their last one."""

    tokenizer: Tokenizer
    tokens: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    _role: bool = False

    def upto(self, tokens: Sequence[int]) -> list[str]:
        """The pieces of ``tokens``, which begin with those of the last call."""
        for token in tokens[len(self.tokens) :]:
            start = max(0, len(self.tokens) - BEHIND)
            before = self._decoded(start)
            self.tokens.append(token)
            self._role = self._role or self.tokenizer.id_to_token(token) == TURN
            text = self._decoded(start)[len(before) :]
            self.texts.append("" if self._role else text)
            self._role = self._role and "\n" not in text
        return self.texts

    def _decoded(self, start: int) -> str:
        text: str = self.tokenizer.decode(self.tokens[start:], skip_special_tokens=True)
        return text.rstrip("\N{REPLACEMENT CHARACTER}")
