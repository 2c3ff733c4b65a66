"""`Firings`: what one message of the stream holds, as numpy columns, and as plain objects for whoever asks for them.

Three groups of columns: *spans* are the rows that were seen, *missed* those that were fed and not seen, and the others
have one item for each feature that fired on a row, so a latent that serves two features stands there twice. A column of
requests holds indexes into ``requests``, -1 where the request is not known.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from saewatch.client.tables import UNLABELLED, Request, Table
from saewatch.core import label as labels
from saewatch.core.batch import F32, I32, U32

SHOWN = 4
"""Firings that a printed line shows."""
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """A feature firing: one feature that fired on one token. It is correlational evidence, not a detection."""

    feature: str
    """Its id; empty when the sidecar does not know what the latent or direction stands for."""
    label: str
    label_review: str
    """What a person said of the label: unreviewed, accepted, rejected; empty where nothing is recorded."""
    category: str
    severity: str
    value: float
    request: Request | None
    """None when it is not known."""
    position: int
    prompt: bool | None
    """Whether the token is the prompt's; None when the request is not known."""
    hook_point: str
    time_ns: int
    """When the engine's step ended; of the last one in its message, which gathers 20 ms."""
    unit: str
    """What fired: ``latent 12`` or ``direction 0``."""

    @property
    def shown(self) -> str:
        """The label, marked unless a person accepted it."""
        return labels.shown(self.label, self.label_review)

    def __str__(self) -> str:
        where = "?" if self.prompt is None else "prompt" if self.prompt else "answer"
        return f"{self.request or 'unknown'} {where} {self.position} {self.feature or self.unit} {self.value:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Firings:
    """Rows of several requests of one stream, and the features that fired on them.

    It iterates over `Firing` objects, and its length is their number.
    """

    resume_token: str = field(repr=False)
    """A watch that begins with it goes on behind this event."""
    table: Table
    """The stream, its features, and what its slots read."""
    requests: tuple[Request, ...]
    first_seq: int
    last_seq: int
    first_time_ns: int
    last_time_ns: int
    slot_firings: int
    """Firings of latents and directions in the message; one that serves several features is several items below."""
    span_request: I32  # [R]
    span_position: U32  # [R] of the first row
    span_tokens: U32  # [R]
    span_origin: tuple[str, ...]  # [R] computed, recomputed or reused
    missed_request: I32  # [M]
    missed_reason: tuple[str, ...]  # [M]
    missed_tokens: U32  # [M]
    feature: I32  # [K] index into table.features, or UNLABELLED
    request: I32  # [K]
    position: I64  # [K]
    slot: U32  # [K]
    value: F32  # [K]

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return True  # `while event := next(watch, None)` must not end where nothing fired

    def __iter__(self) -> Iterator[Firing]:
        columns = (self.feature, self.request, self.position, self.slot, self.value)
        for feature, request, position, slot, value in zip(*(one.tolist() for one in columns), strict=True):
            yield self._firing(feature, request, position, slot, value)

    @property
    def tokens(self) -> int:
        """Rows that were seen."""
        return int(self.span_tokens.sum(dtype=np.int64))

    @property
    def recomputed(self) -> int:
        """Of these, rows that were reported before, and computed again after a preemption."""
        return sum(
            tokens
            for tokens, origin in zip(self.span_tokens.tolist(), self.span_origin, strict=True)
            if origin == "recomputed"
        )

    @property
    def missed(self) -> dict[str, int]:
        """Tokens that were fed and not seen, by reason."""
        found: dict[str, int] = {}
        for reason, tokens in zip(self.missed_reason, self.missed_tokens.tolist(), strict=True):
            found[reason] = found.get(reason, 0) + tokens
        return found

    @property
    def prompt(self) -> Bools:
        """[K] Whether the token is the prompt's; false where the request is not known."""
        lengths = np.array([*(one.prompt_len for one in self.requests), 0], dtype=np.int64)
        return self.position < lengths[self.request]

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Columns of one item for each feature firing, for ``pandas.DataFrame``; what is not known is an empty text."""
        features, requests = self.table.features, self.requests
        return {
            "time_ns": np.full(len(self), self.last_time_ns, dtype=np.int64),
            "request": _texts([one.name for one in requests])[self.request],
            "tenant": _texts([one.tenant for one in requests])[self.request],
            "fit": _texts([one.fit for one in requests])[self.request],
            "position": self.position,
            "prompt": self.prompt,
            "feature": _texts([one.id for one in features])[self.feature],
            "category": _texts([one.category for one in features])[self.feature],
            "severity": _texts([one.severity for one in features])[self.feature],
            "slot": self.slot,
            "value": self.value,
        }

    def _firing(self, feature: int, request: int, position: int, slot: int, value: float) -> Firing:
        of = self.table.features[feature] if feature != UNLABELLED else None
        who = self.requests[request] if request >= 0 else None
        return Firing(
            feature=of.id if of else "",
            label=of.label if of else "",
            label_review=of.review_state if of else "",
            category=of.category if of else "",
            severity=of.severity if of else "",
            value=value,
            request=who,
            position=position,
            prompt=position < who.prompt_len if who else None,
            hook_point=self.table.stream.hook_point,
            time_ns=self.last_time_ns,
            unit=self.table.unit_name(slot),
        )

    def __str__(self) -> str:
        shown = "; ".join(str(one) for one in itertools.islice(self, SHOWN)) or "nothing fired"
        more = f"; and {len(self) - SHOWN} more" if len(self) > SHOWN else ""
        missed = f", missed {words(self.missed)}" if self.missed else ""
        return f"{clock(self.last_time_ns)} {self.tokens} tokens seen{missed}: {shown}{more}"


def words(counts: dict[str, int]) -> str:
    """``120 cached, 4 queue_full``."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def clock(time_ns: int) -> str:
    """The local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(time_ns / 1e9))


def _texts(known: list[str]) -> Texts:
    """A column to pick from, whose last item, at -1, is what is not known."""
    return np.array([*known, ""], dtype=object)
