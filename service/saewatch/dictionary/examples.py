"""Examples of what a feature fires on, and of what it does not, gathered in one pass over requests of any number.

For each feature, of at most ``each``:

    top       requests with the largest peaks
    strata    requests drawn evenly from each quarter of its peaks: weak firings are seen as often as strong ones
    near      requests just not over it: a peak above the floor and not over the calibrated limit, or, where nothing
              fired, a token on which it has its peak elsewhere
    silent    any requests in which it does not fire

A request gives one example of a feature, around its peak. It *fires* there where the peak is over the calibrated
limit, or over the floor where there is none. What is kept is bounded: heaps and reservoirs (Vitter 1985, algorithm R),
whatever passes by. The same requests in the same order, with the same seed, give the same examples.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import F32
from saewatch.core.catalogue import Feature

I64 = npt.NDArray[np.int64]
STRATA = 4
_DRAWN = 2  # times what is shown of the strata is kept of them, so that each has its share
_PEAK_TOKENS = 64  # of a feature: enough words to meet it elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it was read. Without content ``ids`` and ``pieces`` are empty."""

    name: str
    tokens: int
    prompt_len: int
    position: I64  # [K]
    feature: I64  # [K]
    value: F32  # [K]
    ids: Sequence[int] = ()  # [tokens]
    pieces: Sequence[str] = ()  # [tokens]
    unread: I64 = field(default_factory=lambda: np.zeros(0, np.int64))  # positions that were excluded or missed


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A stretch of a request around one token."""

    request: str
    position: int
    """Of the token that it is about: the peak, a word of other peaks, or any."""
    value: float
    """There; 0 where the feature does not fire."""
    start: int
    """Position of the first token of the stretch."""
    fired: tuple[tuple[int, float], ...] = ()
    """Positions in it with values above the floor."""
    ids: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The stretch, where text was kept."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """Examples with peaks from ``low`` to ``high``."""

    low: float
    high: float
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureExamples:
    """What was found of one feature."""

    feature: str
    requests: int
    """That were looked at."""
    fired: int
    """In which it fired."""
    over: float
    """What a peak has to be over to count as fired."""
    top: tuple[Example, ...] = ()
    strata: tuple[Stratum, ...] = ()
    near: tuple[Example, ...] = ()
    silent: tuple[Example, ...] = ()

    @property
    def firing(self) -> tuple[Example, ...]:
        """Every request that fired, once: the strata, then the top."""
        found = {(one.request, one.position): one for stratum in self.strata for one in stratum.examples}
        found |= {(one.request, one.position): one for one in self.top}
        return tuple(found.values())

    @property
    def contrasting(self) -> tuple[Example, ...]:
        """Every request that did not."""
        return tuple({(one.request, one.position): one for one in (*self.near, *self.silent)}.values())


@dataclass(slots=True)
class _Held:
    """What is kept of one feature."""

    over: float
    fired: int = 0
    near_seen: int = 0
    silent_seen: int = 0
    top: list[tuple[float, int, Example]] = field(default_factory=list)
    drawn: list[Example] = field(default_factory=list)
    near: list[Example] = field(default_factory=list)
    silent: list[Example] = field(default_factory=list)
    words: set[int] = field(default_factory=set)


class Collector:
    """Gathers examples of ``features``, which are numbered as they stand.

    Args:
        features: of the catalogue.
        limits: calibrated limits by feature id, of features whose aggregate is the maximum.
        each: examples of a kind.
        window: tokens before and behind the one that an example is about.
        seed: of what is drawn.
    """

    def __init__(
        self, features: Sequence[Feature], *, limits: Mapping[str, float], each: int, window: int, seed: int = 0
    ) -> None:
        self._features = features
        self._each, self._window = each, window
        self._held = [_Held(over=max(one.floor, limits.get(one.id, 0.0))) for one in features]
        self._words: dict[int, list[int]] = {}  # token -> features that have a peak on it
        self._silent_seen: I64 = np.zeros(len(features), np.int64)
        self._draw = random.Random(seed)  # noqa: S311 - the same draws again are wanted
        self._dice = np.random.default_rng(seed)
        self.requests = self.tokens = 0

    def add(self, seen: Seen) -> None:
        """Looks at one request."""
        self.requests += 1
        self.tokens += seen.tokens
        if not seen.tokens:
            return
        silent = np.ones(len(self._features), bool)
        for number, position, value in self._of_features(seen):
            peak = int(value.argmax())
            silent[number] = False
            self._fired(number, seen, int(position[peak]), float(value[peak]), (position, value))
        self._word(seen, silent)
        self._silence(seen, silent)

    def found(self) -> tuple[FeatureExamples, ...]:
        """Everything, in the features' order."""
        return tuple(
            FeatureExamples(
                feature=feature.id,
                requests=self.requests,
                fired=held.fired,
                over=held.over,
                top=tuple(one for _, _, one in sorted(held.top, key=lambda one: (-one[0], -one[1]))),
                strata=_strata(held.drawn, self._each),
                near=tuple(held.near),
                silent=tuple(held.silent),
            )
            for feature, held in zip(self._features, self._held, strict=True)
        )

    def _of_features(self, seen: Seen) -> list[tuple[int, I64, F32]]:
        """The positions and values of each feature that fires within its scope."""
        order = np.argsort(seen.feature, kind="stable")
        feature, position, value = seen.feature[order], seen.position[order], seen.value[order]
        numbers, first, count = np.unique(feature, return_index=True, return_counts=True)
        found = []
        for number, start, stop in zip(numbers.tolist(), first, first + count, strict=True):
            scope = self._features[number].scope
            own, values = position[start:stop], value[start:stop]
            inside = np.ones(len(own), bool) if scope == "all" else (own < seen.prompt_len) == (scope == "prompt")
            if inside.any():
                found.append((number, own[inside], values[inside]))
        return found

    def _fired(self, number: int, seen: Seen, position: int, value: float, rows: tuple[I64, F32]) -> None:
        held = self._held[number]
        if value <= held.over:
            held.near_seen += 1
            self._keep(held.near, held.near_seen, self._each, seen, position, value, rows)
            return
        held.fired += 1
        if seen.ids and len(held.words) < _PEAK_TOKENS and (word := seen.ids[position]) not in held.words:
            held.words.add(word)
            self._words.setdefault(word, []).append(number)
        if len(held.top) < self._each or value > held.top[0][0]:
            self._top(held, self._example(seen, position, value, rows))
        self._keep(held.drawn, held.fired, _DRAWN * STRATA * self._each, seen, position, value, rows)

    def _top(self, held: _Held, one: Example) -> None:
        """Keeps it unless the same words stand there already: templates repeat themselves."""
        if one.ids and any(other.ids == one.ids for _, _, other in held.top):
            return
        entry = (one.value, -self.requests, one)
        if len(held.top) < self._each:
            heapq.heappush(held.top, entry)
        else:
            heapq.heappushpop(held.top, entry)

    def _keep(self, kept: list[Example], seen_so_far: int, most: int, seen: Seen, position: int, *rest: Any) -> None:
        """Algorithm R."""
        place = len(kept) if len(kept) < most else self._draw.randrange(seen_so_far)
        if place < most:
            kept[place : place + 1] = [self._example(seen, position, *rest)]

    def _word(self, seen: Seen, silent: npt.NDArray[np.bool_]) -> None:
        """Features that are silent here, though a word of theirs stands here."""
        if not self._words or not seen.ids:
            return
        unread = set(seen.unread.tolist())
        places = {word: place for place, word in reversed([*enumerate(seen.ids)]) if place not in unread}
        for word, place in places.items():
            for number in self._words.get(word, ()):
                if silent[number]:
                    held = self._held[number]
                    held.near_seen += 1
                    self._keep(held.near, held.near_seen, self._each, seen, place, 0.0)

    def _silence(self, seen: Seen, silent: npt.NDArray[np.bool_]) -> None:
        self._silent_seen += silent
        chance = self._dice.random(len(silent)) * self._silent_seen < self._each
        for number in np.flatnonzero(silent & chance).tolist():
            held = self._held[number]
            full = len(held.silent) == self._each
            place = self._draw.randrange(self._each) if full else len(held.silent)
            held.silent[place : place + 1] = [self._example(seen, self._draw.randrange(seen.tokens), 0.0)]

    def _example(self, seen: Seen, position: int, value: float, rows: tuple[I64, F32] | None = None) -> Example:
        start, stop = max(0, position - self._window), min(seen.tokens, position + self._window + 1)
        fired: dict[int, float] = {}
        if rows is not None:
            for at, one in zip(rows[0].tolist(), rows[1].tolist(), strict=True):
                if start <= at < stop:
                    fired[at] = max(one, fired.get(at, 0.0))
        return Example(
            request=seen.name,
            position=position,
            value=value,
            start=start,
            fired=tuple(sorted(fired.items())),
            ids=tuple(seen.ids[start:stop]),
            pieces=tuple(seen.pieces[start:stop]),
        )


def _strata(drawn: Sequence[Example], each: int) -> tuple[Stratum, ...]:
    """Quarters of what was drawn, by value, and of each an even choice."""
    order = sorted(drawn, key=lambda one: one.value)
    edges = [len(order) * number // STRATA for number in range(STRATA + 1)]
    found = []
    for start, stop in itertools.pairwise(edges):
        part = order[start:stop]
        if part:
            chosen = {len(part) * number // min(each, len(part)) for number in range(min(each, len(part)))}
            examples = tuple(part[index] for index in sorted(chosen))
            found.append(Stratum(low=part[0].value, high=part[-1].value, examples=examples))
    return tuple(found)
