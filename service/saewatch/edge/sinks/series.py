"""Counters by labels, each with a cap on its series: a metric that outgrows it is cut, and the cut is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily

from saewatch.core import limits

PREFIX = "saewatch_"


class Counter:
    """One metric. What would open a series beyond the cap is not counted here but in ``dropped``."""

    def __init__(self, name: str, says: str, labels: Sequence[str], cap: int = limits.SERIES_DEFAULT) -> None:
        self.name = PREFIX + name
        self._says = says
        self._labels = tuple(labels)
        self._cap = cap
        self._totals: dict[tuple[str, ...], float] = {}
        self._refused: set[tuple[str, ...]] = set()
        self.dropped = 0
        """Series that were not opened; those beyond twice the cap are no longer told apart."""

    def add(self, values: tuple[str, ...], amount: float) -> None:
        """Adds to the series of these label values."""
        if values not in self._totals and len(self._totals) >= self._cap:
            if values not in self._refused and len(self._refused) < self._cap:
                self._refused.add(values)
                self.dropped += 1
            return
        self._totals[values] = self._totals.get(values, 0.0) + amount

    def family(self) -> CounterMetricFamily:
        """As it stands."""
        family = CounterMetricFamily(self.name, self._says, labels=self._labels)
        for values, total in self.items():
            family.add_metric(values, total)
        return family

    def items(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """The series."""
        yield from list(self._totals.items())
