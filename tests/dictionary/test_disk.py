"""Steps on the disk: flushed before they count, and never through a link."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.dictionary.disk import Disk, held, read


def test_what_is_written_is_flushed_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files before they are renamed, folders after their entries changed."""
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(Path(f"/proc/self/fd/{file}").readlink().name))
    disk = Disk()
    disk.folder(tmp_path / "a")
    disk.create(tmp_path / "a" / "new", [b"1", b"2"])
    disk.rename(tmp_path / "a" / "new", tmp_path / "a" / "file")
    disk.append(tmp_path / "a" / "lines", b"3\n")
    disk.append(tmp_path / "a" / "lines", b"4")
    disk.cut(tmp_path / "a" / "lines", 2)
    assert flushed == [tmp_path.name, "new", "a", "lines", "a", "lines", "a", "lines"]
    assert (tmp_path / "a" / "file").read_bytes() == b"12"
    assert (tmp_path / "a" / "lines").read_bytes() == b"3\n"
    assert (tmp_path / "a" / "file").stat().st_mode & 0o222 == 0
    disk.folder(tmp_path / "a")
    disk.remove(tmp_path / "a" / "file")
    disk.remove(tmp_path / "a" / "file")
    assert not (tmp_path / "a" / "file").exists()


def test_nothing_goes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    disk, refused = Disk(), r"File exists|symbolic links"
    with pytest.raises(OSError, match=refused):
        disk.create(tmp_path / "link", [b"x"])
    with pytest.raises(OSError, match=refused):
        disk.append(tmp_path / "link", b"x")
    with pytest.raises(OSError, match=refused):
        disk.cut(tmp_path / "link", 0)
    with pytest.raises(ConfigError, match="a symbolic link"):
        read(tmp_path / "link", 10)
    with pytest.raises(UnreachableError), held(tmp_path / "link"):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_reading_has_a_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read(tmp_path / "file", 5) == b"12345"
    with pytest.raises(ConfigError, match="found a longer file, expected at most 4 bytes"):
        read(tmp_path / "file", 4)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UnreachableError):
            read(path, 4)


def test_a_lock_is_held_by_one_until_its_holder_dies(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begin, ready, order = context.Event(), context.Event(), context.SimpleQueue()

    def hold() -> None:
        begin.wait()
        with held(tmp_path / "lock"):
            ready.set()
            order.put("held")
            os._exit(1)  # without letting go

    worker = context.Process(target=hold, daemon=True)
    worker.start()  # before the lock is taken: a child has what its parent holds
    with held(tmp_path / "lock", shared=True), held(tmp_path / "lock", shared=True):
        begin.set()
        assert not ready.wait(0.3)
        order.put("let go")
    worker.join()
    assert [order.get(), order.get()] == ["let go", "held"]
    with held(tmp_path / "lock"):
        pass
