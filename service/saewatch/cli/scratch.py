"""A folder for one run that leaves nothing behind: it goes at the end, or, after a kill, when the next run begins.

Each run holds a lock on its folder. One that nobody holds is abandoned, unless it is so young that its run may not
have come to that yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "saewatch-run-"
YOUNG_S = 60.0
FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new one, for its owner alone. From here on SIGTERM raises `SystemExit`, until somebody else takes it."""
    signal.signal(signal.SIGTERM, _leave)
    _clear()
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    held = os.open(path, FLAGS)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def _clear() -> None:
    """Removes our own folders that nobody holds."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # held, somebody else's, or gone meanwhile
            held = os.open(path, FLAGS)
            try:
                found = os.fstat(held)
                if found.st_uid == os.geteuid() and time.time() - found.st_mtime > YOUNG_S:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(held)


def _leave(*_: object) -> None:
    raise SystemExit(0)
