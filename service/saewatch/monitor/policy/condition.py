"""A condition on one dictionary: its parts are *atoms*, and it holds from token to token by when these last occurred.

An atom is one statistic of one feature (or of a set, for counts) above one limit. What is kept of a request is the
last position at which each atom occurred, and for each sequence where its latest run began. From that alone follows up
to which position the condition holds; it is judged anew at each token on which one of its atoms occurs. So a request
can be cut into batches anywhere, and nothing changes.

A sequence keeps, for each of its steps, the latest beginning of a run that has come so far: a later beginning fits into
the bound whenever an earlier one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from saewatch.monitor.policy.statistic import Statistic

NEVER = -1
FOREVER = 2**62
"""A position behind every other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a calibrated limit rests on, as it is told with an alert."""

    attestation: str
    alpha: float
    delta: float
    date: str
    n: int
    stale: str = ""
    """Why it no longer holds; empty: it does."""
    renew: str = ""
    """Why it should be made anew."""
    quarantined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Atom:
    """``features`` of a catalogue, by id, under one statistic. ``head``: weights of a group's latents."""

    features: tuple[str, ...]
    statistic: Statistic
    scope: str
    limit: float
    head: tuple[float, ...] = ()
    basis: Basis | None = field(default=None, compare=False)


@dataclass(slots=True)
class Occurred:
    """What is kept of one subject for one rule."""

    last: dict[int, int] = field(default_factory=dict)
    """Atom → its last position."""
    runs: dict[int, list[int]] = field(default_factory=dict)
    """Sequence → where the latest run up to each step began."""


@dataclass(frozen=True, slots=True)
class One:
    """An atom, which counts for ``within`` tokens (0: for good)."""

    atom: int
    within: int = 0

    def until(self, _: int, seen: Occurred) -> int:
        """The first position at which it no longer holds; not above ``at``: it does not hold there."""
        last = seen.last.get(self.atom, NEVER)
        if last == NEVER:
            return NEVER
        return last + self.within if self.within else FOREVER


@dataclass(frozen=True, slots=True)
class InOrder:
    """Steps one after the other, each one of some atoms, from the first to the last within so many tokens."""

    number: int
    steps: tuple[tuple[int, ...], ...]
    within: int = 0

    def advance(self, at: int, atoms: Sequence[int], seen: Occurred) -> None:
        """These atoms occur at ``at``. A step follows on what came strictly before."""
        runs = seen.runs.setdefault(self.number, [NEVER] * len(self.steps))
        for step in range(len(self.steps) - 1, -1, -1):
            if not any(atom in self.steps[step] for atom in atoms):
                continue
            if step == 0:
                runs[0] = at
            elif runs[step - 1] != NEVER and (not self.within or at - runs[step - 1] <= self.within):
                runs[step] = max(runs[step], runs[step - 1])

    def until(self, _: int, seen: Occurred) -> int:
        """As `One.until`."""
        runs = seen.runs.get(self.number)
        if runs is None or runs[-1] == NEVER:
            return NEVER
        return runs[-1] + self.within + 1 if self.within else FOREVER


@dataclass(frozen=True, slots=True)
class Not:
    """It has not occurred, or no longer counts."""

    of: Node

    def until(self, at: int, seen: Occurred) -> int:
        """As `One.until`: what would end it occurs, and is judged then."""
        return NEVER if self.of.until(at, seen) > at else FOREVER


@dataclass(frozen=True, slots=True)
class AtLeast:
    """So many of these hold at once: all of them for ``all``, one for ``any``."""

    count: int
    of: tuple[Node, ...]

    def until(self, at: int, seen: Occurred) -> int:
        """As `One.until`."""
        return sorted((one.until(at, seen) for one in self.of), reverse=True)[self.count - 1]


Node = One | InOrder | Not | AtLeast


def sequences(node: Node) -> Iterator[InOrder]:
    """All sequences of a condition."""
    if isinstance(node, InOrder):
        yield node
    elif isinstance(node, Not):
        yield from sequences(node.of)
    elif isinstance(node, AtLeast):
        for one in node.of:
            yield from sequences(one)


def nodes(node: Node) -> int:
    """How many are looked at when a condition is judged."""
    if isinstance(node, One):
        return 1
    if isinstance(node, InOrder):
        return 1 + sum(map(len, node.steps))
    return 1 + (nodes(node.of) if isinstance(node, Not) else sum(map(nodes, node.of)))


def holding(node: Node, at: int, seen: Occurred) -> Iterator[int]:
    """Atoms on account of which a condition holds at ``at``: what an alert shows as its evidence."""
    if isinstance(node, Not) or node.until(at, seen) <= at:
        return
    if isinstance(node, One):
        yield node.atom
    elif isinstance(node, InOrder):
        yield from (atom for step in node.steps for atom in step if atom in seen.last)
    else:
        for one in node.of:
            yield from holding(one, at, seen)


def passes(node: Node) -> bool:
    """Whether a ``not`` of something that counts for some tokens only is in it."""
    if isinstance(node, Not):
        return any(True for _ in recurring(node.of))
    return isinstance(node, AtLeast) and any(map(passes, node.of))


def recurring(node: Node) -> Iterator[int]:
    """Atoms whose every occurrence counts, and not their first one only."""
    if isinstance(node, One):
        if node.within:
            yield node.atom
    elif isinstance(node, InOrder):
        yield from (atom for step in node.steps for atom in step)
    else:
        for one in (node.of,) if isinstance(node, Not) else node.of:
            yield from recurring(one)
