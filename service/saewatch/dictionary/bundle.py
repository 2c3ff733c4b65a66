"""Writing a bundle: the same inputs give the same bytes, and a reader sees the whole folder or none of it.

Everything is written into a folder beside the goal, flushed to the disk, and renamed. Two that write to one goal at a
time would mix their files in that folder: the second one is refused. Times, paths and names of machines are in no file.
Reading is `saewatch.engine.dictionary_file`, the code that an engine reads with.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from saewatch.core import manifest as sheets
from saewatch.core.attestation import Attestation, read_conformance
from saewatch.core.catalogue import Catalogue
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.manifest import BundleSheet, Manifest, attestation_path
from saewatch.dictionary import signatures
from saewatch.dictionary.contents import read_folder
from saewatch.engine.dictionary_file import Bundle, load_bundle, load_tensors

__all__ = ["Bundle", "Parts", "check_new", "check_replaceable", "load_bundle", "place", "read_parts", "write_bundle"]

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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Parts:
    """What a bundle is made of. ``rows`` are the conformance rows, where there are any."""

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    catalogue: Catalogue
    attestations: Sequence[Attestation] = ()
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    signatures: Mapping[str, bytes] = field(default_factory=dict)
    """Envelopes by their name in the folder: those of attestations that are no longer there are not written."""

    def sheet(self) -> BundleSheet:
        """The bundle's own sheet."""
        named = sorted((one.kind, one.digest) for one in self.attestations)
        return BundleSheet(weights=self.manifest.digest, catalogue=self.catalogue.digest, attestations=tuple(named))


def read_parts(folder: Path) -> Parts:
    """What the bundle in ``folder`` is made of, every digest checked, so that another one can be made of it.

    Raises `ManifestError` and `TensorFileError` as `load_bundle` does.
    """
    bundle = load_bundle(folder, decoder=True)
    held, attested = bundle.dictionary, bundle.attestation("conformance")
    columns = {name: torch.from_numpy(getattr(held.limits, name)) for name in ("lim", "s", "c")}
    if held.limits_thresholded is not None:
        columns["lim_thresholded"] = torch.from_numpy(held.limits_thresholded.lim)
    decoder = {name: tensor for name, tensor in (("W_dec", held.W_dec), ("b_dec", held.b_dec)) if tensor is not None}
    heads = {name: tensor for one in held.heads for name, tensor in one.tensors.items()}
    heads |= {name: tensor for one in held.pooled for name, tensor in one.tensors.items()}
    expected = read_conformance(attested).tensors if attested else {}
    return Parts(
        manifest=bundle.manifest,
        tensors={"W": held.W, **columns, **decoder, **heads},
        catalogue=bundle.catalogue,
        attestations=bundle.attestations,
        rows=load_tensors(folder / sheets.CONFORMANCE_FILE, expected) if expected else {},
        signatures=dict(signatures.files(folder, signatures.sheets_of(read_folder(folder)))),
    )


def write_bundle(parts: Parts, out: Path, *, replace: bool = False) -> BundleSheet:
    """Writes a bundle's folder and reads it back.

    Args:
        parts: the contents.
        out: the folder to make.
        replace: put it in the place of another bundle. Without it an existing folder is refused, unless it holds
            this very bundle.

    Raises:
        ConfigError: ``out`` is there and holds something else; with ``replace``, something that is no bundle's.
        ManifestError, TensorFileError: the contents contradict each other.
    """
    sheet = parts.sheet()
    files = {name: [data] for name, data in _files(parts, sheet).items()}
    place(out, sheet, files, replace=replace)
    return sheet


def place(out: Path, sheet: BundleSheet, files: Mapping[str, Iterable[bytes]], *, replace: bool = False) -> None:
    """Writes a bundle's files, each in chunks, and reads them back. Arguments and errors as `write_bundle` has."""
    if out.exists() and not replace:
        _refuse_other(out, sheet)
        return
    check_replaceable(out)
    with _alone(out) as partial:
        for name, chunks in files.items():
            _write(partial / name, chunks)
        load_bundle(partial, decoder=True)
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


def _files(parts: Parts, sheet: BundleSheet) -> dict[str, bytes]:
    decoding = {name: tensor for name, tensor in parts.tensors.items() if name in sheets.DECODER_TENSORS}
    encoding = {name: tensor for name, tensor in parts.tensors.items() if name not in decoding}
    files = {
        sheets.BUNDLE_FILE: sheet.data(),
        sheets.MANIFEST_FILE: parts.manifest.data(),
        sheets.CATALOGUE_FILE: parts.catalogue.data(),
        sheets.ENCODER_FILE: save(encoding),
    }
    if decoding:
        files[sheets.DECODER_FILE] = save(decoding)
    if parts.rows:
        files[sheets.CONFORMANCE_FILE] = save(dict(parts.rows))
    for one in parts.attestations:
        files[attestation_path(one.kind, one.digest)] = one.data()
    there = {digest.removeprefix("sha256:") for digest in (sheet.digest, *(one.digest for one in parts.attestations))}
    files |= {name: data for name, data in parts.signatures.items() if Path(name).name.partition(".")[0] in there}
    return files


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
