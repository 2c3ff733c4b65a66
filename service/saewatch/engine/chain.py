"""The tokens of one request, and of each block of them a digest that names all tokens up to its end.

What fires on a position depends on the tokens up to it and on the adapter, and on nothing else. So two requests whose
block has one digest have the same firings there, whoever sent them. A digest is over the digest of the block before it
and the block's own tokens, so that it costs the same wherever the block stands.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b

DIGEST_BYTES = 32
"""So long that no two chains meet, even if a client looks for two that do."""
_INT32 = "i"


class Chain:
    """One request's tokens, in blocks of ``block``."""

    def __init__(self, tokens: Iterable[int], *, block: int, adapter: str = "") -> None:
        self._block = block
        self._tokens = array(_INT32, tokens)
        self._first = _digest(adapter.encode("utf-8", "surrogatepass"))
        self._digests: list[bytes] = []  # of the blocks that were asked for, and of all before them

    def append(self, token: int) -> None:
        """The next token of the answer."""
        self._tokens.append(token)

    def begins_with(self, tokens: Iterable[int]) -> bool:
        """Whether these are its first tokens."""
        others = array(_INT32, tokens)
        return self._tokens[: len(others)] == others

    def digest(self, index: int) -> bytes | None:
        """Of block ``index``; None where not all of its tokens are known."""
        while len(self._digests) <= index:
            start = len(self._digests) * self._block
            tokens = self._tokens[start : start + self._block]
            if len(tokens) < self._block:
                return None
            self._digests.append(_digest((self._digests[-1] if start else self._first) + tokens.tobytes()))
        return self._digests[index]


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()
