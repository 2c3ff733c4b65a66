"""A bundle's folder: a reader sees the whole of it or none.

Everything is written into a folder beside the goal, flushed to the disk, read back and renamed. Two that write to one
goal at a time would mix their files in that folder: the second one is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from saewatch.core import manifest as sheets
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.manifest import BundleSheet
from saewatch.dictionary import signatures

if TYPE_CHECKING:
    from saewatch.engine.dictionary_file import Bundle

_NAMES = frozenset(
    {
        sheets.ATTESTATIONS,
        sheets.BUNDLE_FILE,
        sheets.CATALOGUE_FILE,
        sheets.CONFORMANCE_FILE,
        sheets.DECODER_FILE,
        sheets.ENCODER_FILE,
        sheets.MANIFEST_FILE,
        signatures.FOLDER,
    }
)
"""What a bundle's folder has in it."""


def whole(folder: Path) -> Bundle:
    """The bundle in ``folder`` with all its tensors, every digest checked: as an engine reads it, errors included."""
    from saewatch.engine.dictionary_file import load_bundle

    return load_bundle(folder, decoder=True)


def place(out: Path, sheet: BundleSheet, files: Mapping[str, Iterable[bytes]], *, replace: bool = False) -> None:
    """Writes a bundle's files, each in chunks, and reads them back.

    Args:
        out: the folder to make.
        sheet: the bundle's own.
        files: by name.
        replace: put it in the place of another bundle. Without it an existing folder is refused, unless it holds
            this very bundle.

    Raises:
        ConfigError: ``out`` is there and holds something else; with ``replace``, something that is no bundle's.
        ManifestError, TensorFileError: the files contradict each other.
    """
    if out.exists() and not replace:
        _refuse_other(out, sheet)
        return
    check_replaceable(out)
    with _alone(out) as partial:
        for name, chunks in files.items():
            _write(partial / name, chunks)
        whole(partial)
        if out.exists() and not replace:  # somebody else's, finished since it was looked at
            _refuse_other(out, sheet)
            return
        _put(partial, out)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[Path]:
    """A new folder beside ``out``, while nobody else makes one. ConfigError where somebody does."""
    partial, lock = (out.parent / f".{out.name}.{end}" for end in ("partial", "lock"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnreachableError(str(out), found=error.strerror, expected="a folder that can be made") from error
    try:
        if not _locked(opened, lock):
            hint = "Wait for it, or choose another folder."
            raise ConfigError(str(out), found="another command that writes it", expected="one at a time", hint=hint)
        shutil.rmtree(partial, ignore_errors=True)  # what an interrupted write left
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            lock.unlink(missing_ok=True)
    finally:
        os.close(opened)


def _locked(opened: int, path: Path) -> bool:
    """Whether the lock on an opened file is ours now, and the file has not just been removed by its last holder."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when its holder dies
        return os.path.samestat(path.stat(), os.fstat(opened))
    except (BlockingIOError, FileNotFoundError):
        return False


def _refuse_other(out: Path, sheet: BundleSheet) -> None:
    path = out / sheets.BUNDLE_FILE
    if not path.is_file() or path.read_bytes() != sheet.data():
        hint = "Choose another folder, or say --replace where the command has it."
        raise ConfigError(str(out), found="a folder with other contents", expected="no such folder", hint=hint)


def check_new(out: Path | None) -> None:
    """ConfigError where something stands in the place of a bundle that long work is to end in."""
    if out is not None and out.exists():
        hint = "Choose another folder."
        raise ConfigError(str(out), found="a folder that is there", expected="no such folder", hint=hint)


def check_replaceable(out: Path) -> None:
    """ConfigError where something that is no bundle's would be lost with ``out``; it may be missing or broken."""
    if not out.is_dir():
        other = [out.name] if out.exists() else []
    else:
        other = sorted(one.name for one in out.iterdir() if one.name not in _NAMES)
    if other:
        hint = "It would be lost: choose another folder."
        raise ConfigError(str(out), found=f"{other[0]!r:.80}, which is no bundle's", expected="a bundle", hint=hint)


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())


def _put(partial: Path, out: Path) -> None:
    """Renames ``partial`` to ``out``; what was there is moved aside first, then removed."""
    before = out.parent / f".{out.name}.before"
    shutil.rmtree(before, ignore_errors=True)
    if out.exists():
        out.rename(before)
    partial.rename(out)
    shutil.rmtree(before, ignore_errors=True)
    parent = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
