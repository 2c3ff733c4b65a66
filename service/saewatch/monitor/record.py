"""What a request's firings came to, as it can be handed to other threads."""

from __future__ import annotations

from dataclasses import dataclass

from saewatch.core.records import RequestEnd, RequestLabel, RequestStart
from saewatch.monitor.roster import Request
from saewatch.monitor.tables import WatchTable
from saewatch.monitor.tally import Tally, frozen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestRecord:
    """One request; ``label`` is what is known by now, ``traffic_class`` under what it is counted."""

    engine: str
    key: str
    start: RequestStart
    label: RequestLabel | None
    traffic_class: str
    end: RequestEnd | None
    lost: bool
    tallies: tuple[tuple[WatchTable, Tally], ...]


def record_of(request: Request) -> RequestRecord:
    """A copy that does not change any more."""
    return RequestRecord(
        engine=request.engine[0],
        key=request.key,
        start=request.start,
        label=request.label,
        traffic_class=request.identity.traffic_class if request.identity else "",
        end=request.end,
        lost=request.lost,
        tallies=tuple((table, frozen(tally)) for table, tally in request.tallies.items()),
    )
