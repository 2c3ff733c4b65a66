"""What scoring gives: firings of texts in numpy columns, plain objects on top, and how much of it was seen.

Which features fire with a firing, and what a text's firings come to for each feature, is computed by the sidecar's own
code (`monitor.tables`, `monitor.tally`): a feature fires above its own floor, and prompt and answer are kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from saewatch.core.aggregate import Firings, Requests
from saewatch.core.batch import F32, I32, U16, Reason, SlotKind
from saewatch.core.catalogue import Feature
from saewatch.monitor.tables import WatchTable
from saewatch.monitor.tally import sums_of

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
PARTS = ("prompt", "answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much was seen. ``fed = encoded + Σ missed``, in tokens."""

    fed: int
    encoded: int
    missed: Mapping[str, int] = field(default_factory=dict)
    """By reason."""
    not_finite: int = 0
    """Of the missed: the model gave NaN or infinity, which is a fault of the model or of its type."""
    cut: int = 0
    """Tokens that were left out beforehand, because the model does not take as many."""

    @property
    def share(self) -> float:
        """Encoded tokens over fed ones; 1 where nothing was fed."""
        return self.encoded / self.fed if self.fed else 1.0

    def __str__(self) -> str:
        missed = ", ".join(f"{tokens} {reason}" for reason, tokens in self.missed.items()) or "none"
        share = math.floor(self.share * 1000) / 10  # never more than it was
        parts = [f"coverage {share:.1f}% of {self.fed} tokens fed (missed: {missed})"]
        parts += [f"{self.not_finite} of them NOT FINITE"] if self.not_finite else []
        parts += [f"{self.cut} tokens cut off beforehand"] if self.cut else []
        return "; ".join(parts)


