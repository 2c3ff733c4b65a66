"""The socket's checks, each in good and bad states, and that looking does not connect."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from saewatch.cli.checks import sockets
from saewatch.cli.checks.finding import Finding, Setup, State
from saewatch.cli.checks.sockets import Place, Socket, listening
from saewatch.edge.listener import Listener

FOLDER = Place(uid=1000, mode=stat.S_IFDIR | 0o700)
FILE = Place(uid=1000, mode=stat.S_IFSOCK | 0o600)
SEEN = Socket(path="/run/s.sock", folder=FOLDER, file=FILE, listening=5, writable=True, user=1000)


def only(check: Callable[[Socket], Iterator[Finding]], seen: Socket) -> Finding:
    (found,) = check(seen)
    return found


def test_all_is_well() -> None:
    found = [one for check in sockets.CHECKS for one in check(SEEN)]
    assert [one.state for one in found] == [State.GOOD] * 4


@pytest.mark.parametrize(
    ("folder", "state"),
    [
        (None, State.UNVERIFIED),
        (Place(uid=5, mode=stat.S_IFDIR | 0o700), State.FAILED),
        (Place(uid=1000, mode=stat.S_IFDIR | 0o777), State.FAILED),
        (Place(uid=0, mode=stat.S_IFDIR | 0o1777), State.GOOD),
    ],
)
def test_folders(folder: Place | None, state: State) -> None:
    assert only(sockets.folder, replace(SEEN, folder=folder)).state is state


@pytest.mark.parametrize(
    ("file", "state"),
    [
        (None, State.UNVERIFIED),
        (Place(uid=1000, mode=stat.S_IFREG | 0o600), State.FAILED),
        (Place(uid=1000, mode=stat.S_IFSOCK | 0o666), State.WARNING),
    ],
)
def test_files(file: Place | None, state: State) -> None:
    assert only(sockets.file, replace(SEEN, file=file)).state is state


@pytest.mark.parametrize(("kind", "state"), [(None, State.UNVERIFIED), (0, State.WARNING), (1, State.FAILED)])
def test_listeners(kind: int | None, state: State) -> None:
    assert only(sockets.listener, replace(SEEN, listening=kind)).state is state
    assert list(sockets.listener(replace(SEEN, file=None))) == []


@pytest.mark.parametrize(
    ("user", "allowed", "writable", "state"),
    [
        (7, (), True, State.FAILED),
        (7, (7,), True, State.GOOD),
        (7, (7,), False, State.FAILED),
        (0, (), True, State.GOOD),
    ],
)
def test_who_may_connect(user: int, allowed: tuple[int, ...], writable: bool, state: State) -> None:
    seen = replace(SEEN, user=user, allowed=allowed, writable=writable)
    assert only(sockets.connectable, seen).state is state
    assert list(sockets.connectable(replace(seen, file=None))) == []


def test_a_path_that_is_not_known() -> None:
    (found,) = sockets.examine(Setup())
    assert found.state is State.UNVERIFIED


def test_looking_at_a_real_one_is_not_a_connection(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    setup = Setup(socket=path)
    assert [one.state for one in sockets.examine(setup)] == [State.GOOD, State.UNVERIFIED]
    listener = Listener(path)
    try:
        assert [one.state for one in sockets.examine(setup)] == [State.GOOD] * 4
        assert listener.accept({os.geteuid()}) is None, "nobody has connected"
        seen = sockets.look(setup)
        assert seen.file is not None
        assert seen.file.shown == f"user {os.geteuid()}, mode 0600"
    finally:
        listener.close()


def test_one_that_a_dead_sidecar_left(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
        one.bind(path)
        one.listen()
    found = {one.subject: one.state for one in sockets.examine(Setup(socket=path))}
    assert found["listener"] is State.WARNING


def test_the_kernels_table() -> None:
    table = (
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0: 00000002 00000000 00000000 0005 03 11 /run/a b.sock\n"
        "0: 00000002 00000000 00010000 0005 01 12 /run/a b.sock\n"
        "0: 00000002 00000000 00010000 0001 01 13 /run/other\n"
        "0: 00000003 00000000 00000000 0001 03 14\n"
        "0: 00000003 00000000 00000000 0005 03 15 /run/gone\n"
    )
    assert [listening(table, path) for path in ("/run/a b.sock", "/run/other", "/run/oth", "/run/gone")] == [5, 1, 0, 0]
