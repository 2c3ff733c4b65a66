"""Statistics that grow with a stream of tokens: what each batch adds, and on which tokens an atom occurs.

State is kept in columns with a row for each subject (a request, or a conversation), so that a batch costs a number of
array operations and no loop over its firings. Cutting a stream into other batches changes nothing: a token's rank among
the tokens seen before it counts from the state and from the batch alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from saewatch.core.batch import F64
from saewatch.core.catalogue import SCOPES
from saewatch.monitor.policy.condition import Atom
from saewatch.monitor.policy.kinds import KINDS, Entries, Kind
from saewatch.monitor.policy.wiring import I64, Flags, Tokens, Touched


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Occurrences:
    """Atoms that occur, ``[N]`` each, ordered by (place, position, atom)."""

    place: I64
    atom: I64
    position: I64
    value: F64
    """Of the statistic."""


_NONE = np.zeros(0, np.int64)
_NOTHING = Occurrences(place=_NONE, atom=_NONE, position=_NONE, value=np.zeros(0))


class Running:
    """The state of a programme's atoms for every subject."""

    def __init__(self, atoms: Sequence[Atom], once: Flags) -> None:
        """``once [A]``: atoms of which only the first occurrence matters."""
        self._atoms, self._once = tuple(atoms), once
        kinds = [atom.statistic.kind for atom in atoms]
        self._members = {
            kind: np.array([number for number, one in enumerate(kinds) if one == kind], np.int64)
            for kind in dict.fromkeys(kinds)
        }
        self._kinds = {kind: KINDS[kind]([atoms[one] for one in of]) for kind, of in self._members.items()}
        self._kind_of = np.array([list(self._members).index(kind) for kind in kinds], np.int64)
        self._column = np.zeros(len(atoms), np.int64)
        for of in self._members.values():
            self._column[of] = np.arange(len(of))
        self._whole = np.array([atom.scope == "all" for atom in atoms], np.bool_)
        self._latched = np.zeros((0, len(atoms)), np.bool_)
        self._stirred = np.zeros(0, np.bool_)  # whose state is not as it began
        self._calm = all(atom.limit >= 0 for atom in atoms)  # where nothing fired nothing is above its limit
        scope = np.array([SCOPES.index(atom.scope) for atom in atoms], np.int64)
        self._ending = {part: tuple(self._judged_with(scope == number)) for number, part in enumerate(SCOPES)}

    def _judged_with(self, scoped: Flags) -> Iterator[tuple[Kind, I64, I64]]:
        """The atoms that are judged when their scope ends, by kind: their columns, and their numbers."""
        for name, kind in self._kinds.items():
            numbers = self._members[name]
            columns = np.flatnonzero(kind.ends & scoped[numbers])
            if len(columns):
                yield kind, columns, numbers[columns]

    @property
    def nbytes(self) -> int:
        """Of all columns."""
        return self._latched.nbytes + self._stirred.nbytes + sum(kind.state.nbytes for kind in self._kinds.values())

    def grow(self, places: int) -> None:
        """Room for so many subjects."""
        latched = np.zeros((places, len(self._atoms)), np.bool_)
        latched[: len(self._latched)] = self._latched
        self._latched = latched
        self._stirred = np.concatenate([self._stirred, np.zeros(places - len(self._stirred), np.bool_)])
        for kind in self._kinds.values():
            kind.grow(places)

    def clear(self, places: Sequence[int]) -> None:
        """Other subjects begin in these places."""
        self._latched[places] = False
        self._stirred[places] = False
        for kind in self._kinds.values():
            kind.clear(places)

    def begin(self, places: Sequence[int], room: int) -> None:
        """Other subjects begin in these places, of ``room``."""
        if room > len(self._latched):
            self.grow(room)
        self.clear(places)

    def add(self, touched: Touched, tokens: Tokens) -> Occurrences:
        """What a batch's firings come to."""
        entries = self._ordered(touched, tokens)
        self._stirred[entries.place] = True
        occurs, value = np.zeros(entries.size, np.bool_), entries.value
        bounds = np.searchsorted(entries.kind, np.arange(len(self._kinds) + 1)).tolist()
        for number, kind in enumerate(self._kinds.values()):
            part = slice(bounds[number], bounds[number + 1])
            if part.start < part.stop:
                occurs[part], value[part] = kind.add(entries.part(part))
        return self._found(entries, np.flatnonzero(occurs), tokens)

    def at_end(self, place: int, position: int, seen: tuple[int, int], part: str) -> Occurrences:
        """The atoms that are judged when ``part`` (prompt | reply | all) ends, after (prompt, reply) tokens."""
        if self._calm and not self._stirred[place]:
            return _NOTHING
        tokens = {"prompt": seen[0], "reply": seen[1], "all": sum(seen)}[part]
        atoms, values = [np.zeros(0, np.int64)], [np.zeros(0)]
        for kind, columns, numbers in self._ending[part]:
            value = kind.final(place, columns, tokens)
            above = np.flatnonzero(value > kind.limit.take(columns))
            atoms.append(numbers.take(above))
            values.append(value.take(above))
        atom = np.concatenate(atoms)
        where = {"place": np.full(len(atom), place, np.int64), "position": np.full(len(atom), position, np.int64)}
        return Occurrences(**where, atom=atom, value=np.concatenate(values))

    def _ordered(self, touched: Touched, tokens: Tokens) -> Entries:
        """Those that still matter, by (kind, place, atom, token); of one token and atom the largest value."""
        flat = touched.place * len(self._atoms) + touched.atom
        matters = np.flatnonzero(~self._latched.reshape(-1).take(flat))
        atom, token = touched.atom.take(matters), touched.token.take(matters)
        kind, unit, value = self._kind_of.take(atom), touched.unit.take(matters), touched.value.take(matters)
        # at most 2^3 kinds, 2^14 places, 2^17 atoms and 2^20 tokens: 54 bits
        key = (kind * self._latched.size + flat.take(matters)) * len(tokens.row) + token
        order = np.argsort(key)
        key = key.take(order)
        if (key[1:] == key[:-1]).any():
            order = np.lexsort((-value, unit, token, atom, touched.place.take(matters), kind))
            order = order[_first((touched.place.take(matters), atom, token, unit), order)]
        atom, token = atom.take(order), token.take(order)
        return Entries(
            kind=kind.take(order),
            place=tokens.place.take(token),
            column=self._column.take(atom),
            atom=atom,
            token=token,
            rank=np.where(self._whole.take(atom), tokens.rank.take(token), tokens.rank_part.take(token)),
            unit=unit.take(order),
            value=value.take(order),
        )

    def _found(self, entries: Entries, at: I64, tokens: Tokens) -> Occurrences:
        """Entries ``at`` occur. Of atoms that only matter once the first one counts, and is remembered."""
        place, atom = entries.place[at], entries.atom[at]
        once = self._once[atom]
        if once.any():
            first = np.ones(len(at), np.bool_)
            first[1:] = (place[1:] != place[:-1]) | (atom[1:] != atom[:-1])
            self._latched[place[once], atom[once]] = True
            kept = first | ~once
            at, place, atom = at[kept], place[kept], atom[kept]
        position, value = tokens.position[entries.token[at]], entries.value[at]
        order = np.lexsort((atom, position, place))
        return Occurrences(place=place[order], atom=atom[order], position=position[order], value=value[order])


def _first(columns: Sequence[I64], order: I64) -> Flags:
    """Which of them, in that order, differ from the one before."""
    ordered = [column[order] for column in columns]
    differs = np.logical_or.reduce([column[1:] != column[:-1] for column in ordered])
    return np.concatenate([[True], differs])
