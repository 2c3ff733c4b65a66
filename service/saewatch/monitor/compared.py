"""A shadow dictionary beside the stable one: on the live requests that both of them saw, where do they differ?

For each feature that both watch whole under one id: the requests in which it fired by both, by the stable one
alone and by the shadow alone. A request counts when it has ended, when both saw the same number of its tokens, and when
neither was changed while it was served; the others are counted as uneven, so that a difference is one of dictionaries
and not of coverage. Canaries, shadow traffic and tests are left out, as they are in the metrics of features.

Counts are kept in parts of `PART_NS`, so that the window goes on and its oldest part falls out. Correlational, as all
firings are: that two dictionaries agree says nothing about which of them is right.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saewatch.core import limits
from saewatch.core.records import Role, TrafficClass
from saewatch.monitor.roster import Request
from saewatch.monitor.tables import WatchTable
from saewatch.monitor.tally import Tally

I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
PARTS, PART_NS = 6, 4 * 3600 * 10**9
"""A day."""
COUNTED = frozenset({TrafficClass.LIVE, TrafficClass.UNLABELLED})
_COLUMNS = ("both", "stable_alone", "shadow_alone", "stable_firings", "shadow_firings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two."""

    weights: str
    catalogue: str
    tokens: int = 0
    missed: int = 0
    firings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Two dictionaries, over the window. The columns are by ``features``, ``[F]``."""

    model_name: str
    hook_point: str
    stable: Side
    shadow: Side
    begin_ns: int
    end_ns: int
    requests: int
    uneven: int
    features: tuple[str, ...]
    stable_only: tuple[str, ...]
    shadow_only: tuple[str, ...]
    both: I64
    stable_alone: I64
    shadow_alone: I64
    stable_firings: I64
    shadow_firings: I64


@dataclass(slots=True, kw_only=True)
class _Part:
    """Counts of some hours."""

    columns: U32  # [5, F], by _COLUMNS
    begin_ns: int
    end_ns: int = 0
    requests: int = 0
    uneven: int = 0
    totals: I64 = field(default_factory=lambda: np.zeros((2, 3), np.int64))  # of each side: tokens, missed, firings


class _Pair:
    """Two tables of one hook point."""

    def __init__(self, stable: WatchTable, shadow: WatchTable) -> None:
        self.stable, self.shadow = stable, shadow
        ids = [_whole(table) for table in (stable, shadow)]
        self.features = tuple(sorted(ids[0].keys() & ids[1].keys()))
        self.only = tuple(tuple(sorted(mine.keys() - other.keys())) for mine, other in (ids, ids[::-1]))
        self._places = [np.array([of[name] for name in self.features], np.int64) for of in ids]
        self.parts: OrderedDict[int, _Part] = OrderedDict()

    def add(self, tallies: tuple[Tally, Tally], time_ns: int) -> None:
        """One request that both of them saw, if they saw the same of it."""
        part = self._part(time_ns)
        seen = [tally.prompt_tokens + tally.answer_tokens for tally in tallies]
        if seen[0] != seen[1]:
            part.uneven += 1
            return
        counts = [self._count(tally, table) for tally, table in zip(tallies, (self.stable, self.shadow), strict=True)]
        stable, shadow = (of[places] for of, places in zip(counts, self._places, strict=True))
        here, there = stable > 0, shadow > 0
        part.columns += np.stack([here & there, here & ~there, ~here & there, stable, shadow]).astype(np.uint32)
        part.requests += 1
        missed = [sum(tally.missed.values()) for tally in tallies]
        part.totals += np.array([[seen[side], missed[side], counts[side].sum()] for side in range(2)])

    def uneven(self, time_ns: int) -> None:
        """One that cannot be compared."""
        self._part(time_ns).uneven += 1

    @staticmethod
    def _count(tally: Tally, table: WatchTable) -> I64:
        """Tokens on which each feature fired, ``[features of the table]``."""
        sums = tally.sums()
        found = np.bincount(sums.key // 2, weights=sums.count, minlength=len(table.features))
        return found.astype(np.int64)

    def _part(self, time_ns: int) -> _Part:
        number = time_ns // PART_NS
        part = self.parts.get(number)
        if part is None:
            columns = np.zeros((len(_COLUMNS), len(self.features)), np.uint32)
            part = self.parts[number] = _Part(columns=columns, begin_ns=time_ns)
            self.forget(time_ns)
        part.end_ns = max(part.end_ns, time_ns)
        return part

    def forget(self, time_ns: int) -> None:
        """What is out of the window."""
        for number in [one for one in self.parts if one <= time_ns // PART_NS - PARTS]:
            del self.parts[number]


class Shadows:
    """Every pair that ran side by side within the window, `limits.SHADOW_PAIRS` at most, the oldest out first."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, ...], _Pair] = OrderedDict()

    def add(self, request: Request) -> None:
        """A request of which everything was told."""
        if request.lost or request.identity is None or request.identity.traffic_class not in COUNTED:
            return
        roles = {table.stream.opening.role for table in request.tallies}
        if len(roles) < 2:
            return
        for point in {table.stream.opening.hook_point for table in request.tallies}:
            here = [table for table in request.tallies if table.stream.opening.hook_point == point]
            stable, shadow = ([one for one in here if one.stream.opening.role == role] for role in Role)
            if stable and shadow:
                pair = self._pair(stable[-1], shadow[-1])
                if len(stable) > 1 or len(shadow) > 1:  # one of them was changed meanwhile
                    pair.uneven(request.ended_ns)
                else:
                    pair.add((request.tallies[stable[0]], request.tallies[shadow[0]]), request.ended_ns)

    def comparisons(self, now_ns: int) -> list[Comparison]:
        """As they stand."""
        for pair in self._pairs.values():
            pair.forget(now_ns)
        return [_comparison(pair) for pair in self._pairs.values() if pair.parts]

    def _pair(self, stable: WatchTable, shadow: WatchTable) -> _Pair:
        key = tuple(_name(stable, shadow))
        pair = self._pairs.get(key)
        if pair is None:
            pair = self._pairs[key] = _Pair(stable, shadow)
            while len(self._pairs) > limits.SHADOW_PAIRS:
                self._pairs.popitem(last=False)
        return pair


