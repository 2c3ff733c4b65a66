"""Tests of your own client: `pytest test_my_client.py`, with nothing of a sidecar or an engine."""

from saewatch.client import Client, Disconnected, Event, Firings, Gap
from saewatch.client.fake import FakeServer

pytest_plugins = ["saewatch.client.testing"]


def test_a_threat_is_seen(saewatch_server: FakeServer) -> None:
    """What your client should do when something fires."""
    saewatch_server.request("r1", tenant="acme", prompt_len=2)
    saewatch_server.fires("violence.p1", value=2.5, request="r1", position=3)
    event = next(Client(saewatch_server.address).watch())
    assert isinstance(event, Firings)
    (firing,) = event
    assert (firing.feature, firing.value, firing.prompt) == ("violence.p1", 2.5, False)


def test_a_restart_is_no_silence(saewatch_server: FakeServer) -> None:
    """What it should do when a sidecar is restarted under it."""
    saewatch_server.tokens(10, request="r1")
    watch = Client(saewatch_server.address).watch()
    next(watch)
    saewatch_server.tokens(5, request="r1")
    saewatch_server.restart()
    events: list[Event] = []
    while not any(isinstance(one, Gap) for one in events):
        events.append(next(watch))
    assert any(isinstance(one, Disconnected) for one in events)
    assert watch.totals.tokens + watch.totals.gap_tokens == 15
