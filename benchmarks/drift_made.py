"""Makes the weeks that are not there yet, as many at once as there are processors, and keeps book of what that took.

A week does not depend on the others. The time they take belongs to the benchmark also where a later run finds them in
the cache. So each is booked the time since the one before it was there: together, the time that somebody waited.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.drift_pairs import NEW_WEEKS, Drawn
from benchmarks.drift_trial import told
from benchmarks.drift_weeks import Weeks

Given = TypeVar("Given")
Found = TypeVar("Found")
PROCESSES_MAX = 16
"""A week is 250 MB while it is made."""
THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A week that is to be there. ``drawn``: with what is drawn of its requests; ``new``: with new pairs."""

    weeks: Weeks
    cache: Path
    seed: int
    drawn: bool = False
    new: bool = False

    @property
    def name(self) -> str:
        """In the book."""
        return f"{self.seed}-new" if self.new else str(self.seed)

    @property
    def there(self) -> bool:
        """Whether it is."""
        drawn = not self.drawn or Drawn(self.weeks, self.cache).has(self.seed, new=self.new)
        return drawn and (self.new or self.weeks.has(self.seed))


def wanted(weeks: Weeks, cache: Path) -> list[Wanted]:
    """All of a size; what takes longest first."""
    size = weeks.size
    return [
        *(Wanted(weeks=weeks, cache=cache, seed=one, drawn=True, new=True) for one in size.null[:NEW_WEEKS]),
        *(Wanted(weeks=weeks, cache=cache, seed=one, drawn=True) for one in (*size.baseline, *size.null)),
        *(Wanted(weeks=weeks, cache=cache, seed=one) for one in (*size.drift, *size.surge, *size.dense)),
    ]


def make(one: Wanted) -> None:
    """Simulates it, whatever of it is there."""
    if one.drawn:
        Drawn(one.weeks, one.cache).make(one.seed, new=one.new)
    else:
        one.weeks.get(one.seed)


def simulated(weeks: Weeks, cache: Path) -> None:
    """Makes what is not there yet, and books it."""
    missing = [one for one in wanted(weeks, cache) if not one.there]
    book, since = _Book(weeks, cache), time.monotonic()
    for number, (one, _) in enumerate(at_once(make, missing), start=1):
        now = time.monotonic()
        book.write(one.name, now - since)
        since = now
        told(f"week {one.name} is made, {number} of {len(missing)}")


def took(weeks: Weeks, cache: Path) -> float | None:
    """Seconds for which somebody waited for the weeks of the cache; None where they were not booked."""
    booked = _Book(weeks, cache).read()
    names = [one.name for one in wanted(weeks, cache)]
    return sum(booked[name] for name in names) if booked.keys() >= set(names) else None


def at_once(work: Callable[[Given], Found], each: Sequence[Given]) -> Iterator[tuple[Given, Found]]:
    """``work`` on each in a process of its own, as many at once as there are processors; in the order that they end."""
    if not each:
        return
    many = min(len(each), os.cpu_count() or 1, PROCESSES_MAX)
    pool: Executor = ProcessPoolExecutor(many, multiprocessing.get_context("spawn"))
    try:
        with _one_thread_each():
            futures = {pool.submit(work, one): one for one in each}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """For processes that start meanwhile: threads of BLAS would wait for one another on processors that are taken."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "1"
    try:
        yield
    finally:
        os.environ.pop(THREADS)
        os.environ |= {} if before is None else {THREADS: before}


class _Book:
    """Seconds of each week, beside the weeks."""

    def __init__(self, weeks: Weeks, cache: Path) -> None:
        self._place = cache / f"{Drawn(weeks, cache).name}.json"

    def read(self) -> Mapping[str, float]:
        """By the weeks' names."""
        found: Mapping[str, float] = json.loads(self._place.read_text()) if self._place.exists() else {}
        return found

    def write(self, name: str, seconds: float) -> None:
        """One more."""
        partial = self._place.with_name(f".{self._place.name}.{os.getpid()}")
        partial.write_text(json.dumps({**self.read(), name: round(seconds, 2)}, indent=1) + "\n")
        partial.rename(self._place)
