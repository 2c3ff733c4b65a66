"""The tap's socket, looked at from outside: to connect to it would be an engine's connection, and disturb the sidecar.

Who may connect is decided twice: by the file's owner and mode, and by the sidecar, which asks the kernel for the peer's
user. Whether somebody listens is read from the kernel's table of Unix sockets; that one shows this network namespace
only, so a sidecar in another container is not in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from saewatch.cli.checks.finding import Finding, Setup, failed, good, unverified, warning

TABLE = Path("/proc/net/unix")
LISTENING, SEQPACKET = 1 << 16, 5
"""Of the table's columns Flags (__SO_ACCEPTCON) and Type."""
START = "Start the sidecar: `saewatch serve -c saewatch.yaml`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Owner and mode of a file."""

    uid: int
    mode: int

    @property
    def shown(self) -> str:
        """For people."""
        return f"user {self.uid}, mode {stat.S_IMODE(self.mode):04o}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """What was looked at."""

    path: str
    folder: Place | None
    file: Place | None
    listening: int | None
    """Type of the socket that listens there; 0: none; None: there is no table to look it up in."""
    writable: bool
    user: int
    allowed: tuple[int, ...] = ()


def look(setup: Setup) -> Socket:
    """The socket's folder and file, without touching them."""
    path = Path(setup.socket)
    return Socket(
        path=setup.socket,
        folder=_place(path.parent, follow=True),
        file=_place(path, follow=False),
        listening=listening(TABLE.read_text(), setup.socket) if TABLE.is_file() else None,
        writable=os.access(path, os.W_OK),
        user=os.geteuid(),
        allowed=setup.allowed_users,
    )


def examine(setup: Setup) -> Iterator[Finding]:
    """Every check of this group."""
    if not setup.socket:
        yield unverified("socket", "not known", expected="a path", hint="Name the configuration with -c.")
        return
    seen = look(setup)
    for check in CHECKS:
        yield from check(seen)


# --- checks -----------------------------------------------------------------------------------------------------------
def folder(seen: Socket) -> Iterator[Finding]:
    """Others may not be able to put another socket in the place of ours."""
    subject, place = f"folder of {seen.path}", seen.folder
    hint = "Choose a folder of your own, such as one with mode 0700."
    if place is None:
        yield unverified(subject, "nothing", expected="the sidecar makes it", hint=START)
        return
    owners = {0, seen.file.uid if seen.file else seen.user}
    shared = place.mode & (stat.S_IWGRP | stat.S_IWOTH) and not place.mode & stat.S_ISVTX
    if place.uid not in owners:
        yield failed(subject, place.shown, expected="the sidecar's user, or root", hint=hint)
    elif shared:
        yield failed(subject, place.shown, expected="one that others cannot write to", hint=hint)
    else:
        yield good(subject, place.shown)


def file(seen: Socket) -> Iterator[Finding]:
    """Whether there is a socket, and whose."""
    place = seen.file
    if place is None:
        yield unverified("socket", f"no {seen.path}", expected="the sidecar's socket", hint=START)
    elif not stat.S_ISSOCK(place.mode):
        hint = "Remove the file, or give the sidecar another path."
        yield failed("socket", f"{seen.path}, which is no socket", expected="a socket or nothing", hint=hint)
    elif stat.S_IMODE(place.mode) & (stat.S_IWGRP | stat.S_IWOTH):
        hint = "Somebody has changed it: restart the sidecar, which makes it with mode 0600."
        yield warning("socket", place.shown, expected="mode 0600", hint=hint)
    else:
        yield good("socket", f"{seen.path}, {place.shown}")


def listener(seen: Socket) -> Iterator[Finding]:
    """Whether somebody listens."""
    if seen.file is None:
        return
    if seen.listening is None:
        yield unverified("listener", f"no {TABLE}", expected="the kernel's table of sockets")
    elif seen.listening == 0:
        hint = f"A dead sidecar left it, or it listens in another network namespace. {START}"
        yield warning("listener", "nobody in this network namespace", expected="a sidecar", hint=hint)
    elif seen.listening != SEQPACKET:
        hint = "Another program listens there: give the sidecar a path of its own."
        yield failed("listener", "a socket of another kind", expected="SOCK_SEQPACKET, the tap's", hint=hint)
    else:
        yield good("listener", "somebody listens")


def connectable(seen: Socket) -> Iterator[Finding]:
    """Whether an engine of this user may connect."""
    if seen.file is None:
        return
    user = f"user {seen.user}"
    let_in = {0, seen.file.uid, *seen.allowed}
    if seen.user not in let_in:
        hint = "Run vLLM as the sidecar's user, or list its number in `allowed_users`."
        yield failed("connecting", user, expected=f"one of {sorted(let_in)}", hint=hint)
    elif not seen.writable:
        hint = "The file's mode keeps it out: run vLLM as the sidecar's user."
        yield failed("connecting", f"{user}, who may not write to it", expected="a file that it may", hint=hint)
    else:
        yield good("connecting", f"{user} may")


CHECKS: tuple[Callable[[Socket], Iterator[Finding]], ...] = (folder, file, listener, connectable)


def listening(table: str, path: str) -> int:
    """The type of the socket that listens on ``path``, of the kernel's ``table``; 0: none does."""
    for line in table.splitlines()[1:]:
        columns = line.split(maxsplit=7)  # Num RefCount Protocol Flags Type St Inode Path
        if len(columns) == 8 and columns[7] == path and int(columns[3], 16) & LISTENING:
            return int(columns[4], 16)
    return 0


def _place(path: Path, *, follow: bool) -> Place | None:
    try:
        found = path.stat(follow_symlinks=follow)
    except OSError:
        return None
    return Place(uid=found.st_uid, mode=found.st_mode)
