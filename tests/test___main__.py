"""``python -m saewatch``."""

from __future__ import annotations

from saewatch import __version__
from tests import sidecar


def test_it_is_the_command_line() -> None:
    done = sidecar.run("version")
    assert (done.returncode, done.stdout) == (0, f"saewatch {__version__}\n")
    assert sidecar.run().returncode == 1
