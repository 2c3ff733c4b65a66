"""What the census of a recording says of the whole dictionary: it is about all requests, not only those compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saewatch.core.batch import Census

DENSE = 0.1
"""Share of tokens above which a latent is dense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CensusFigures:
    """Over the sampled tokens."""

    tokens: int
    l0: float
    unexplained: float | None
    """Share of the variance that the dictionary leaves out; None without a decoder."""
    latents: int
    dead: int
    dense: int
    overflowed: int = 0
    """Sampled tokens on which more latents fired than a list holds: they are in no other figure."""

    def __str__(self) -> str:
        unexplained = "-" if self.unexplained is None else f"{self.unexplained:.4f}"
        left_out = f"; {self.overflowed} tokens more had too many firings to be counted" if self.overflowed else ""
        return (
            f"census of {self.tokens} tokens: L0 {self.l0:.2f}, unexplained variance {unexplained},"
            f" {self.dead} latents dead and {self.dense} dense of {self.latents}{left_out}"
        )

    def json(self) -> dict[str, int | float | None]:
        """As `--json` has it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class CensusSums:
    """Adds up census records of one dictionary."""

    def __init__(self) -> None:
        self._count = np.zeros(0, np.uint64)
        self._tokens, self._overflowed, self._l0 = 0, 0, 0.0
        self._error, self._total = 0.0, 0.0

    def add(self, record: Census) -> None:
        """One more part. What is about the tokens stands in every part of a census, and counts with its first one."""
        if len(self._count) < record.latents:
            self._count = np.concatenate([self._count, np.zeros(record.latents - len(self._count), np.uint64)])
        self._count[record.first : record.first + len(record.count)] += record.count
        if record.first == 0:
            self._tokens += record.tokens
            self._overflowed += record.overflowed
            self._l0 += record.l0_mean * record.tokens
            self._error += record.squared_error
            self._total += record.squared_total

    @property
    def figures(self) -> CensusFigures | None:
        """None where no token was sampled."""
        if not self._tokens:
            return None
        return CensusFigures(
            tokens=self._tokens,
            l0=self._l0 / self._tokens,
            unexplained=self._error / self._total if self._error and self._total else None,
            latents=len(self._count),
            dead=int((self._count == 0).sum()),
            dense=int((self._count > DENSE * self._tokens).sum()),
            overflowed=self._overflowed,
        )
