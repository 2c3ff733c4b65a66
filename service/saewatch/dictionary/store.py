"""The store of bundles: files named by the SHA-256 of their bytes, so that nothing is ever stored or changed twice.

    store.json          which form this is
    bundles/ab/cd…      bundle.json of each bundle: the list of what there is
    sheets/ab/cd…       data sheets, catalogues, attestations: kilobytes, never removed
    tensors/ab/cd…      one tensor each
    refs/, journal/, pins/   see `saewatch.dictionary.registry`
    served/             folders of bundles that were brought to engines (`saewatch.dictionary.serving`)
    signatures/         who signed a sheet (`saewatch.dictionary.signatures`)
    trusted/            public keys, where a bundle has to be signed before engines run it
    tmp/                what is being written

A tensor's file is ``name|dtype|shape|`` and its bytes: exactly what its digest in the data sheet is over. A relabelled
bundle shares all tensors with the one before it, and one with other thresholds all but those. A bundle is in the store
from the moment when its own sheet is, which is written last; what a crash left before that is refuse, not damage.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from saewatch.core import canonical, limits
from saewatch.core import manifest as sheets
from saewatch.core.errors import ConfigError, ManifestError, TensorFileError, UnreachableError
from saewatch.core.fields import Fields
from saewatch.core.manifest import BundleSheet, TensorSheet
from saewatch.core.served import SERVED
from saewatch.core.tensorfile import Entry, read_header
from saewatch.dictionary import signatures
from saewatch.dictionary.contents import Contents, read_contents, read_folder
from saewatch.dictionary.disk import Disk, held, read
from saewatch.dictionary.folder import place, whole

SCHEMA = "saewatch.store/1"
MARKER = "store.json"
BUNDLES, SHEETS, TENSORS = KINDS = ("bundles", "sheets", "tensors")
REFS, JOURNAL, PINS, TMP = "refs", "journal", "pins", "tmp"
FOLDERS = (*KINDS, REFS, JOURNAL, PINS, TMP)
LATER = (SERVED, signatures.FOLDER, signatures.TRUSTED)
"""Folders that a store has once something is in them."""
LOCK, SWEEP, APPLY = "lock", "sweep.lock", "apply.lock"
"""``lock``: held to move refs. ``sweep.lock``: shared by who relies on what is stored, held alone to remove.
``apply.lock``: held to bring a bundle to engines."""
_ORDER = ("F32", "U32", "I32", "BF16", "F16")
"""safetensors writes wider types first; with this order a folder gets the bytes that it was added with."""


class Store:
    """A store in the folder ``root``, for its owner alone.

    Raises:
        UnreachableError: there is none.
        ConfigError: the folder holds something else, or a store of another version.
    """

    def __init__(self, root: Path, *, disk: Disk | None = None, create: bool = False) -> None:
        self.root, self.disk = root, disk or Disk()
        if create and not (root / MARKER).is_file():
            self._create()
        self._check()

    def path(self, kind: str, digest: str) -> Path:
        """Where a file of that digest lies."""
        name = digest.removeprefix("sha256:")
        return self.root / kind / name[:2] / name[2:]

    def has(self, kind: str, digest: str) -> bool:
        """Whether it is there."""
        return self.path(kind, digest).is_file()

    def digests(self, kind: str) -> list[str]:
        """All that are there of a kind, ascending. What is named otherwise is left to `verify`."""
        found = (f"sha256:{path.parent.name}{path.name}" for path in (self.root / kind).glob("??/*"))
        return sorted(digest for digest in found if canonical.is_digest(digest))

    # --- bundles -----------------------------------------------------------------------------------------------------
    def contents(self, digest: str) -> Contents:
        """What a stored bundle says. ManifestError or UnreachableError naming the sheet that is damaged or missing."""
        path = self.path(BUNDLES, digest)
        data = read(path, limits.MANIFEST_BYTES)
        if canonical.digest(data) != digest:
            raise ManifestError(str(path), found=canonical.digest(data), expected=digest, hint=DAMAGED)
        where = f"bundle {digest[:19]}: "
        return read_contents(data, lambda _, named: read(self.path(SHEETS, named), limits.MANIFEST_BYTES), where=where)

    def missing(self, contents: Contents) -> list[TensorSheet]:
        """Tensors of a bundle that are not there: it can be read, but not loaded."""
        return [sheet for digest, sheet in contents.tensors().items() if not self.has(TENSORS, digest)]

    def add(self, folder: Path) -> Contents:
        """Takes a bundle's folder into the store; one that is there already is as good.

        Raises:
            DictionaryError: a sheet or tensor is malformed, missing, or not the one that the bundle names.
        """
        contents = read_folder(folder)
        signatures.check_none_bad(
            contents, signatures.signed(folder, signatures.sheets_of(contents), signatures.trusted_of(self.root))
        )
        with held(self.root / SWEEP, shared=True):
            if self.missing(contents):  # then the engine's own reader judges what is new
                whole(folder)
            for name, tensors in contents.files().items():
                self._add_tensors(folder / name, tensors)
            for data in contents.sheets.values():
                self._put(SHEETS, canonical.digest(data), [data])
            self._put(BUNDLES, contents.digest, [contents.sheet.data()])
            for name, data in signatures.files(folder, signatures.sheets_of(contents)):
                self.add_signature(name, data)
        return contents

    def add_signature(self, name: str, data: bytes) -> bool:
        """Takes an envelope into the store, by its name below it; False where it is there."""
        partial = self.root / TMP / f"{Path(name).name}.{os.getpid()}"
        return signatures.put(self.root, name, data, disk=self.disk, partial=partial)

    def export(self, digest: str, out: Path) -> BundleSheet:
        """Makes the folder ``out`` of a stored bundle, which an engine loads: the bytes that were added.

        Raises:
            ConfigError: ``out`` is there and holds something else.
            TensorFileError: a tensor was collected, or is damaged.
        """
        with held(self.root / SWEEP, shared=True):
            contents = self.contents(digest)
            for sheet in self.missing(contents):
                raise TensorFileError(
                    f"bundle {digest[:19]}", found=f"no {sheet.sha256}", expected="it", hint=COLLECTED
                )
            files: dict[str, Iterable[bytes]] = {
                sheets.BUNDLE_FILE: [contents.sheet.data()],
                **{name: [data] for name, data in contents.sheets.items()},
                **{name: self._tensor_file(tensors) for name, tensors in contents.files().items()},
                **{name: [data] for name, data in signatures.files(self.root, signatures.sheets_of(contents))},
            }
            place(out, contents.sheet, files)
        return contents.sheet

    # --- files -------------------------------------------------------------------------------------------------------
    def _add_tensors(self, path: Path, tensors: Mapping[str, TensorSheet]) -> None:
        entries: dict[str, Entry] = {}
        for name, sheet in tensors.items():
            if self.has(TENSORS, sheet.sha256):
                self.disk.touch(self.path(TENSORS, sheet.sha256))
                continue
            entries = entries or {entry.name: entry for entry in read_header(path)}
            entry = entries.get(name)
            if entry is None or (entry.dtype, entry.shape) != (sheet.dtype, sheet.shape):
                found = f"{entry.dtype} {list(entry.shape)}" if entry else "nothing"
                expected = f"{sheet.dtype} {list(sheet.shape)}, as the sheet says"
                raise TensorFileError(f"{path}: {name}", found=found, expected=expected)
            chunks = itertools.chain([_prefix(name, sheet)], _bytes(path, entry.start, entry.end))
            self._put(TENSORS, sheet.sha256, chunks)

    def _put(self, kind: str, digest: str, chunks: Iterable[bytes]) -> None:
        """Stores a file under its digest. TensorFileError when its bytes have another one."""
        path = self.path(kind, digest)
        if path.is_file():
            return
        state = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for chunk in chunks:
                state.update(chunk)
                yield chunk

        self.disk.folder(path.parent)
        partial = self.root / TMP / f"{path.parent.name}{path.name}.{os.getpid()}"
        self.disk.remove(partial)
        self.disk.create(partial, hashed())
        if f"sha256:{state.hexdigest()}" != digest:
            self.disk.remove(partial)
            raise TensorFileError(digest, found=f"sha256:{state.hexdigest()}", expected=digest, hint=DAMAGED)
        self.disk.rename(partial, path)

    def _tensor_file(self, tensors: Mapping[str, TensorSheet]) -> Iterator[bytes]:
        """A safetensors file: header, then the tensors' bytes, each compared with its digest on the way."""
        ordered = sorted(tensors.items(), key=lambda one: (_ORDER.index(one[1].dtype), one[0]))
        header, at = {}, 0
        for name, sheet in ordered:
            offsets = [at, at + sheet.size]
            header[name] = {"dtype": sheet.dtype, "shape": list(sheet.shape), "data_offsets": offsets}
            at += sheet.size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        yield len(text).to_bytes(8, "little") + text
        for name, sheet in ordered:
            path, prefix = self.path(TENSORS, sheet.sha256), _prefix(name, sheet)
            state = hashlib.sha256(prefix)
            for chunk in _bytes(path, len(prefix), len(prefix) + sheet.size):
                state.update(chunk)
                yield chunk
            if f"sha256:{state.hexdigest()}" != sheet.sha256:
                found = f"sha256:{state.hexdigest()}"
                raise TensorFileError(str(path), found=found, expected=sheet.sha256, hint=DAMAGED)

    def _create(self) -> None:
        there = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        if there - {*FOLDERS, *LATER, LOCK, SWEEP, APPLY}:
            hint = "Name another folder for the store, or the one that has store.json in it."
            expected = "a store, or an empty folder"
            raise ConfigError(str(self.root), found="a folder of something else", expected=expected, hint=hint)
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for name in ("", *FOLDERS):
                self.disk.folder(self.root / name)
            data = canonical.dump({"schema": SCHEMA})
            partial = self.root / TMP / f"{MARKER}.{os.getpid()}"
            self.disk.remove(partial)
            self.disk.create(partial, [data])
            self.disk.rename(partial, self.root / MARKER)
        except OSError as error:
            found, expected = error.strerror or str(error), "a folder that can be written"
            raise UnreachableError(str(self.root), found=found, expected=expected) from error

    def _check(self) -> None:
        try:
            data = read(self.root / MARKER, limits.KIB)
        except UnreachableError as error:
            hint = "`saewatch dictionary add` makes one."
            raise UnreachableError(str(self.root), found="no store", expected="one", hint=hint) from error
        sheet = Fields(canonical.parse(data, subject=str(self.root / MARKER)), f"{self.root / MARKER}: ")
        sheet.choice("schema", (SCHEMA,))
        sheet.close()
        for name in FOLDERS:
            path = self.root / name
            if path.is_symlink() or not path.is_dir():
                raise ConfigError(str(path), found="no folder of the store's own", expected="a folder")


DAMAGED = "Its bytes changed. Remove that file, and add the bundle again from a good copy."
COLLECTED = "Its tensors were collected. Add the bundle again from a copy."


def _prefix(name: str, sheet: TensorSheet) -> bytes:
    """What stands before a tensor's bytes in what its digest is over (`saewatch.core.tensorfile.tensor_digest`)."""
    return f"{name}|{sheet.dtype}|{','.join(map(str, sheet.shape))}|".encode()


def _bytes(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (chunk := file.read(min(limits.MIB, end - start))):
            start += len(chunk)
            yield chunk
