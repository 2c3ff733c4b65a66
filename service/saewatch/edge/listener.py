"""The Unix socket that engines connect to: made safely, and removed again.

Datagrams with boundaries (`SOCK_SEQPACKET`), in a folder that nobody else can write to, mode 0600 unless other users
are allowed, and open for connections only after that. A file left by a dead sidecar is removed; one on which somebody
listens is not. The folder is locked while that is decided, so that two sidecars that start together cannot both find it
dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from saewatch.core import limits
from saewatch.core.errors import AccessError, ConfigError

FIELD = "socket"
PATH_BYTES = 107  # sun_path holds 108 with its end
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Listener:
    """A listening socket at ``path``. ``mode`` is the file's; who connects is looked at again by `accept`."""

    def __init__(self, path: str, *, mode: int = 0o600) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            with _locked_folder(path):
                _remove_dead(path)
                self._socket.bind(path)
                Path(path).chmod(mode)  # nobody can connect before listen()
                self._socket.listen(limits.CONNECTIONS)
            self._place = _place(path)
        except OSError as error:
            self._socket.close()
            raise ConfigError(FIELD, found=f"{path}: {error.strerror}", expected="a path for a new socket") from error
        except ConfigError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def accept(self, allowed: Collection[int]) -> socket.socket | None:
        """The next connection; None when there is none.

        Raises `AccessError` when another user's process made it, and `OSError` when the system has no room for it.
        """
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        try:
            connection.settimeout(0)
            uid = peer_uid(connection)
        except OSError:
            connection.close()
            raise
        if uid not in allowed:
            connection.close()
            raise AccessError(
                f"peer of {self.path}",
                found=f"user {uid}",
                expected=f"one of {sorted(allowed)}",
                hint="Run the engine as the same user, or list its number in `allowed_users`.",
            )
        return connection

    def close(self) -> None:
        """Stops listening and removes the file, unless it is another's by now."""
        self._socket.close()
        with contextlib.suppress(OSError):
            if _place(self.path) == self._place:
                Path(self.path).unlink()


def peer_uid(connection: socket.socket) -> int:
    """The user of the process at the other end, when it connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return int(uid)


@contextlib.contextmanager
def _locked_folder(path: str) -> Iterator[None]:
    """The socket's folder, made if it is missing, checked, and locked."""
    if len(path.encode()) > PATH_BYTES:
        raise ConfigError(FIELD, found=f"{len(path.encode())} bytes", expected=f"a path of at most {PATH_BYTES} bytes")
    folder = Path(path).parent
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_folder(folder, os.fstat(descriptor))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_folder(folder: Path, found: os.stat_result) -> None:
    """Others may not be able to put another socket in the place of ours."""
    hint = "Choose a folder of your own, such as one with mode 0700."
    if found.st_uid not in {0, os.geteuid()}:
        raise ConfigError(FIELD, found=f"{folder} of user {found.st_uid}", expected="a folder of ours", hint=hint)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        mode = f"{folder} with mode {stat.S_IMODE(found.st_mode):04o}"
        raise ConfigError(FIELD, found=mode, expected="a folder that others cannot write to", hint=hint)


def _remove_dead(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(FIELD, found=f"{path}, which is no socket", expected="a socket or nothing")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        except OSError as error:  # somebody is there, be it with a full backlog or another kind of socket
            raise _in_use(path) from error
        else:
            raise _in_use(path)


def _in_use(path: str) -> ConfigError:
    hint = "Stop the other sidecar, or give this one another path."
    return ConfigError(FIELD, found=f"{path}, on which somebody listens", expected="a path of our own", hint=hint)


def _place(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
