"""The socket's file: made safely, removed again, and never another's."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from saewatch.core.errors import AccessError, ConfigError
from saewatch.edge.listener import Listener, peer_uid


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s.sock")


@pytest.fixture
def listener(path: str) -> Iterator[Listener]:
    one = Listener(path)
    yield one
    one.close()


def dial(path: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.connect(path)
    return one


def leave_a_dead_one(path: str, kind: int = socket.SOCK_SEQPACKET) -> None:
    with socket.socket(socket.AF_UNIX, kind) as one:
        one.bind(path)
        one.listen()


def test_only_its_user_may_connect(listener: Listener, path: str) -> None:
    found = os.lstat(path)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_others_may_connect_where_they_are_allowed(path: str) -> None:
    one = Listener(path, mode=0o666)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o666
    one.close()


def test_the_file_goes_with_it(path: str) -> None:
    Listener(path).close()
    assert not Path(path).exists()


def test_another_ones_file_stays(path: str) -> None:
    one = Listener(path)
    Path(path).unlink()
    other = Listener(path)
    one.close()
    assert Path(path).exists()
    other.close()
    assert not Path(path).exists()


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
def test_a_dead_ones_file_is_removed(path: str, kind: int) -> None:
    leave_a_dead_one(path, kind)
    Listener(path).close()


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
def test_one_on_which_somebody_listens_is_left_alone(path: str, kind: int) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(ConfigError, match="somebody listens"):
            Listener(path)
        assert Path(path).exists()


def test_a_file_that_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("mine")
    with pytest.raises(ConfigError, match="no socket"):
        Listener(path)
    assert Path(path).read_text() == "mine"


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="0777"):
        Listener(str(folder / "s.sock"))
    folder.chmod(0o1777)
    Listener(str(folder / "s.sock")).close()


def test_a_missing_folder_is_made_for_us_alone(tmp_path: Path) -> None:
    one = Listener(str(tmp_path / "new" / "s.sock"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    one.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Listener(str(tmp_path / "a" / "b" / "s.sock"))


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        Listener(str(tmp_path / ("x" * 108)))


def test_accepting(listener: Listener, path: str) -> None:
    assert listener.accept({os.geteuid()}) is None
    with dial(path):
        accepted = listener.accept({os.geteuid()})
        assert accepted is not None
        assert peer_uid(accepted) == os.geteuid()
        accepted.close()


def test_another_users_process_is_turned_away(listener: Listener, path: str) -> None:
    with dial(path) as one:
        with pytest.raises(AccessError, match=f"user {os.geteuid()}"):
            listener.accept({os.geteuid() + 1})
        assert one.recv(1) == b""


def test_a_peer_that_cannot_be_asked_who_it_is_is_closed(
    listener: Listener, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: socket.socket) -> int:
        raise OSError("gone")

    monkeypatch.setattr("saewatch.edge.listener.peer_uid", gone)
    with dial(path) as one:
        with pytest.raises(OSError, match="gone"):
            listener.accept({os.geteuid()})
        assert one.recv(1) == b""
