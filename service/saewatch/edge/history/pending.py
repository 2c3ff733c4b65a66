"""Batches on their way into the store: gathered to blocks, bounded, and what does not fit is a loss.

A block has one table, at most `limits.HISTORY_BLOCK_FIRINGS` firings or one batch more, and spans at most
`limits.HISTORY_BLOCK_NS`: a step whose time lies further away begins another.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from saewatch.core import limits
from saewatch.edge.history.writer import HOUR_NS, Cause, Loss
from saewatch.edge.pipeline import Dropped, Item
from saewatch.monitor.alert import AlertChanged
from saewatch.monitor.events import Observed, RequestEnded, Unreadable
from saewatch.monitor.silences import SilenceChanged
from saewatch.monitor.tables import WatchTable

BATCH_BYTES = 1024
"""What a batch takes beside its columns, about."""


@dataclass(slots=True, eq=False)
class Group:
    """Batches that will be one block."""

    table: WatchTable
    first_ns: int
    last_ns: int
    batches: list[Observed] = field(default_factory=list)
    rows: int = 0
    firings: int = 0
    tokens: int = 0
    nbytes: int = 0

    def takes(self, time_ns: int) -> bool:
        """Whether a step of this time may join."""
        first, last = min(self.first_ns, time_ns), max(self.last_ns, time_ns)
        full = self.firings >= limits.HISTORY_BLOCK_FIRINGS or self.rows >= limits.HISTORY_BLOCK_ROWS
        return not full and last - first <= limits.HISTORY_BLOCK_NS

    def add(self, item: Observed, nbytes: int) -> None:
        """It joins."""
        batch = item.batch
        self.first_ns, self.last_ns = min(self.first_ns, batch.time_ns), max(self.last_ns, batch.time_ns)
        self.batches.append(item)
        self.rows += batch.rows
        self.firings += batch.firings
        self.tokens += batch.rows + int(batch.missed_tokens.sum())
        self.nbytes += nbytes

    def loss(self) -> Loss:
        """What is lost when it is not written."""
        return Loss(
            cause=Cause.NOT_WRITTEN,
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            tokens=self.tokens,
            firings=self.firings,
        )


class Pending:
    """What waits to be written, in order."""

    def __init__(self) -> None:
        self.seen_ns = 0
        """Time of the last step that came."""
        self.ready: deque[Group] = deque()
        """Groups that are complete, oldest first."""
        self.ended: deque[RequestEnded] = deque()
        self.alerts: dict[tuple[str, bool], AlertChanged] = {}
        """The last change of each alert, and its last acknowledgement."""
        self.silences: dict[str, SilenceChanged] = {}
        """The last change of each that somebody gave."""
        self.lost_alerts = 0
        self.lost_tokens = self.lost_firings = 0
        """What queue and disk did not take."""
        self.losses: dict[tuple[Cause, int], Loss] = {}
        self._open: dict[WatchTable, Group] = {}
        self._bytes = 0
        self._gap_ns: int | None = None

    def add(self, item: Item, *, now_ns: int) -> None:
        """Takes an event."""
        if isinstance(item, Observed):
            self._observe(item)
        elif isinstance(item, RequestEnded):
            self.ended.append(item)
            if len(self.ended) > limits.OPEN_REQUESTS:
                self.ended.popleft()  # the store will take the request for open
        elif isinstance(item, AlertChanged):
            self._change(item)
        elif isinstance(item, SilenceChanged):
            self._silence(item)
        elif isinstance(item, Unreadable):
            self._lose(Cause.UNREADABLE, item.tokens, 0, self.seen_ns or now_ns)
        elif isinstance(item, Dropped):
            self._gap_ns = self.seen_ns or now_ns
            self._lose(Cause.QUEUE_FULL, item.tokens, item.firings, self._gap_ns)

    def _change(self, item: AlertChanged) -> None:
        key = item.alert.id, item.acknowledged
        self.alerts.pop(key, None)
        self.alerts[key] = item
        if len(self.alerts) > limits.ALERTS_STORED:
            del self.alerts[next(iter(self.alerts))]
            self.lost_alerts += 1

    def _silence(self, item: SilenceChanged) -> None:
        if not item.silence.by:
            return  # what stands in a policy is read with it
        self.silences.pop(item.silence.id, None)
        self.silences[item.silence.id] = item
        if len(self.silences) > limits.ALERTS_STORED:
            del self.silences[next(iter(self.silences))]
            self.lost_alerts += 1

    def close(self) -> None:
        """All groups are complete: then whatever has ended has its batches in them, or was written before."""
        self.ready.extend(self._open.values())
        self._open.clear()

    def done(self) -> Group:
        """The first of those that are ready need not wait any more."""
        group = self.ready.popleft()
        self._bytes -= group.nbytes
        return group

    def give_up(self) -> None:
        """The first of those that are ready can not be written."""
        self.lose(self.done().loss())

    def lose(self, loss: Loss) -> None:
        """Adds a loss; those of one cause and hour are one."""
        if loss.cause != Cause.UNREADABLE:
            self.lost_tokens += loss.tokens
            self.lost_firings += loss.firings
        key = (loss.cause, loss.last_ns // HOUR_NS)
        before = self.losses.get(key)
        self.losses[key] = loss if before is None else _together(before, loss)

    def _observe(self, item: Observed) -> None:
        batch = item.batch
        nbytes = batch.nbytes + BATCH_BYTES
        self.seen_ns = batch.time_ns
        if self._gap_ns is not None:
            self.lose(_loss(Cause.QUEUE_FULL, self._gap_ns, batch.time_ns))
            self._gap_ns = None
        if self._bytes + nbytes > limits.HISTORY_PENDING_BYTES:
            self._lose(Cause.NOT_WRITTEN, batch.rows + int(batch.missed_tokens.sum()), batch.firings, batch.time_ns)
            return
        group = self._open.get(item.table)
        if group is None or not group.takes(batch.time_ns):
            if group is not None:
                self.ready.append(group)
            group = self._open[item.table] = Group(item.table, batch.time_ns, batch.time_ns)
        group.add(item, nbytes)
        self._bytes += nbytes

    def _lose(self, cause: Cause, tokens: int, firings: int, at_ns: int) -> None:
        self.lose(Loss(cause=cause, first_ns=at_ns, last_ns=at_ns, tokens=tokens, firings=firings))


def _loss(cause: Cause, one_ns: int, other_ns: int) -> Loss:
    """Tells of a stretch of time; what was lost in it is told apart."""
    return Loss(cause=cause, first_ns=min(one_ns, other_ns), last_ns=max(one_ns, other_ns), tokens=0, firings=0)


def _together(left: Loss, right: Loss) -> Loss:
    return Loss(
        cause=left.cause,
        first_ns=min(left.first_ns, right.first_ns),
        last_ns=max(left.last_ns, right.last_ns),
        tokens=left.tokens + right.tokens,
        firings=left.firings + right.firings,
    )
