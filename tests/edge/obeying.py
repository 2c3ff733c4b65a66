"""A stand-in of an engine that does what it is told while it serves, as a real one does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from saewatch.core.records import Command, Result, StreamBeat
from saewatch.monitor.tables import KnownDictionary
from tests import fakes
from tests.fakes import FakeEngine


def watching(known: KnownDictionary, ids: Sequence[str]) -> KnownDictionary:
    """``known`` with some of its features: what an engine that watches them tells."""
    return replace(known, catalogue=replace(known.catalogue, features=known.catalogue.chosen(ids)))


class ObeyingEngine(FakeEngine):
    """An engine with one stream; `number` and `watch_number` are those in force."""

    def __init__(self, path: str, *known: KnownDictionary, **fields: int | str) -> None:
        super().__init__(path, known[0], **fields)  # type: ignore[arg-type]  # names and epochs
        self.dictionaries = {one.weights_digest: one for one in known}
        self.number = self.watch_number = 1
        self.blind = ""

    def ready(self) -> Self:
        """A stream, its watch set and a beat."""
        super().ready()
        self.tell()
        return self

    def tell(self) -> None:
        """A beat with the books of the stream that is open."""
        self.beat([StreamBeat(stream=self.number, seq=self.seq.get(self.number, 0), blind=self.blind)])

    def obey(self) -> Command:
        """Waits for a command, and does it."""
        command = self.commanded()
        carry = {"off": self._off, "on": self._on, "watch": self._watch, "load": self._load}[command.verb]
        details = carry(command.arguments)
        self.tell()
        self.send(Result(command=command.command, good=True, details=details))
        return command

    def swap(self, known: KnownDictionary) -> None:
        """Another dictionary takes the place of the one in force."""
        self.end_stream(self.number, "swap")
        self.known, self.number, self.watch_number = known, self.number + 1, 1
        self.send(fakes.stream_open(known, stream=self.number, engine=self.engine, epoch=self.epoch))
        self.watch(self.number)
        self.tell()

    def rewatch(self, ids: Sequence[str]) -> None:
        """Other features from now on; none: all."""
        self.watch_number += 1
        self.send(fakes.watch_set(watching(self.known, ids), stream=self.number, watch=self.watch_number))

    def _off(self, _: Mapping[str, str]) -> dict[str, str]:
        self.blind = "off"
        return {}

    def _on(self, _: Mapping[str, str]) -> dict[str, str]:
        self.blind = ""
        return {}

    def _watch(self, arguments: Mapping[str, str]) -> dict[str, str]:
        ids = json.loads(arguments["watch"] or "[]")
        self.rewatch(ids)
        return self._details(watching(self.known, ids))

    def _load(self, arguments: Mapping[str, str]) -> dict[str, str]:
        self.swap(self.dictionaries[arguments["weights"]])
        return {**self._details(self.known), "opened": str(self.number)}

    @staticmethod
    def _details(known: KnownDictionary) -> dict[str, str]:
        watch = known.catalogue.watch_list(known.manifest)
        return {"weights": known.weights_digest, "watch": watch.digest, "slots": str(len(watch.rows))}
