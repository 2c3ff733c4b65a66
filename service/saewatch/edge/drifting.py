"""Between the monitor and the detectors of drift: requests that ended, with their records, and what is said of them.

Records are made up together, some hundred at a time: to make up each as it ends costs ten times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from saewatch.core import limits
from saewatch.monitor.alert import Alert, AlertChanged
from saewatch.monitor.drift.following import Following
from saewatch.monitor.drift.known import KnownBaseline
from saewatch.monitor.events import Event, Observed, RequestEnded, Sampled, Standing
from saewatch.monitor.identity import Identity
from saewatch.monitor.monitor import Status
from saewatch.monitor.record import RequestRecord


class Drifting:
    """The part of the pipeline that follows drift; it does nothing where there is no baseline."""

    def __init__(
        self,
        baselines: Sequence[KnownBaseline],
        records: Callable[[str], list[RequestRecord]],
        take: Callable[[Alert], AlertChanged],
    ) -> None:
        self._following = Following(baselines)
        self._records, self._take = records, take
        self._ended: list[Identity] = []

    @property
    def idle(self) -> bool:
        """Whether there is no baseline."""
        return self._following.idle

    def follow(self, events: Iterable[Event], now_ns: int) -> list[Event]:
        """The events, with what is blind of the detectors."""
        found = list(events)
        if self._following.idle:
            return found
        for one in found:
            if isinstance(one, Sampled):
                self._following.census(one)
            if isinstance(one, Observed | RequestEnded):
                self._following.replayed(one, now_ns)
        self._ended += [one.identity for one in found if isinstance(one, RequestEnded)]
        if len(self._ended) >= limits.DRIFT_REQUESTS_TOGETHER:
            self._count(now_ns)
        return [self._standing(one) if isinstance(one, Standing) else one for one in found]

    def tick(self, now_ns: int) -> list[Event]:
        """Alarms, and how the detectors stand, where a block is closed."""
        self._count(now_ns)
        return [self._take(one.alert) if isinstance(one, AlertChanged) else one for one in self._following.tick(now_ns)]

    def status(self, status: Status) -> Status:
        """With what is blind of the detectors."""
        return replace(status, blind=(*status.blind, *self._following.blind()))

    def _standing(self, standing: Standing) -> Standing:
        return replace(standing, blind=(*standing.blind, *self._following.blind()))

    def _count(self, now_ns: int) -> None:
        ended, self._ended = self._ended, []
        for identity in ended:
            for record in self._records(identity.engine_id):
                if (record.engine, record.start.child) == (identity.engine, identity.child):
                    self._following.add(record, now_ns)