def total(parts: Sequence[Coverage]) -> Coverage:
    """The coverage of all ``parts`` together."""
    reasons = sorted({reason for part in parts for reason in part.missed})
    return Coverage(
        fed=sum(part.fed for part in parts),
        encoded=sum(part.encoded for part in parts),
        missed={reason: sum(part.missed.get(reason, 0) for part in parts) for reason in reasons},
        not_finite=sum(part.not_finite for part in parts),
        cut=sum(part.cut for part in parts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """One feature on one token, through one of the latents that it reads, or its direction."""

    feature: Feature
    unit: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token and what fired on it."""

    position: int
    id: int
    text: str
    prompt: bool
    encoded: bool
    """False: excluded, or the answer's last token, which is not fed."""
    firings: tuple[Fired, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What one feature did in one part of a text."""

    feature: Feature
    part: str
    """prompt | answer."""
    firings: int
    value: float
    """The largest."""
    position: int
    """Of the largest."""
    first: int
    """Position of the first firing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """One text. Its columns have an entry for each (token, latent or direction, feature), ascending."""

    index: int  # among what was given
    ids: I64  # [T] tokens of the prompt, then of the answer
    pieces: tuple[str, ...]  # [T] the text that each adds; empty without a tokenizer
    prompt_len: int
    excluded: Flags  # [fed] the dictionary was not trained on such a token
    not_finite: int
    cut: int
    position: I32  # [K]
    slot: U16  # [K]
    feature: I32  # [K] index in the table's features
    value: F32  # [K]
    table: WatchTable

    @property
    def coverage(self) -> Coverage:
        """How much of it was seen."""
        missed = int(self.excluded.sum())
        return Coverage(
            fed=len(self.excluded),
            encoded=len(self.excluded) - missed,
            missed={Reason.EXCLUDED.label: missed} if missed else {},
            not_finite=self.not_finite,
            cut=self.cut,
        )

    @property
    def peaks(self) -> tuple[Peak, ...]:
        """What each feature came to, prompt and answer apart, as in a served request's record."""
        key = 2 * self.feature.astype(np.int64) + (self.position >= self.prompt_len)
        sums = sums_of(key, self.position, self.value)
        return tuple(
            Peak(
                feature=self.table.features[key // 2],
                part=PARTS[key % 2],
                firings=int(sums.count[index]),
                value=float(sums.largest[index]),
                position=int(sums.peak[index]),
                first=int(sums.first[index]),
            )
            for index, key in enumerate(sums.key.tolist())
        )

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Every token with what fired on it."""
        fired: dict[int, list[Fired]] = {}
        columns = (self.position, self.slot, self.feature, self.value)
        for position, slot, feature, value in zip(*(column.tolist() for column in columns), strict=True):
            one = Fired(feature=self.table.features[feature], unit=unit_of(self.table, slot), value=value)
            fired.setdefault(position, []).append(one)
        return tuple(
            Token(
                position=position,
                id=token,
                text=self.pieces[position],
                prompt=position < self.prompt_len,
                encoded=position < len(self.excluded) and not self.excluded[position],
                firings=tuple(fired.get(position, ())),
            )
            for position, token in enumerate(self.ids.tolist())
        )


def unit_of(table: WatchTable, slot: int) -> str:
    """What a slot reads, in words: ``latent 642``."""
    return f"{SlotKind(table.kind[slot]).name.lower()} {table.unit[slot]}"


class Scores:
    """Scored texts. The columns ``text`` (its index), ``token`` (its id) and those of `Scored` run over all of them."""

    def __init__(self, texts: Iterable[Scored], table: WatchTable) -> None:
        self.texts = tuple(texts)
        self.table = table
        self.text: I32 = self._column(lambda one: np.full(len(one.position), one.index, np.int32), np.int32)
        self.position: I32 = self._column(lambda one: one.position, np.int32)
        self.token: I64 = self._column(lambda one: one.ids[one.position], np.int64)
        self.slot: U16 = self._column(lambda one: one.slot, np.uint16)
        self.feature: I32 = self._column(lambda one: one.feature, np.int32)
        self.value: F32 = self._column(lambda one: one.value, np.float32)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Those that were watched."""
        return self.table.features

    @property
    def coverage(self) -> Coverage:
        """Over all texts."""
        return total([one.coverage for one in self.texts])

    def columns(self) -> tuple[Requests, Firings]:
        """What was read and what fired, as `core.aggregate` makes scores of it."""
        scored = np.concatenate([np.zeros(0, np.bool_), *(~one.excluded for one in self.texts)])
        requests = Requests.of(
            [len(one.excluded) for one in self.texts], [one.prompt_len for one in self.texts], scored
        )
        firings = Firings(
            request=np.repeat(np.arange(len(self.texts)), [len(one.position) for one in self.texts]),
            position=self.position.astype(np.int64),
            feature=self.feature.astype(np.int64),
            unit=self.table.units(self.feature, self.slot),
            value=self.value,
        )
        return requests, firings

    def frame(self) -> pd.DataFrame:
        """One row for each firing of a feature."""
        units = [unit_of(self.table, slot) for slot in range(self.table.slots)]
        pieces = [one.pieces[position] for one in self.texts for position in one.position.tolist()]
        prompt = self._column(lambda one: one.position < one.prompt_len, np.bool_)
        return pd.DataFrame(
            {
                "text": self.text,
                "position": self.position,
                "token_id": self.token,
                "token": _words(pieces),
                "prompt": prompt,
                **self._named([self.features[index] for index in self.feature.tolist()]),
                "unit": _words([units[slot] for slot in self.slot.tolist()]),
                "value": self.value,
            }
        )

    def summary(self) -> pd.DataFrame:
        """One row for each text, part of it, and feature that fired there: how often, the largest value, where."""
        found = [(one, peak) for one in self.texts for peak in one.peaks]
        return pd.DataFrame(
            {
                "text": np.array([one.index for one, _ in found], np.int32),
                **self._named([peak.feature for _, peak in found]),
                "part": _words([peak.part for _, peak in found]),
                "firings": np.array([peak.firings for _, peak in found], np.int64),
                "value": np.array([peak.value for _, peak in found], np.float32),
                "position": np.array([peak.position for _, peak in found], np.int32),
                "token": _words([one.pieces[peak.position] for one, peak in found]),
            }
        )

    def _column(self, of: Callable[[Scored], npt.NDArray[Any]], dtype: type) -> npt.NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(of(one) for one in self.texts)])

    @staticmethod
    def _named(features: Sequence[Feature]) -> dict[str, pd.Series]:
        return {
            "feature": _words([one.id for one in features]),
            "label": _words([one.label for one in features]),
            "label_review": _words([one.review_state for one in features]),
            "category": _words([one.category for one in features]),
        }


def _words(values: Sequence[str]) -> pd.Series:
    return pd.Series(values, dtype="str")
