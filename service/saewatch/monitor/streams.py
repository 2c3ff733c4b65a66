"""Streams by (engine, epoch, number): watch sets, what was received, the engine's books, and why they are blind."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from saewatch.core import limits
from saewatch.core.batch import FiringBatch, WatchSet
from saewatch.core.errors import RecordError
from saewatch.core.records import Beat, StreamBeat, StreamEnd, StreamOpen
from saewatch.core.selftest import CheckState, SelfTest
from saewatch.monitor.events import StreamState
from saewatch.monitor.roster import EngineKey
from saewatch.monitor.tables import KnownDictionary, StreamIdentity, WatchTable, join, relabelled

NO_BEAT = "no_beat"
SELF_TEST_FAILED = "self_test_failed"
UNKNOWN_DICTIONARY = "unknown_dictionary"
LOST = "lost"
_CODE = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(slots=True, eq=False)
class StreamRecord:
    """One stream."""

    identity: StreamIdentity
    alive_ns: int  # opened, or its engine's last beat
    link: int | None  # the connection that carries it
    tables: dict[int, WatchTable] = field(default_factory=dict)  # by the engine's watch number
    parts: dict[int, list[WatchSet]] = field(default_factory=dict)  # of watch sets that are not complete
    books: StreamBeat | None = None
    beat_time_ns: int = 0
    base: tuple[int, int] | None = None  # what of it the engine had told others, by its first beat
    ended: str = ""
    leaving: bool = False  # another is in its place, and it ends when all of it was acknowledged
    seq: int = 0
    rows: int = 0
    missed: int = 0
    unread: int = 0  # rows that came and could not be explained
    firings: int = 0
    seq_gaps: int = 0
    duplicates: int = 0
    failing: frozenset[str] = frozenset()  # checks of self-tests that failed and have not been good since

    @property
    def opening(self) -> StreamOpen:
        """As the engine opened it."""
        return self.identity.opening

    def blind(self, now_ns: int) -> str:
        """Why it sees nothing, one word; empty: it sees."""
        if self.ended:
            return ""
        if now_ns - self.alive_ns > limits.BLIND_AFTER_NS:
            return NO_BEAT
        if told := self.books.blind if self.books else self.opening.blind:
            return code_of(told)
        if self.failing:
            return SELF_TEST_FAILED
        return UNKNOWN_DICTIONARY if self.identity.dictionary is None else ""

    def accept(self, batch: FiringBatch) -> bool:
        """Books a batch by its number; False for one that came before."""
        if batch.seq <= self.seq:
            self.duplicates += 1
            return False
        self.seq_gaps += batch.seq != self.seq + 1
        self.seq = batch.seq
        self.rows += batch.fresh_rows
        self.missed += int(batch.missed_tokens.sum())
        self.firings += batch.firings
        return True

    def take(self, books: StreamBeat | None) -> None:
        """The engine's books came, if they were in the beat. The first ones come before any batch."""
        if books is None:
            return
        if self.books is None and not self.seq:
            self.base = (books.told, books.told_firings)
        if self.books and self.books.blind and not books.blind:
            self.failing -= {"tap"}  # that check failed because of what is over now
        self.books = books

    def self_test(self, test: SelfTest) -> None:
        """A self-test came. A check that it could not verify stays as it was."""
        self.failing = (self.failing - test.named(CheckState.GOOD)) | test.named(CheckState.FAILED)

    def state(self, now_ns: int) -> StreamState:
        """As it stands."""
        return StreamState(
            identity=self.identity,
            books=self.books,
            beat_time_ns=self.beat_time_ns,
            connected=self.link is not None,
            ended=self.ended,
            blind=self.blind(now_ns),
            received_seq=self.seq,
            received_rows=self.rows,
            received_missed=self.missed,
            received_firings=self.firings,
            unread_rows=self.unread,
            seq_gaps=self.seq_gaps,
            duplicates=self.duplicates,
            slots=next(reversed(self.tables.values())).slots if self.tables else 0,
            base=self.base,
        )


def code_of(text: str) -> str:
    """What an engine says of its blindness as a word that a metric's label can bear."""
    return text if _CODE.fullmatch(text) else "reported"


