"""safetensors files, looked at before anything is allocated: the header, and the digest of each tensor.

A file is 8 bytes of header length, a JSON header (name -> dtype, shape, offsets) and the tensors' bytes. The header is
read by us first, because a size in it decides what is allocated later: it must be short, have no duplicate names, and
its offsets must cover the rest of the file without gap or overlap. A tensor's digest is the SHA-256 over
``name|dtype|shape|`` and its bytes, so a resharded copy is shown to be equal and a flipped byte is named.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from saewatch.core import limits
from saewatch.core.errors import TensorFileError
from saewatch.core.manifest import DTYPES

_FOREIGN_DTYPES: Mapping[str, int] = {
    **DTYPES,
    "F64": 8,
    "I64": 8,
    "I16": 2,
    "U16": 2,
    "U64": 8,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
_FOREIGN_HEADER_BYTES = 100 * limits.MIB  # the bound of the safetensors library itself
_HINT = "The file is damaged or cut short; fetch it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor of a file; ``start`` and ``end`` count from the file's first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path, *, foreign: bool = False) -> tuple[Entry, ...]:
    """The tensors of ``path`` by offset, or TensorFileError naming file and tensor.

    Args:
        path: a safetensors file.
        foreign: a file that saewatch did not write: metadata, more element types and a larger header are allowed.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            bound = _FOREIGN_HEADER_BYTES if foreign else limits.TENSOR_HEADER_BYTES
            if size < 8 or length > min(bound, size - 8):
                found = f"a header of {length} bytes in a file of {size}"
                raise TensorFileError(path.name, found=found, expected=f"at most {bound}, inside the file", hint=_HINT)
            header = file.read(length)
    except OSError as error:
        raise TensorFileError(str(path), found=error.strerror or str(error), expected="a readable file") from error
    entries = _entries(path.name, _members(path.name, header), 8 + length, foreign=foreign)
    _check_cover(path.name, entries, 8 + length, size)
    return entries


def tensor_digest(name: str, dtype: str, shape: Iterable[int], data: memoryview | bytes) -> str:
    """``sha256:<hex>`` over ``name|dtype|shape|`` (shape with commas) and the little-endian bytes."""
    state = hashlib.sha256(f"{name}|{dtype}|{','.join(map(str, shape))}|".encode())
    state.update(data)
    return "sha256:" + state.hexdigest()


def digests(path: Path, *, foreign: bool = False) -> Iterator[tuple[str, str]]:
    """(name, digest) of each tensor of a file, read through a memory map."""
    entries = read_header(path, foreign=foreign)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        for entry in entries:
            with memoryview(whole) as view, view[entry.start : entry.end] as data:
                yield entry.name, tensor_digest(entry.name, entry.dtype, entry.shape, data)


def model_digest(files: Iterable[Path]) -> str:
    """The model digest: SHA-256 over the sorted tensor digests of all ``files``, one per line; shards do not matter."""
    found = sorted(digest for path in files for _, digest in digests(path, foreign=True))
    return "sha256:" + hashlib.sha256("\n".join(found).encode()).hexdigest()


def _members(file: str, header: bytes) -> dict[str, object]:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise TensorFileError(file, found="a repeated name in the header", expected="each name once", hint=_HINT)
        return members

    try:
        members = json.loads(header.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise TensorFileError(
            file, found=f"a header that is not JSON ({error})", expected="JSON", hint=_HINT
        ) from error
    if not isinstance(members, dict):
        raise TensorFileError(
            file, found=f"a header of type {type(members).__name__}", expected="an object", hint=_HINT
        )
    return members


def _entries(file: str, members: dict[str, object], base: int, *, foreign: bool) -> tuple[Entry, ...]:
    metadata = members.pop("__metadata__", None)
    if metadata is not None and not foreign:
        raise TensorFileError(file, found="__metadata__", expected="tensors only", hint="Write it again with saewatch.")
    dtypes = _FOREIGN_DTYPES if foreign else DTYPES
    entries = [_entry(file, name, value, base, dtypes) for name, value in members.items()]
    return tuple(sorted(entries, key=lambda entry: (entry.start, entry.end)))


def _entry(file: str, name: str, value: object, base: int, dtypes: Mapping[str, int]) -> Entry:
    subject = f"{file}: {name[:80]}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(subject, found="other members", expected="dtype, shape, data_offsets", hint=_HINT)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise TensorFileError(subject, found=f"elements of type {dtype!r}", expected="one of " + ", ".join(dtypes))
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
        raise TensorFileError(
            subject, found=f"{shape!r:.60}, {offsets!r:.60}", expected="a shape and two offsets", hint=_HINT
        )
    if offsets[1] - offsets[0] != math.prod(shape) * dtypes[dtype]:
        expected = f"{math.prod(shape) * dtypes[dtype]} bytes for {dtype} {shape}"
        raise TensorFileError(subject, found=f"{offsets[1] - offsets[0]} bytes", expected=expected, hint=_HINT)
    return Entry(name=name, dtype=dtype, shape=tuple(shape), start=base + offsets[0], end=base + offsets[1])


def _naturals(values: object) -> bool:
    return isinstance(values, list) and len(values) <= 8 and all(type(v) is int and 0 <= v < 2**48 for v in values)


def _check_cover(file: str, entries: tuple[Entry, ...], start: int, size: int) -> None:
    for entry in entries:
        if entry.start != start:
            raise TensorFileError(
                f"{file}: {entry.name}", found=f"its bytes at {entry.start}", expected=f"at {start}", hint=_HINT
            )
        start = entry.end
    if start != size:
        raise TensorFileError(file, found=f"{size} bytes", expected=f"{start} bytes by its header", hint=_HINT)
