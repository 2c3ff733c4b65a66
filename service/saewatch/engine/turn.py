"""What a running tap watches, and how it comes to watch something else: between two steps, and for whole steps.

A step has one `Watching` from its forward pass to its batch. Whoever changes it gives the tap the new one and then a
`Turn` to the shipper, which turns when it meets the first step of the new one, or when no step is on its way. So no
batch is mixed, and each token counts in one state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from saewatch.core.batch import WatchSet
from saewatch.core.records import Result
from saewatch.engine.books import Stream
from saewatch.engine.watched import Watched


@dataclass(frozen=True, slots=True)
class Watching:
    """What steps are encoded for from here on."""

    number: int
    watched: Sequence[Watched]
    """None: the tap sees nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the shipper does when the steps of another `Watching` begin."""

    number: int
    streams: Sequence[Stream]
    """That a step is booked to from here on. One that was and is no more ends, one that was not opens."""
    watch: Mapping[int, Sequence[WatchSet]] = field(default_factory=dict)
    """Another watch set, by stream."""
    off: bool = False
    answer: Result
    turned: Callable[[], None]
