"""What a dictionary comes to on text without labels: how much it explains, how many latents fire, which never do.

    FVU     fraction of variance unexplained: sum |x - x_hat|^2 over sum |x - mean|^2, over the whole sample. A mean of
            tokens' own ratios would be another number, in which short rows weigh as much as long ones.
    L0      latents that fire on a token; its deviation is 0 where a fixed number wins
    dead    latents that fired on no token; dense: on more than one in ten. Both rest on how many tokens were read

Tokens that the data sheet excludes take no part. Those that only their norm excludes are measured once more with the
others: a few of them may hold most of the variance (dictionaries of SmolLM2: 63 of 405,756 tokens held 54 %), and
whoever leaves them in reads another FVU. Everything is a sum over rows, so that memory does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from saewatch.core.manifest import Exclusions
from saewatch.dictionary.align import kept
from saewatch.dictionary.coder import Coder

DENSE = 0.1
"""A latent that fires on more tokens than this share is dense."""
ENOUGH = 100_000
"""Tokens after which a latent that never fired is called dead: one in 3,000 fires 30 times in them."""
SETS = ("kept", "outliers", "prompt", "reply")
"""Tokens that are taken together: that take part; these and those of too great a norm; the parts of requests."""
_STEPS = 4  # bins of a histogram for each doubling
_LOWEST, _BINS = -40, 160  # from 2^-10 to 2^30


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between edges; what lies outside is in the first and last bin."""

    edges: tuple[float, ...]  # [bins + 1], ascending
    counts: tuple[int, ...]

    def plain(self) -> dict[str, list[float] | list[int]]:
        """For programs."""
        return {"edges": list(self.edges), "counts": list(self.counts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A dictionary on one set of texts. None: there is nothing to say it of."""

    tokens: int
    excluded: int
    """Tokens of the texts that took no part."""
    outliers: int
    """Of them, those that only their norm excludes."""
    latents: int
    l0: float | None
    sd_l0: float | None
    dead: float | None
    dense: float | None
    fvu: Mapping[str, float | None]
    """By `SETS`."""
    cosine: float | None
    """Mean over tokens, of the row and its reconstruction."""
    mean_norm: float | None
    values: Histogram
    norms: Histogram
    l0s: Histogram

    @property
    def sparsity(self) -> float | None:
        """Feature sparsity ratio: the share of latents that fire on a token."""
        return self.l0 / self.latents if self.l0 is not None and self.latents else None


class Measurement:
    """Running sums over texts. ``rates``: how often each latent fired."""

    def __init__(self, coder: Coder, rules: Exclusions) -> None:
        self.coder, self.rules = coder, rules
        self.tokens = self.excluded = self.outliers = 0
        self._fired = torch.zeros(coder.sheet.latents, dtype=torch.int64)
        self._sums = {name: _Variance(coder.sheet.d_in) for name in SETS}
        self._cosine = self._norm = 0.0
        self._values, self._norms = np.zeros(_BINS, np.int64), np.zeros(_BINS, np.int64)
        self._l0s = np.zeros(coder.sheet.latents + 1, np.int64)

    def add(self, ids: Sequence[int], x: Tensor, prompt_len: int) -> None:
        """The rows ``x [T, d_in]`` of one text, with its tokens."""
        taken = kept(self.rules, ids, x)
        loose = kept(replace(self.rules, max_norm=None), ids, x) & x.isfinite().all(dim=1)
        prompt = torch.arange(len(ids)) < prompt_len
        self.tokens += int(taken.sum())
        self.excluded += int((~taken).sum())
        self.outliers += int((loose & ~taken).sum())
        first = 0
        for part, values, decoded in self.coder.both(x[loose]):
            own = slice(first, first + len(part))
            masks = {"kept": taken[loose][own], "prompt": prompt[loose][own]}
            self._add(part, values[:, : self.coder.sheet.latents], decoded, masks)
            first += len(part)

    def _add(self, x: Tensor, values: Tensor, decoded: Tensor | None, masks: Mapping[str, Tensor]) -> None:
        inside = masks["kept"]
        fires = values[inside] > 0
        self._fired += fires.sum(0)
        self._l0s += np.bincount(fires.sum(1).numpy(), minlength=len(self._l0s))
        self._values += _binned(values[inside][fires])
        norms = torch.linalg.vector_norm(x[inside], dim=1)
        self._norms += _binned(norms)
        self._norm += float(norms.double().sum())
        if decoded is None:
            return
        self._cosine += float(torch.nn.functional.cosine_similarity(x[inside], decoded[inside], dim=1).double().sum())
        parts = {
            "kept": inside,
            "outliers": torch.ones_like(inside),
            "prompt": inside & masks["prompt"],
            "reply": inside & ~masks["prompt"],
        }
        for name, rows in parts.items():
            self._sums[name].add(x[rows], decoded[rows])

    @property
    def rates(self) -> Tensor:
        """Share of the tokens that each latent fired on, ``[latents]``."""
        return self._fired.float() / max(self.tokens, 1)

    def figures(self) -> Figures:
        """What it has come to so far."""
        n, latents = self.tokens, self.coder.sheet.latents
        steps = np.arange(len(self._l0s))
        l0 = float((self._l0s * steps).sum() / n) if n and latents else None
        spread = None if l0 is None else float(np.sqrt((self._l0s * (steps - l0) ** 2).sum() / n))
        decodes = self.coder.W_dec is not None and n > 0
        return Figures(
            tokens=n,
            excluded=self.excluded,
            outliers=self.outliers,
            latents=latents,
            l0=l0,
            sd_l0=spread,
            dead=float((self._fired == 0).double().mean()) if n and latents else None,
            dense=float((self.rates > DENSE).double().mean()) if n and latents else None,
            fvu={name: one.unexplained() for name, one in self._sums.items()},
            cosine=self._cosine / n if decodes else None,
            mean_norm=self._norm / n if n else None,
            values=_histogram(self._values),
            norms=_histogram(self._norms),
            l0s=_counted(self._l0s),
        )


class _Variance:
    """Sums for one FVU, in float64."""

    def __init__(self, d: int) -> None:
        self.n, self._total, self._squares, self._error = 0, torch.zeros(d, dtype=torch.float64), 0.0, 0.0

    def add(self, x: Tensor, decoded: Tensor) -> None:
        wide = x.double()
        self.n += len(x)
        self._total += wide.sum(0)
        self._squares += float(wide.square().sum())
        self._error += float((wide - decoded.double()).square().sum())

    def unexplained(self) -> float | None:
        """None without variance."""
        variance = self._squares - float(self._total.square().sum()) / max(self.n, 1)
        return self._error / variance if self.n > 1 and variance > 0 else None


def unexplained(x: Tensor, decoded: Tensor) -> float | None:
    """The FVU of rows ``[T, d]`` that are there as a whole; None without variance."""
    found = _Variance(x.shape[1])
    found.add(x, decoded)
    return found.unexplained()


# --- histograms -------------------------------------------------------------------------------------------------------
def _binned(values: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Counts by quarter octaves of values above 0."""
    above = values[values > 0].double()
    place = (above.log2() * _STEPS).floor().long().sub(_LOWEST).clamp(0, _BINS - 1)
    return torch.bincount(place, minlength=_BINS).numpy()


def _histogram(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Histogram:
    """Without the empty bins at both ends."""
    there = np.flatnonzero(counts)
    if not len(there):
        return Histogram((), ())
    first, last = int(there[0]), int(there[-1])
    edges = [2.0 ** ((place + _LOWEST) / _STEPS) for place in range(first, last + 2)]
    return Histogram(tuple(float(f"{edge:.4g}") for edge in edges), tuple(counts[first : last + 1].tolist()))


def _counted(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Histogram:
    """Of whole numbers, in at most some 40 bins of one width."""
    there = np.flatnonzero(counts)
    if not len(there):
        return Histogram((), ())
    first, last = int(there[0]), int(there[-1])
    width = max(1, -(-(last - first + 1) // 40))
    starts = range(first, last + 1, width)
    edges = [float(start) for start in (*starts, starts[-1] + width)]
    return Histogram(tuple(edges), tuple(int(counts[start : start + width].sum()) for start in starts))
