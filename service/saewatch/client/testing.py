"""For tests of your own client: a fake sidecar, and a pytest fixture of one.

    pytest_plugins = ["saewatch.client.testing"]

    def test_threats_are_reported(saewatch_server):
        saewatch_server.fires("violence.p1", value=2.5, request="r1", position=3)
        ...  # your client, pointed at saewatch_server.address

`FakeServer` itself needs no pytest: import it from `saewatch.client.fake`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saewatch.client.fake import FakeServer
from saewatch.client.fake.made import FEATURES

__all__ = ["FEATURES", "FakeServer", "saewatch_server"]


@pytest.fixture
def saewatch_server() -> Iterator[FakeServer]:
    """A fake sidecar with the default dictionary, which says what the test tells it to."""
    with FakeServer() as server:
        yield server
