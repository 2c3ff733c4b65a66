"""The fixture that others use, used here."""

from saewatch.client.testing import saewatch_server

__all__ = ["saewatch_server"]
