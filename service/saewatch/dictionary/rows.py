"""Rows of activations in numpy's ``.npz``, read and written a part at a time: memory does not grow with the file.

An ``.npz`` is a zip file of ``.npy`` members. What a header declares is compared with the size of its member before
anything is allocated, and no more than a part is ever held, compressed or not. Object arrays, which are pickles, are
refused by their type; nothing is unpickled. What is written is stored uncompressed, with fixed times: the same values
give the same bytes.

Format of a member: `saewatch.dictionary.npy`.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from saewatch.core import limits
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.dictionary.npy import read_header

Array = npt.NDArray[Any]

npy: Any = npy_format  # its functions have no annotations

ROWS = "x"
POSITIONS, TOKEN_IDS = "positions", "token_ids"
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What zipfile raises for bytes that it does not understand."""
_NO_HEADER = (*_DAMAGED, TypeError)
"""And numpy for a type that it does not know."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Consecutive rows: ``x [T, d_in]`` float32, and their positions and token ids ``[T]`` where the file has them."""

    x: Array
    positions: Array | None
    token_ids: Array | None


class RowsFile:
    """The rows ``x [n, d_in]`` float32 of an ``.npz``, with ``positions [n]`` and ``token_ids [n]`` where it has them.

    Raises:
        UnreachableError: the file cannot be read.
        ConfigError: it is no ``.npz``, or an array in it is of another type, shape or size; names file and array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.open("rb").close()
        except OSError as error:
            raise UnreachableError(str(path), found=error.strerror or error, expected="a file of rows") from error
        self._opened = contextlib.ExitStack()  # members too: an archive's file stays open as long as one of them is
        try:
            self._archive = self._opened.enter_context(zipfile.ZipFile(path))
        except _DAMAGED as error:
            raise ConfigError(str(path), found=f"{error!s:.200}", expected="an .npz", hint=_HOW) from error
        try:
            self._x = self._member(ROWS, dimensions=2)
            self.count, self.d_in = self._x.shape
            optional = {name: self._optional(name) for name in (POSITIONS, TOKEN_IDS)}
        except BaseException:  # whatever it is, the file is closed before it goes on
            self._opened.close()
            raise
        self._positions, self._token_ids = optional[POSITIONS], optional[TOKEN_IDS]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._opened.close()

    @property
    def has_positions(self) -> bool:
        """Whether positions are there."""
        return self._positions is not None

    @property
    def has_token_ids(self) -> bool:
        """Whether token ids are there."""
        return self._token_ids is not None

    def parts(self, rows: int) -> Iterator[Part]:
        """All rows in their order, at most ``rows`` at a time. ConfigError naming the row that is not finite."""
        for first in range(0, self.count, rows):
            count = min(rows, self.count - first)
            x = self._x.read(count)
            bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
            if len(bad):
                subject = f"{self.path}: {ROWS}: row {first + int(bad[0])}"
                raise ConfigError(subject, found="NaN or infinity", expected="finite numbers")
            yield Part(x, *(self._ids(name, first, count) for name in (POSITIONS, TOKEN_IDS)))

    def _ids(self, name: str, first: int, count: int) -> Array | None:
        member = self._positions if name == POSITIONS else self._token_ids
        if member is None:
            return None
        found = member.read(count)
        bad = np.flatnonzero(found < 0)
        if len(bad):
            subject = f"{self.path}: {name}: row {first + int(bad[0])}"
            raise ConfigError(subject, found=found[bad[0]], expected="0 or more")
        return found

    def _optional(self, name: str) -> _Member | None:
        if f"{name}.npy" not in self._archive.namelist():
            return None
        member = self._member(name, dimensions=1)
        if member.shape != (self.count,):
            found, expected = list(member.shape), f"[{self.count}], one for each row"
            raise ConfigError(f"{self.path}: {name}", found=found, expected=expected)
        return member

    def _member(self, name: str, *, dimensions: int) -> _Member:
        subject = f"{self.path}: {name}"
        held = [info for info in self._archive.infolist() if info.filename == f"{name}.npy"]
        if len(held) != 1:
            there = ", ".join(sorted({info.filename for info in self._archive.infolist()})[:8]) or "nothing"
            found = f"{len(held)} arrays of that name beside {there}" if held else there
            raise ConfigError(subject, found=f"{found:.200}", expected=f"the array {name}", hint=_HOW)
        return _Member(self._opened, self._archive, held[0], subject, dimensions=dimensions)


class _Member:
    """One array of the file, read from its beginning to its end."""

    def __init__(
        self,
        opened: contextlib.ExitStack,
        archive: zipfile.ZipFile,
        info: zipfile.ZipInfo,
        subject: str,
        *,
        dimensions: int,
    ) -> None:
        self._subject = subject
        try:
            self._file: IO[bytes] = opened.enter_context(archive.open(info))
            header = read_header(self._file)
            self.shape, self._dtype = header.shape, header.dtype
        except _NO_HEADER as error:
            raise ConfigError(subject, found=f"{error!s:.200}", expected="an array in .npy form", hint=_HOW) from error
        wanted = "float32" if dimensions == 2 else "integers"
        good = self._dtype == np.dtype("<f4") if dimensions == 2 else self._dtype.kind in "iu"
        if not good:
            hint = f"Convert it: {'x.astype(numpy.float32)' if dimensions == 2 else 'numpy.asarray(…, numpy.int64)'}."
            raise ConfigError(subject, found=f"elements of type {self._dtype}", expected=wanted, hint=hint)
        width = self.shape[1] if len(self.shape) == 2 else 1
        if len(self.shape) != dimensions or header.by_columns or not 0 < width <= limits.D_IN:
            found = f"{list(self.shape)}{' in Fortran order' if header.by_columns else ''}"
            expected = f"[n, d_in] in C order, d_in at most {limits.D_IN}" if dimensions == 2 else "[n]"
            raise ConfigError(subject, found=found, expected=expected)
        self._row_bytes = width * self._dtype.itemsize
        there, stated = info.file_size - header.size, self.shape[0] * self._row_bytes
        if there != stated:
            found, expected = f"{there} bytes", f"{stated} by its header"
            raise ConfigError(subject, found=found, expected=expected, hint="The file is damaged or cut short.")

    def read(self, rows: int) -> Array:
        """The next rows."""
        data = bytearray()
        try:
            while len(data) < rows * self._row_bytes:
                more = self._file.read(rows * self._row_bytes - len(data))
                if not more:
                    raise EOFError("it ends early")
                data += more
        except _DAMAGED as error:
            hint = "The file is damaged or cut short."
            raise ConfigError(self._subject, found=f"{error!s:.200}", expected="its bytes", hint=hint) from error
        return np.frombuffer(data, self._dtype).reshape(rows, *self.shape[1:])


class ArraysFile:
    """Writes an ``.npz`` array by array, each in parts, into ``path``. What it spools lies beside it meanwhile."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._archive.close()

    @contextlib.contextmanager
    def array(self, name: str, dtype: str, shape: tuple[int, ...]) -> Iterator[Callable[[Array], None]]:
        """Writes an array of a shape that is known: gives what takes its parts in their order."""
        with self._archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as file:
            npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
            yield lambda part: _write(file, part, dtype)

    @contextlib.contextmanager
    def spooled(self, **dtypes: str) -> Iterator[Callable[..., None]]:
        """Writes arrays ``[m]`` of types that are known, and m not before the end: gives what takes a part of each."""
        with contextlib.ExitStack() as stack:
            files: dict[str, IO[bytes]] = {
                name: stack.enter_context(tempfile.TemporaryFile(dir=self._folder)) for name in dtypes
            }

            def append(**columns: Array) -> None:
                for name, column in columns.items():
                    _write(files[name], column, dtypes[name])

            yield append
            for name, dtype in dtypes.items():
                self._copy(name, dtype, files[name])

    def _copy(self, name: str, dtype: str, file: IO[bytes]) -> None:
        count = file.tell() // np.dtype(dtype).itemsize
        file.seek(0)
        with self.array(name, dtype, (count,)) as write:
            while data := file.read(limits.MIB):
                write(np.frombuffer(data, dtype))


_HOW = "Write it with numpy.savez(path, x=rows), rows float32."


def _write(file: IO[bytes], part: Array, dtype: str) -> None:
    file.write(np.ascontiguousarray(part, dtype=dtype).data.cast("B") if part.size else b"")
