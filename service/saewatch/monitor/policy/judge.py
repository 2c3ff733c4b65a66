"""Requests, or conversations, judged by one programme as their tokens come.

Of each batch the tokens that are new (`seats`) and what fires on them (`wiring`) go to the statistics (`running`),
which say where something occurs; there, and nowhere else, rules are judged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from saewatch.core import limits
from saewatch.core.records import Role
from saewatch.monitor.events import Observed
from saewatch.monitor.identity import Identity
from saewatch.monitor.observe import COUNTED
from saewatch.monitor.policy.condition import Node, Occurred, holding, passes, recurring, sequences
from saewatch.monitor.policy.machine import NEVER_DUE, Machine
from saewatch.monitor.policy.resolve import Programme, Resolved
from saewatch.monitor.policy.running import Occurrences, Running
from saewatch.monitor.policy.seats import NOWHERE, Seats
from saewatch.monitor.policy.statistic import AT_END, ONCE
from saewatch.monitor.policy.wiring import I64, Flags, Tokens, Wiring, wire
from saewatch.monitor.tables import WatchTable

_TABLES = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """What an atom came to when a rule changed its state."""

    atom: int
    value: float
    first: int
    """Position of its first occurrence."""
    last: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """A rule changed its state for a subject. ``identity``: the request whose token did it."""

    rule: int
    state: str
    position: int
    identity: Identity
    evidence: tuple[Shown, ...]


@dataclass(slots=True, eq=False)
class _Subject:
    place: int
    identity: Identity
    seen: Occurred = field(default_factory=Occurred)
    first: dict[int, int] = field(default_factory=dict)
    value: dict[int, float] = field(default_factory=dict)
    machines: dict[int, Machine] = field(default_factory=dict)
    requests: int = 0
    heard_ns: int = 0


class Judge:
    """One programme's rules over requests or over conversations."""

    def __init__(self, programme: Programme, subject: str) -> None:
        self.programme, self.subject = programme, subject
        self._rules = {
            number: rule
            for number, rule in enumerate(programme.rules)
            if rule.rule.subject == subject and rule.condition is not None
        }
        self._conditions = {number: rule.condition for number, rule in self._rules.items() if rule.condition}
        self._sequences = {number: tuple(sequences(one)) for number, one in self._conditions.items()}
        self._readers = [tuple(number for number in of if number in self._rules) for of in programme.rules_of]
        atoms = programme.atoms
        self._running = Running(atoms, _once(programme, self._rules))
        self._ends = {atom.scope for atom in atoms if atom.statistic.kind in {*AT_END, "head"}}
        self._wirings: OrderedDict[int, Wiring] = OrderedDict()
        self._subjects: OrderedDict[object, _Subject] = OrderedDict()
        self._by_place: dict[int, _Subject] = {}
        self._seat_of: dict[Identity, int] = {}
        self._seats = Seats(numbered=subject == "conversation")
        self._entered: list[int] = []
        """Places whose state is still that of who had them before."""
        self.unjudged = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to judge."""
        return not self._rules

    def turned_away(self, identity: Identity) -> bool:
        """Whether a request whose tokens were observed should be judged here, and found no room."""
        return self._key(identity) is not None and self._seat_of.get(identity, NOWHERE) == NOWHERE

    def observe(self, observed: Observed, now_ns: int) -> list[Change]:
        """What a batch changes."""
        if self.idle or observed.table.stream.opening.role != Role.STABLE:
            return []
        tokens = self._seats.fresh(observed.batch, self._seated(observed, now_ns))
        if not len(tokens.row):
            return []
        touched = self._wiring(observed.table).touched(observed, tokens)
        return self._judged(self._running.add(touched, tokens), tokens) + self._advanced(tokens)

    def end(self, identity: Identity) -> list[Change]:
        """A request has ended."""
        seat = self._seat_of.pop(identity, NOWHERE)
        if seat == NOWHERE:
            return []
        subject = self._by_place[self._seats.rise(seat)]
        subject.requests -= 1
        return self._closed(subject) if self.subject == "request" else []

    def tick(self, now_ns: int) -> list[Change]:
        """Conversations that were silent for long have ended."""
        changes: list[Change] = []
        while self.subject == "conversation" and self._subjects:
            subject = next(iter(self._subjects.values()))
            if subject.requests or now_ns - subject.heard_ns <= limits.POLICY_CONVERSATION_NS:
                break
            changes += self._closed(subject)
        return changes

    # --- who is judged --------------------------------------------------------------------------------------------
    def _seated(self, observed: Observed, now_ns: int) -> I64:
        """The seat of each span's request, ``[R]``; `NOWHERE`: it is not judged."""
        seats = list(map(self._seat_of.get, observed.requests))
        if None in seats:
            self._begun(observed)
            seats = list(map(self._seat_of.get, observed.requests))
        if self.subject == "conversation":
            self._heard(observed.requests, now_ns)
        return np.array([*seats, NOWHERE], np.int64)[observed.span_request]

    def _begun(self, observed: Observed) -> None:
        """Who comes for the first time gets a seat, and its subject a place where it has none."""
        counted = COUNTED[observed.traffic_class[:-1]].tolist()
        for identity, counts in zip(observed.requests, counted, strict=True):
            if identity not in self._seat_of:
                self._seat_of[identity] = self._seat(identity) if counts else NOWHERE
        self._running.begin(self._entered, self._seats.places)
        self._entered = []

    def _seat(self, identity: Identity) -> int:
        key = self._key(identity)
        subject = self._subjects.get(key) if key is not None else None
        if key is None or (subject is None and len(self._subjects) >= limits.POLICY_SUBJECTS):
            self.unjudged += key is not None
            return NOWHERE  # also when there is room later: its beginning was not seen
        subject = subject or self._enter(key, identity)
        subject.requests += 1
        return self._seats.sit(subject.place, identity.prompt_len)

    def _enter(self, key: object, identity: Identity) -> _Subject:
        place = self._seats.enter()
        self._entered.append(place)
        subject = self._subjects[key] = self._by_place[place] = _Subject(place, identity)
        return subject

    def _heard(self, requests: Sequence[Identity], now_ns: int) -> None:
        """Conversations go on."""
        for identity in requests:
            subject = self._subjects.get(self._key(identity))
            if subject is not None and self._seat_of[identity] != NOWHERE:
                subject.identity, subject.heard_ns = identity, now_ns
                self._subjects.move_to_end(self._key(identity))

    def _key(self, identity: Identity) -> object:
        if self.subject == "request":
            return identity
        return (identity.tenant, identity.conversation) if identity.conversation else None

    def _wiring(self, table: WatchTable) -> Wiring:
        found = self._wirings.get(table.number)
        if found is None:
            found = self._wirings[table.number] = wire(table, self.programme.atoms)
            if len(self._wirings) > _TABLES:
                self._wirings.popitem(last=False)
        return found

    # --- what follows ---------------------------------------------------------------------------------------------
    def _judged(self, occurred: Occurrences, tokens: Tokens) -> list[Change]:
        """Tokens on which something occurs, one after the other."""
        happened: dict[tuple[int, int], dict[int, float]] = {}
        for one in (*self._prompt_ends(tokens), occurred):
            columns = (one.place.tolist(), one.position.tolist(), one.atom.tolist(), one.value.tolist())
            for place, position, atom, value in zip(*columns, strict=True):
                happened.setdefault((place, position), {})[atom] = value
        changes: list[Change] = []
        for (place, position), atoms in sorted(happened.items()):
            changes += self._occurs(self._by_place[place], position, atoms)
        return changes

    def _prompt_ends(self, tokens: Tokens) -> Iterator[Occurrences]:
        """With its first token of the reply a request's prompt has ended."""
        if "prompt" not in self._ends or self.subject == "conversation":
            return
        for index in np.flatnonzero(tokens.reply & (tokens.rank_part == 0)).tolist():
            place, prompt = int(tokens.place[index]), int(tokens.rank[index])
            yield self._running.at_end(place, int(tokens.position[index]), (prompt, 0), "prompt")

    def _occurs(self, subject: _Subject, position: int, atoms: Mapping[int, float]) -> list[Change]:
        for atom, value in atoms.items():
            subject.seen.last[atom] = position
            subject.first.setdefault(atom, position)
            subject.value[atom] = value
        changes = []
        for number in dict.fromkeys(rule for atom in atoms for rule in self._readers[atom]):
            condition = self._conditions[number]
            for one in self._sequences[number]:
                one.advance(position, tuple(atoms), subject.seen)
            until = condition.until(position, subject.seen)
            machine = subject.machines.get(number)
            if machine is None and until <= position:
                continue
            if machine is None:
                rule = self.programme.rules[number].rule
                machine = subject.machines[number] = Machine(rule.for_tokens, rule.clear_tokens)
            moved = machine.hold(position, until)
            shown = self._shown(subject, condition, position) if moved else ()
            changes += [self._change(subject, number, one, shown) for one in moved]
        if subject.machines:
            self._put_off(subject)
        return changes

    def _advanced(self, tokens: Tokens) -> list[Change]:
        """Time has passed, in tokens, for those of whom a rule is to change by that alone."""
        changes: list[Change] = []
        for place in self._seats.due(tokens):
            subject, last = self._by_place[place], self._seats.next(place) - 1
            for number, machine in subject.machines.items():
                changes += [self._change(subject, number, one, ()) for one in machine.advance(last)]
            self._put_off(subject)
        return changes

    def _put_off(self, subject: _Subject) -> None:
        due = min((machine.due for machine in subject.machines.values()), default=NEVER_DUE)
        self._seats.put_off(subject.place, due)

    def _closed(self, subject: _Subject) -> list[Change]:
        """Nothing more is to come of a subject."""
        place = subject.place
        at, seen = self._seats.next(place), self._seats.seen(place)
        changes: list[Change] = []
        for part in ("prompt", "reply", "all"):
            if part in self._ends and self.subject == "request" and not (part == "prompt" and seen[1]):
                ended = self._running.at_end(place, at, seen, part)
                if len(ended.atom):
                    atoms = dict(zip(ended.atom.tolist(), ended.value.tolist(), strict=True))
                    changes += self._occurs(subject, at, atoms)
        for number, machine in subject.machines.items():
            changes += [self._change(subject, number, one, ()) for one in machine.end(at)]
        del self._subjects[self._key(subject.identity)], self._by_place[place]
        self._seats.leave(place)
        return changes

    def _shown(self, subject: _Subject, condition: Node, position: int) -> tuple[Shown, ...]:
        return tuple(
            Shown(atom=atom, value=subject.value[atom], first=subject.first[atom], last=subject.seen.last[atom])
            for atom in dict.fromkeys(holding(condition, position, subject.seen))
        )

    def _change(self, subject: _Subject, rule: int, changed: tuple[str, int], shown: tuple[Shown, ...]) -> Change:
        state, position = changed
        return Change(rule=rule, state=state, position=position, identity=subject.identity, evidence=shown)


def _once(programme: Programme, rules: Mapping[int, Resolved]) -> Flags:
    """Atoms of which only the first occurrence matters: they only grow, or every use of them counts for good.

    Where a ``not`` may pass away, each occurrence is a token on which the rule is judged anew.
    """
    again = np.zeros(len(programme.atoms), np.bool_)
    for rule in rules.values():
        if rule.condition is not None:
            again[list(rule.atoms if passes(rule.condition) else recurring(rule.condition))] = True
    return ~again | np.array([atom.statistic.kind in ONCE for atom in programme.atoms], np.bool_)
