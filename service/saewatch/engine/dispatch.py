"""From what fired in a step to frames in the queue; what is lost on this way is booked once, with its reason.

No connection: *gap*. The queue is full, or too much is unacknowledged: *queue_full*. A row with more firings than a
frame takes: *overflow*. A batch that breaks its own rules: *blind*. Owned by the shipper's thread.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from saewatch.core import limits
from saewatch.core.batch import Census, FiringBatch, Reason
from saewatch.core.errors import RecordError
from saewatch.core.wire import encode, fit
from saewatch.engine.batching import Encoded, losses
from saewatch.engine.books import Books, Stream
from saewatch.engine.ledger import Ledger, Settled, Step
from saewatch.engine.outbox import Outbox

logger = logging.getLogger("vllm.saewatch")

MISSED_PER_BATCH = 1024
TOLD_BYTES = 16 * limits.KIB
"""Room in the queue for a batch that only tells losses."""


class Dispatch:
    """Puts the batches of all streams into ``outbox``; a fault of ours goes to ``fault``."""

    def __init__(self, outbox: Outbox, fault: Callable[[Exception], None]) -> None:
        self._outbox = outbox
        self._fault = fault
        self.census_dropped = self._census_faults = 0

    def report(self, stream: Stream, step: Step, settled: Settled, encoded: Encoded) -> None:
        """Makes a step's batch and sends it."""
        try:
            settled, encoded = stream.pooled(settled, encoded)
            stream.books.leave_out(losses(settled, encoded))
            batch = self._batch(stream, step, settled, encoded)
            if batch.rows or len(batch.missed_request):
                self._send(stream, batch)
        except Exception as error:  # the other streams, and the ends of this step's requests, come all the same
            self._fault(error)

    def tell(self, stream: Stream) -> None:
        """Sends losses that no later batch has taken along."""
        if stream.books.untold and self._sendable(stream.books) and self._outbox.room >= TOLD_BYTES:
            empty = Step(number=0, time_ns=time.time_ns())
            self._send(stream, self._batch(stream, empty, Ledger().settle(empty), Encoded.empty()))

    def pass_on(self, census: Sequence[Census]) -> None:
        """Of each stream all frames or none: what does not fit is dropped and counted; another comes in seconds."""
        for _, parts in itertools.groupby(census, key=lambda part: part.stream):
            if self._outbox.connected and not self._queued(parts):
                self.census_dropped += 1

    def _queued(self, parts: Iterable[Census]) -> bool:
        try:
            return self._outbox.put_batch([encode(part) for part in parts])
        except RecordError as error:  # figures that break their rules say nothing of what fires
            self._census_faults += 1
            if self._census_faults == 1:
                logger.warning("saewatch: a census breaks its own rules; such are dropped: %s", error)
            return False

    def _batch(self, stream: Stream, step: Step, settled: Settled, encoded: Encoded) -> FiringBatch:
        told = stream.books.tell(MISSED_PER_BATCH) if self._sendable(stream.books) else []
        try:
            return stream.batch(step, settled, encoded, told)
        except Exception:  # whatever it was, the losses that this batch would have told are told by another
            stream.books.untell(told)
            raise

    def _sendable(self, books: Books) -> bool:
        return self._outbox.connected and not books.unresolved(self._outbox.connection)

    def _send(self, stream: Stream, batch: FiringBatch) -> None:
        books = stream.books
        if not self._sendable(books):
            books.lose(batch, Reason.GAP)
            return
        try:
            pieces = fit(batch)
        except RecordError:  # a row with more firings than a frame takes
            books.lose(batch, Reason.OVERFLOW)
            return
        try:
            frames = [encode(piece) for piece in pieces]
        except RecordError as error:  # a batch that breaks its rules, such as a value that is not finite
            books.lose(batch, Reason.BLIND)
            self._fault(error)
            return
        books.seq += len(pieces)
        if books.full or not self._outbox.put_batch(frames):
            books.lose(batch, Reason.QUEUE_FULL)
            return
        for piece in pieces:
            books.send(piece, self._outbox.connection)
