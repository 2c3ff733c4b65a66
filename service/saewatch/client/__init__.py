"""The Python client: events of a running sidecar as typed objects, over numpy columns. Needs the ``client`` extra.

    from saewatch.client import Client

    for event in Client("127.0.0.1:50071").watch(category="vcr"):
        print(event)

`Client` is for programs without a loop, `AsyncClient` for those with one; `saewatch.client.testing` serves made-up
events to test a client with. docs/clients.md says what each event obliges a client to do.
"""

from saewatch.client.aio import AsyncClient
from saewatch.client.aiowatches import AsyncAlertWatch, AsyncVerdicts, AsyncWatch
from saewatch.client.alerts import AlertChange, AlertEvent, AlertsMissed
from saewatch.client.blocking import Client
from saewatch.client.events import (
    Blind,
    Books,
    Coverage,
    Disconnected,
    Event,
    Gap,
    Heartbeat,
    Reconnected,
    RequestEnded,
    Totals,
)
from saewatch.client.firings import Firing, Firings
from saewatch.client.stored import Bucket, Covered, Loss, Page, StoredFiring, StoredRequest
from saewatch.client.tables import Request, Stream, Table
from saewatch.client.watches import AlertWatch, Verdicts, Watch

__all__ = [
    "AlertChange",
    "AlertEvent",
    "AlertWatch",
    "AlertsMissed",
    "AsyncAlertWatch",
    "AsyncClient",
    "AsyncVerdicts",
    "AsyncWatch",
    "Blind",
    "Books",
    "Bucket",
    "Client",
    "Coverage",
    "Covered",
    "Disconnected",
    "Event",
    "Firing",
    "Firings",
    "Gap",
    "Heartbeat",
    "Loss",
    "Page",
    "Reconnected",
    "Request",
    "RequestEnded",
    "StoredFiring",
    "StoredRequest",
    "Stream",
    "Table",
    "Totals",
    "Verdicts",
    "Watch",
]
