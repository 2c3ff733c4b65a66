"""The running form of each kind of statistic: what a batch's entries add to it, and with which of them it occurs.

Each keeps its state in columns, a row for each subject and one column for each of its atoms. Entries come ordered by
(place, atom, token), one for each token, so those of one subject and atom stand together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import F64
from saewatch.monitor.policy.condition import Atom
from saewatch.monitor.policy.wiring import I64, Flags

FAR = -(2**40)
"""A rank that lies before every window."""


@dataclass(slots=True, kw_only=True, eq=False)
class Entries:
    """Entries of atoms, ``[E]`` each."""

    kind: I64
    place: I64
    atom: I64
    column: I64
    """Of the atom in its kind's state."""
    token: I64
    rank: I64
    """Of the token in the atom's scope."""
    unit: I64
    value: F64
    ordinal: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of an entry among those of its subject and atom."""
    alone: bool = False
    """No subject and atom has two: in a step of decoding each request has one token."""

    def __post_init__(self) -> None:
        if self.alone or len(self.ordinal) == self.size:
            return
        again = (self.place[1:] == self.place[:-1]) & (self.atom[1:] == self.atom[:-1])
        self.alone = not again.any()
        if self.alone:
            self.ordinal = np.zeros(self.size, np.int64)
            return
        first = np.flatnonzero(np.concatenate([[True], ~again]))
        self.ordinal = np.arange(self.size) - np.repeat(first, np.diff(first, append=self.size))

    def part(self, part: slice) -> Entries:
        """Some of them, which are all of their subjects and atoms."""
        return Entries(alone=self.alone, **{name: getattr(self, name)[part] for name in _COLUMNS})

    @property
    def size(self) -> int:
        """E."""
        return len(self.place)

    @property
    def last(self) -> I64:
        """The last entry of each subject and atom."""
        return np.arange(self.size) if self.alone else np.flatnonzero(np.append(self.ordinal[1:] == 0, True))

    def rounds(self) -> Iterator[I64]:
        """Entries that may be added together, one of each subject and atom; the first ones first."""
        if self.alone:
            yield np.arange(self.size)
            return
        order = np.argsort(self.ordinal, kind="stable")
        yield from np.split(order, np.cumsum(np.bincount(self.ordinal))[:-1])


_COLUMNS = tuple(one.name for one in fields(Entries) if one.name != "alone")


class Kind:
    """Columns of state. ``EMPTY`` is what they begin with."""

    EMPTY: ClassVar[float] = 0

    def __init__(self, atoms: Sequence[Atom]) -> None:
        self.limit = np.array([atom.limit for atom in atoms])
        self.k = np.array([atom.statistic.k for atom in atoms], np.int64)
        self.n = np.array([atom.statistic.n for atom in atoms], np.int64)
        self.state: npt.NDArray[Any] = self._columns(atoms)

    def _columns(self, atoms: Sequence[Atom]) -> npt.NDArray[Any]:
        return np.zeros((0, len(atoms)))

    def cells(self, entries: Entries) -> I64:
        """Where the entries' cells are in the state without its first axis."""
        return np.asarray(entries.place * self.state.shape[1] + entries.column, np.int64)

    def grow(self, places: int) -> None:
        """Room for so many subjects."""
        grown = np.full((places, *self.state.shape[1:]), self.EMPTY, self.state.dtype)
        grown[: len(self.state)] = self.state
        self.state = grown

    def clear(self, places: Sequence[int]) -> None:
        """Other subjects begin there."""
        self.state[places] = self.EMPTY

    def add(self, entries: Entries) -> tuple[Flags, F64]:
        """With which entries it occurs, and the statistic there."""
        raise NotImplementedError

    @property
    def ends(self) -> Flags:
        """Which of them are judged when their scope ends."""
        return np.zeros(len(self.limit), np.bool_)

    def final(self, place: int, columns: I64, tokens: int, /) -> F64:
        """The statistic of such columns after so many tokens of their scope."""
        raise NotImplementedError