class StreamTable:
    """All streams that this sidecar has heard of, `limits.STREAMS_KEPT` at most, ended ones out first."""

    def __init__(self, dictionaries: Mapping[str, KnownDictionary]) -> None:
        self._dictionaries = dictionaries
        self._streams: dict[tuple[EngineKey, int], StreamRecord] = {}
        self._places: dict[EngineKey, EngineKey] = {}  # by the engine that has it now, who had it before
        self._numbers = 0
        self._tables = 0

    def __iter__(self) -> Iterator[StreamRecord]:
        return iter(self._streams.values())

    def find(self, engine: EngineKey, number: int) -> StreamRecord | None:
        """The stream of that number."""
        return self._streams.get((engine, number))

    def open(self, link: int, record: StreamOpen, now_ns: int) -> StreamRecord:
        """A stream opens, or its engine has connected again."""
        engine = (record.engine, record.epoch)
        stream = self._streams.get((engine, record.stream))
        if stream is None or _changed(stream.opening, record):
            self._numbers += 1
            dictionary = self._dictionaries.get(record.weights_digest)
            identity = StreamIdentity(number=self._numbers, opening=record, dictionary=dictionary)
            stream = StreamRecord(identity, now_ns, link)
            self._streams.pop((engine, record.stream), None)
            self._streams[engine, record.stream] = stream
            self._forget_one()
        stream.link, stream.ended, stream.alive_ns = link, "", now_ns
        return stream

    def watch(self, stream: StreamRecord, record: WatchSet) -> WatchTable | None:
        """A part of a watch set; the table when it was the last one."""
        known = stream.tables.get(record.watch)
        if known is not None and known.digest == record.digest and known.slots == record.total:
            return None  # repeated after a reconnect
        parts = stream.parts.setdefault(record.watch, [])
        if record.first == 0:  # from the beginning: what a broken connection left unfinished does not count
            parts.clear()
        parts.append(record)
        if sum(len(part.row) for part in parts) < record.total:
            if len(parts) > limits.RECORD_ITEMS or len(stream.parts) > limits.WATCH_SETS_KEPT:
                stream.parts.clear()
                raise RecordError("watch_set", found="parts without end", expected="parts that add up to its total")
            return None
        del stream.parts[record.watch]
        table = join(parts, number=self._tables + 1, stream=stream.identity)
        self._tables += 1
        stream.tables.pop(record.watch, None)
        stream.tables[record.watch] = table
        while len(stream.tables) > limits.WATCH_SETS_KEPT:
            del stream.tables[next(iter(stream.tables))]
        return table

    def leave(self, link: int, opened: int, arguments: Mapping[str, str]) -> None:
        """The stream ``opened`` is in the place of the one that a ``load`` of these named, which ends later."""
        for stream in self._streams.values():
            opening = stream.opening
            there = {"replace": opening.weights_digest, "hook_point": opening.hook_point, "role": opening.role}
            meant = all(arguments.get(name) in {None, "", value} for name, value in there.items())
            if stream.link == link and opening.stream < opened and meant:
                stream.leaving = True

    def relabel(self, known: KnownDictionary) -> None:
        """Other labels for weights: open streams go on under their numbers, with tables of their own from here on."""
        for stream in self._streams.values():
            same = stream.opening.weights_digest == known.weights_digest
            if stream.ended or not same or stream.identity.dictionary == known:
                continue
            stream.identity = replace(stream.identity, dictionary=known)
            for watch, table in list(stream.tables.items()):
                self._tables += 1
                stream.tables[watch] = relabelled(table, number=self._tables, stream=stream.identity)

    def beat(self, record: Beat, now_ns: int) -> list[StreamRecord]:
        """Books the beat; gives the engine's streams."""
        engine = (record.engine, record.epoch)
        books = {item.stream: item for item in record.streams}
        streams = [stream for (owner, _), stream in self._streams.items() if owner == engine and not stream.ended]
        for stream in streams:
            if stream.link is None and stream.opening.stream not in books:
                stream.ended = "replaced"  # while nobody heard: a beat names every stream that the engine has
                continue
            stream.alive_ns, stream.beat_time_ns = now_ns, record.time_ns
            stream.take(books.get(stream.opening.stream))
        return [stream for stream in streams if not stream.ended]

    def end(self, stream: StreamRecord, record: StreamEnd) -> None:
        """The engine ended a stream."""
        stream.books, stream.ended, stream.link = record.final, record.reason, None

    def replaced(self, engine: EngineKey) -> list[EngineKey]:
        """Ends the streams of other epochs of the same engine; gives those epochs."""
        older = [
            (owner, stream)
            for (owner, _), stream in self._streams.items()
            if owner[0] == engine[0] and owner != engine and not stream.ended
        ]
        for _, stream in older:
            stream.ended, stream.link = "replaced", None
        return sorted({owner for owner, _ in older})

    def take_places(self, known: Collection[EngineKey], connected: Collection[EngineKey]) -> None:
        """An engine that began when another had left has its place; that one's streams end when it is not ``known``.

        It takes one: that of its own name, or else of who left last. So a chain of restarts leaves nobody behind, and
        who left and has no successor stays blind. Who comes back had not left.
        """
        heard: dict[EngineKey, int] = {}  # by the engines' own clocks, as their epochs are
        models: dict[EngineKey, str] = {}
        for (engine, _), stream in self._streams.items():
            heard[engine] = max(heard.get(engine, engine[1]), stream.beat_time_ns)
            models[engine] = stream.opening.model_name
        places = {one: before for one, before in self._places.items() if one in heard and before not in connected}
        for newcomer in sorted((heard.keys() & connected) - places.keys(), key=lambda one: one[::-1]):
            free = heard.keys() - connected - set(places.values())
            left = [one for one in free if heard[one] < newcomer[1] and _one_model(models[one], models[newcomer])]
            if left:
                places[newcomer] = max(left, key=lambda one: (one[0] == newcomer[0], heard[one], one))
        self._places = places
        lost = set(places.values()).difference(known)
        for (engine, _), stream in self._streams.items():
            if engine in lost and not stream.ended:
                stream.ended = LOST

    def due_ns(self, now_ns: int) -> float:
        """When the next one is blind for want of a beat; infinity: none will be."""
        ends = (one.alive_ns + limits.BLIND_AFTER_NS for one in self._streams.values() if not one.ended)
        return min((end for end in ends if end >= now_ns), default=inf)

    def detach(self, link: int) -> None:
        """A connection is gone."""
        for stream in self._streams.values():
            if stream.link == link:
                stream.link = None

    def _forget_one(self) -> None:
        if len(self._streams) > limits.STREAMS_KEPT:
            ended = [place for place, stream in self._streams.items() if stream.ended]
            del self._streams[(ended or list(self._streams))[0]]


def _one_model(left: str, right: str) -> bool:
    """Whether they may be the same model: an engine whose tap failed at its start does not know which it has."""
    return left == right or not left or not right


def _changed(left: StreamOpen, right: StreamOpen) -> bool:
    """Whether a number was given to another dictionary or hook point."""
    return (left.weights_digest, left.hook_point, left.mode, left.role) != (
        right.weights_digest,
        right.hook_point,
        right.mode,
        right.role,
    )
