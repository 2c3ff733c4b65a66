"""Files that verbs write: whole or not at all, and for their owner alone: firings are as sensitive as the prompt."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from saewatch.core.errors import UnreachableError


def check_place(path: Path | None) -> None:
    """UnreachableError where `whole` could not make a file. A verb asks before its work, since that may take hours."""
    if path is None or (path.exists() and not path.is_dir()):
        return
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        found = "a folder" if path.is_dir() else f"no folder {path.parent} that takes one"
        raise UnreachableError(str(path), found=found, expected="a file that can be written")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place at the end; what stood there stays when something goes wrong.

    What is no regular file, such as a pipe, is written to itself. Raises `UnreachableError` where none can be made.
    """
    if path.is_dir():
        raise UnreachableError(str(path), found="a folder", expected="a file that can be written")
    if path.exists() and not path.is_file():
        yield path
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror, expected="a file that can be written") from error
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