class Max(Kind):
    """Only values above the limit get here."""

    def _columns(self, _: Sequence[Atom]) -> npt.NDArray[Any]:
        return np.zeros((0, 0))

    def add(self, entries: Entries) -> tuple[Flags, F64]:
        """Each of them occurs."""
        return np.ones(entries.size, np.bool_), entries.value


class Window(Kind):
    """It occurs where the k-th latest value above the limit lies within n tokens. State: latest ranks, last first."""

    EMPTY = FAR

    def _columns(self, atoms: Sequence[Atom]) -> npt.NDArray[Any]:
        return np.zeros((0, len(atoms), int(self.k.max()) - 1 or 1), np.int64)

    def add(self, entries: Entries) -> tuple[Flags, F64]:
        """Only values above the limit get here."""
        cells, latest = self.cells(entries), self.state.reshape(-1, self.state.shape[2])
        k = self.k[entries.column]
        back = k - 1 - entries.ordinal  # so many of the k lie before the batch
        earlier = entries.rank[np.maximum(np.arange(entries.size) - (k - 1), 0)]
        carried = np.flatnonzero(back > 0)
        earlier[carried] = latest[cells[carried], back[carried] - 1]
        occurs = entries.rank - earlier < self.n[entries.column]
        if entries.alone:
            latest[cells, 1:] = latest[cells, :-1]
            latest[cells, 0] = entries.rank
        else:
            self._keep(entries, cells, latest)
        return occurs, entries.value

    def _keep(self, entries: Entries, cells: I64, latest: I64) -> None:
        last = entries.last
        count = (entries.ordinal[last] + 1)[:, None]
        deep = np.arange(latest.shape[1])[None, :]
        fresh = entries.rank[np.maximum(last[:, None] - deep, 0)]
        shifted = np.take_along_axis(latest[cells[last]], np.maximum(deep - count, 0), axis=1)
        latest[cells[last]] = np.where(deep < count, fresh, shifted)


class Count(Kind):
    """Tokens that fire."""

    def add(self, entries: Entries) -> tuple[Flags, F64]:
        """It occurs from the first one beyond its limit on."""
        cells, counted = self.cells(entries), self.state.reshape(-1)
        value = counted.take(cells) + entries.ordinal + 1
        last = entries.last
        counted[cells[last]] = value[last]
        return np.asarray(value > self.limit.take(entries.column), np.bool_), np.asarray(value, np.float64)


class Share(Count):
    """Tokens that fire, over all of the scope."""

    def add(self, entries: Entries) -> tuple[Flags, F64]:
        """Judged at the end."""
        super().add(entries)
        return np.zeros(entries.size, np.bool_), entries.value

    @property
    def ends(self) -> Flags:
        """All of them."""
        return np.ones(len(self.limit), np.bool_)

    def final(self, place: int, columns: I64, tokens: int) -> F64:
        """Their share."""
        return np.asarray(self.state[place, columns] / max(tokens, 1))


class Mean(Share):
    """Of values over all tokens of the scope; a token on which nothing fires counts 0."""

    def add(self, entries: Entries) -> tuple[Flags, F64]:
        """Judged at the end; summed one after the other, so that the cut into batches does not show in the last bit."""
        np.add.at(self.state.reshape(-1), self.cells(entries), entries.value)
        return np.zeros(entries.size, np.bool_), entries.value


