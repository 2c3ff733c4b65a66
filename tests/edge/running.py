"""The ingest thread on a real socket, with a pipeline behind it."""

from __future__ import annotations

from saewatch.edge.pipeline import Pipeline, SinkQueue
from saewatch.edge.sources import SocketSource
from saewatch.monitor.events import Observed, StreamState
from saewatch.monitor.tables import KnownDictionary
from tests import fakes
from tests.fakes import FakeEngine


class Running:
    """A source and its pipeline."""

    def __init__(self, path: str, *more: KnownDictionary) -> None:
        self.known = fakes.dictionary()
        self.queue = SinkQueue("q", lambda: None, bound=100_000)
        known = {one.weights_digest: one for one in (self.known, *more)}
        self.pipeline = Pipeline(dictionaries=known, queues=[self.queue])
        self.source = SocketSource(path=path, consumer=self.pipeline)
        self.path = path
        self.items: list[object] = []

    def engine(self, **fields: str | int) -> FakeEngine:
        """An engine that connects."""
        return FakeEngine(self.path, self.known, **fields)  # type: ignore[arg-type]  # names and epochs

    def observed(self) -> list[Observed]:
        """The batches that came out so far."""
        self.look()
        return [item for item in self.items if isinstance(item, Observed)]

    def look(self) -> list[object]:
        """Everything that came out so far."""
        self.items += self.queue.take()
        return self.items

    def stream(self, number: int = 0) -> StreamState:
        """One stream's state."""
        return self.pipeline.status().streams[number]

    def faults(self) -> dict[str, int]:
        """Counters that are not zero."""
        return {name: count for name, count in self.source.counters.items() if count}
