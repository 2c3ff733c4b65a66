"""A sidecar that is made up: the real protos on a real port, saying what a script tells it to. For tests of clients."""

from saewatch.client.fake.server import FakeServer

__all__ = ["FakeServer"]
