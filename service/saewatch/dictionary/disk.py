"""Changes to files that survive a crash: each method is a step that has happened or has not, whatever comes after it.

What is new is written under another name, flushed and renamed; a folder is flushed after its entries changed. Where a
step can end half way (a file that is being written, a line that is being appended), what it leaves is told from what is
whole: by its place, or by the missing end of its line. Tests put one in its place that fails at any step.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from saewatch.core.errors import ConfigError, UnreachableError

_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Disk:
    """The steps. Nothing follows a symbolic link in the last part of a path."""

    def folder(self, path: Path) -> None:
        """Makes a folder for its owner alone, in one that is there; it may be there already."""
        if not path.is_dir():
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            _flush(path.parent)

    def create(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        """Writes a new file that nobody changes any more, and flushes it."""
        with os.fdopen(os.open(path, _NEW, 0o444), "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, old: Path, new: Path) -> None:
        """Puts ``old`` in the place of ``new``."""
        old.replace(new)
        _flush(new.parent)

    def append(self, path: Path, data: bytes) -> None:
        """Adds to the end of a file, which is made where it is not there."""
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _flush(path.parent)

    def cut(self, path: Path, size: int) -> None:
        """Takes what is beyond ``size`` bytes off a file's end."""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b", buffering=0) as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def remove(self, path: Path) -> None:
        """Removes a file, which may be gone."""
        path.unlink(missing_ok=True)

    def touch(self, path: Path) -> None:
        """Makes a file as young as a new one."""
        os.utime(path, follow_symlinks=False)


def read(path: Path, limit: int) -> bytes:
    """A file's bytes.

    Raises:
        UnreachableError: it is not there or cannot be read.
        ConfigError: it is a symbolic link, no regular file, or longer than ``limit``.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        if path.is_symlink():
            raise ConfigError(str(path), found="a symbolic link", expected="a regular file") from error
        raise UnreachableError(str(path), found=error.strerror, expected="a file that can be read") from error
    if len(data) > limit:
        raise ConfigError(str(path), found="a longer file", expected=f"at most {limit} bytes")
    return data


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds the advisory lock on a file, waiting for it; the kernel lets go of it when its holder dies."""
    try:
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        expected = "a file that can be locked"
        raise UnreachableError(str(path), found=error.strerror, expected=expected) from error
    try:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _flush(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
