"""How Ctrl-C, `kill` and a closed terminal end the demo: as `Stop` in the main thread, once, and never at a bad moment.

A child must be known before anything can end us, so signals wait while one is started. They do not wait by a signal
mask or as ignored ones: the child would inherit either, and could not be stopped.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop(Exception):
    """Ctrl-C, or a signal to end."""


class Ending:
    """Made before the first child; from then on the first signal raises `Stop`, and later ones do nothing."""

    def __init__(self) -> None:
        self._asked = False
        self._waits = False
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._take)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes meanwhile raises at the end."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        self._check()

    def over(self) -> None:
        """From here on signals do nothing: what is left to do is to clean up."""
        self._waits = True

    def _take(self, _signal: int, _frame: object) -> None:
        self._asked = True
        self._check()

    def _check(self) -> None:
        if self._asked and not self._waits:
            self._waits = True
            raise Stop