class Ewma(Kind):
    """e(t) = d^(t - s) e(s) + (1 - d) v(t), where it fired at s before, and d = 2^(-1/H). State: e(s), and s."""

    def _columns(self, atoms: Sequence[Atom]) -> npt.NDArray[Any]:
        self._decay = np.exp2(-1.0 / self.n)
        return np.zeros((0, len(atoms), 2))

    def add(self, entries: Entries) -> tuple[Flags, F64]:
        """It occurs wherever it is above the limit as a value comes in: between values it only falls."""
        cells, latest = self.cells(entries), self.state.reshape(-1, 2)
        found, decay = np.empty(entries.size), self._decay.take(entries.column)
        for chosen in entries.rounds():
            before, at = latest[cells[chosen]].T
            kept = decay[chosen] ** (entries.rank[chosen] - at)
            found[chosen] = before * kept + (1.0 - decay[chosen]) * entries.value[chosen]
            latest[cells[chosen], 0] = found[chosen]
            latest[cells[chosen], 1] = entries.rank[chosen]
        return np.asarray(found > self.limit.take(entries.column), np.bool_), found


class Top(Kind):
    """The mean of the k largest; what is not there yet counts 0. State: the k largest, ascending, behind zeros."""

    def _columns(self, atoms: Sequence[Atom]) -> npt.NDArray[Any]:
        self._least = int(self.k.max()) - self.k  # where the least of its k stands, [A]
        return np.zeros((0, len(atoms), int(self.k.max())))

    def add(self, entries: Entries) -> tuple[Flags, F64]:
        """It occurs from the first value on with which it is above its limit: one that is among the largest."""
        depth = self.state.shape[2]
        least = self.cells(entries) * depth + self._least.take(entries.column)
        rows, flat, found = self.state.reshape(-1, depth), self.state.reshape(-1), np.full(entries.size, -np.inf)
        for some in entries.rounds():
            chosen = some[entries.value[some] > flat.take(least[some])]
            flat[least[chosen]] = entries.value[chosen]
            kept = rows[least[chosen] // depth]
            kept.sort(axis=1)
            rows[least[chosen] // depth] = kept
            total = np.zeros(len(chosen))
            for largest in kept.T[::-1]:  # in the order in which `core.aggregate` sums them
                total += largest
            found[chosen] = total / self.k.take(entries.column[chosen])
        return np.asarray(found > self.limit.take(entries.column), np.bool_), found


class Head(Kind):
    """The sum of weight × log1p(largest value) over a group's latents. State: those largest values, side by side.

    With a negative weight it may fall again, so it is judged when its scope ends.
    """

    def _columns(self, atoms: Sequence[Atom]) -> npt.NDArray[Any]:
        widths = [len(atom.head) for atom in atoms]
        self._first = np.cumsum([0, *widths])
        self._weight = np.array([weight for atom in atoms for weight in atom.head])
        self._grows = np.array([min(atom.head) >= 0 for atom in atoms])
        return np.zeros((0, sum(widths)))

    def add(self, entries: Entries) -> tuple[Flags, F64]:
        """It occurs from the first value on with which the score is above its limit."""
        found, unit = np.full(entries.size, -np.inf), self._first[entries.column] + entries.unit
        for chosen in entries.rounds():
            place = entries.place[chosen]
            larger = chosen[entries.value[chosen] > self.state[place, unit[chosen]]]  # a few times for each subject
            self.state[entries.place[larger], unit[larger]] = entries.value[larger]
            for one in larger[self._grows[entries.column[larger]]].tolist():
                found[one] = self._score(int(entries.place[one]), int(entries.column[one]))
        return np.asarray(found > self.limit[entries.column], np.bool_), found

    @property
    def ends(self) -> Flags:
        """Those that may have fallen."""
        return np.asarray(~self._grows, np.bool_)

    def final(self, place: int, columns: I64, _tokens: int) -> F64:
        """The scores."""
        return np.array([self._score(place, column) for column in columns.tolist()])

    def _score(self, place: int, column: int) -> float:
        part = slice(self._first[column], self._first[column + 1])
        return float(self._weight[part] @ np.log1p(self.state[place, part]))


KINDS: Mapping[str, type[Kind]] = {
    "max": Max,
    "window": Window,
    "count": Count,
    "share": Share,
    "mean": Mean,
    "ewma": Ewma,
    "top": Top,
    "head": Head,
}