def _whole(table: WatchTable) -> dict[str, int]:
    """The places of its features by id, but for those of which only some latents are watched: these fire less often."""
    found = enumerate(zip(table.features, table.feature_slots, strict=True))
    return {one.id: place for place, (one, slots) in found if len(slots) == max(len(one.latents), 1)}


def _name(*tables: WatchTable) -> Iterator[str]:
    """Engines with the same two dictionaries, watched alike, count together."""
    yield tables[0].stream.opening.model_name
    yield tables[0].stream.opening.hook_point
    for table in tables:
        yield table.stream.opening.weights_digest
        yield table.stream.catalogue_digest
        yield table.digest


def _comparison(pair: _Pair) -> Comparison:
    parts: Sequence[_Part] = list(pair.parts.values())
    columns = sum((part.columns.astype(np.int64) for part in parts), np.zeros(parts[0].columns.shape, np.int64))
    totals = sum((part.totals for part in parts), np.zeros((2, 3), np.int64)).tolist()
    opening = pair.stable.stream.opening
    sides = [
        Side(
            weights=table.stream.opening.weights_digest,
            catalogue=table.stream.catalogue_digest,
            tokens=tokens,
            missed=missed,
            firings=firings,
        )
        for table, (tokens, missed, firings) in zip((pair.stable, pair.shadow), totals, strict=True)
    ]
    return Comparison(
        model_name=opening.model_name,
        hook_point=opening.hook_point,
        stable=sides[0],
        shadow=sides[1],
        begin_ns=min(part.begin_ns for part in parts),
        end_ns=max(part.end_ns for part in parts),
        requests=sum(part.requests for part in parts),
        uneven=sum(part.uneven for part in parts),
        features=pair.features,
        stable_only=pair.only[0],
        shadow_only=pair.only[1],
        **dict(zip(_COLUMNS, columns, strict=True)),
    )
