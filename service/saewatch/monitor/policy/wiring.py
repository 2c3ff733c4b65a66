"""Which atoms a firing touches: the features of a watch table joined with the atoms of a programme.

A firing that cannot matter is left out here, for all at once: atoms over a maximum or a window look at values above
their limit only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import F32, F64, I32
from saewatch.core.catalogue import SCOPES
from saewatch.monitor.events import Observed
from saewatch.monitor.policy.condition import Atom
from saewatch.monitor.tables import WatchTable

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
ABOVE = ("max", "window")
"""Kinds that look only at values above the limit."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """The rows of a batch that are seen for the first time, ``[T]`` each, in the order of their subjects' positions."""

    row: npt.NDArray[np.intp]
    """Of the batch, ascending."""
    place: I64
    """Of the subject."""
    position: I64
    reply: Flags
    rank: I64
    """How many tokens of the subject came before."""
    rank_part: I64
    """… in the same part: prompt or reply."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Touched:
    """What firings do to atoms, ``[E]`` each, as they came: a token may touch an atom several times."""

    place: I64
    atom: I64
    token: I64
    """Index into the tokens."""
    unit: I64
    """Of atoms with a head, which latent; else 0."""
    value: F64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wiring:
    """Of one table and one programme."""

    start: I32 = field(repr=False)  # [F+1] first of each feature's pairs
    atom: I64 = field(repr=False)  # [P]
    least: F32 = field(repr=False)  # [P] values that are not above it do not matter
    least_of: F32 = field(repr=False)  # [F] the lowest of a feature's pairs; infinite where no atom reads it
    scope: I32 = field(repr=False)  # [A] index into SCOPES
    headed: Flags = field(repr=False)  # [A]
    scopes: bool
    """Whether any atom looks at a part of a request only."""
    heads: bool
    """Whether any atom has one."""

    def touched(self, observed: Observed, tokens: Tokens) -> Touched:
        """What a batch's firings on these of its tokens do to atoms."""
        batch, fired = observed.batch, observed.fired
        value = batch.value[fired.firing]
        entry = np.flatnonzero(value > self.least_of.take(fired.feature))
        token = fired.row.take(entry)
        if len(tokens.row) < batch.rows:
            token_of = np.full(batch.rows, -1, np.int64)
            token_of[tokens.row] = np.arange(len(tokens.row))
            token = token_of[token]
            entry, token = entry[token >= 0], token[token >= 0]
        which, atom = self._read(fired.feature.take(entry), value.take(entry))
        entry, token = entry.take(which), token.take(which)
        if self.scopes:
            inside = np.flatnonzero(self._inside(atom, tokens.reply.take(token)))
            entry, token, atom = entry.take(inside), token.take(inside), atom.take(inside)
        return Touched(
            place=tokens.place.take(token),
            atom=atom,
            token=token,
            unit=self._units(observed, entry, atom),
            value=value.take(entry).astype(np.float64),
        )

    def _read(self, feature: I32, value: F32) -> tuple[I64, I64]:
        """The atoms that read these features at these values: which of them, and the atom."""
        first = self.start.take(feature)
        number = self.start.take(feature + 1) - first
        if (number == 1).all():  # each was above the only limit that there is
            return np.arange(len(feature)), self.atom.take(first)
        which = np.repeat(np.arange(len(feature)), number)
        pair = np.arange(len(which)) + (first - (np.cumsum(number) - number))[which]
        kept = np.flatnonzero(value.take(which) > self.least.take(pair))
        return which.take(kept), self.atom.take(pair.take(kept))

    def _inside(self, atom: I64, reply: Flags) -> Flags:
        scope = self.scope.take(atom)
        return np.asarray((scope == 0) | ((scope == 2) == reply), np.bool_)

    def _units(self, observed: Observed, entry: I64, atom: I64) -> I64:
        unit = np.zeros(len(entry), np.int64)
        if self.heads:
            headed = np.flatnonzero(self.headed.take(atom))
            entry = entry.take(headed)
            slot = observed.batch.slot[observed.fired.firing].take(entry)
            unit[headed] = observed.table.units(observed.fired.feature.take(entry), slot)
        return unit


def wire(table: WatchTable, atoms: Sequence[Atom]) -> Wiring:
    """The wiring of a table's features with atoms."""
    readers: dict[str, list[int]] = {}
    for number, atom in enumerate(atoms):
        for name in atom.features:
            readers.setdefault(name, []).append(number)
    least = [atom.limit if atom.statistic.kind in ABOVE else -np.inf for atom in atoms]
    pairs = [readers.get(feature.id, []) for feature in table.features]
    flat = [atom for of in pairs for atom in of]
    return Wiring(
        start=np.cumsum([0, *map(len, pairs)]).astype(np.int32),
        atom=np.array(flat, np.int64),
        least=np.array([least[atom] for atom in flat], np.float32),
        least_of=np.array([min((least[atom] for atom in of), default=np.inf) for of in pairs], np.float32),
        scope=np.array([SCOPES.index(atom.scope) for atom in atoms], np.int32),
        headed=np.array([bool(atom.head) for atom in atoms], np.bool_),
        scopes=any(atom.scope != "all" for atom in atoms),
        heads=any(atom.head for atom in atoms),
    )
