"""Archives of strangers: what they say is checked before anything is allocated."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saewatch.core import limits
from saewatch.core.errors import TensorFileError
from saewatch.dictionary.formats.archive import arrays, forms, members
from saewatch.dictionary.formats.forms import Form

W = np.arange(12, dtype=np.float32).reshape(3, 4)


def array(value: Any, **changes: bytes) -> bytes:
    """The bytes of an array's file, with some text in it replaced."""
    out = io.BytesIO()
    np.save(out, value)
    data = out.getvalue()
    for old, new in changes.items():
        data = data.replace(old.encode(), new)
    return data


def archive(path: Path, files: Mapping[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_as_numpy_writes_them(tmp_path: Path, save: Any) -> None:
    written = {"W_enc": W, "by_columns": np.asfortranarray(W), "b": W[0].astype(np.float16), "n": np.array(7)}
    save(tmp_path / "x.npz", **written)
    expected = {"W_enc": ("F32", (3, 4)), "by_columns": ("F32", (3, 4)), "b": ("F16", (4,)), "n": ("I64", ())}
    assert forms(tmp_path / "x.npz") == {name: Form(*form) for name, form in expected.items()}
    found = arrays(tmp_path / "x.npz")
    assert all(torch.equal(found[name], torch.from_numpy(np.array(value))) for name, value in written.items())


def test_an_array_of_objects_is_a_pickle_and_is_not_read(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    np.savez(tmp_path / "x.npz", W_enc=np.array([Hostile()], dtype=object))
    with pytest.raises(TensorFileError, match=r"x.npz: W_enc.npy: found the header .*'\|O'.* only <f4"):
        forms(tmp_path / "x.npz")
    assert not (tmp_path / "ran").exists()


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "a larger shape": ({"W.npy": array(W).replace(b"(3, 4)", b"(9, 4)")}, "W.npy: found 176 bytes for <f4"),
    "a huge shape": ({"W.npy": array(W).replace(b"(3, 4), }    ", b"(99999999, 4),}")[:176]}, "W.npy: found 176 bytes"),
    "a smaller shape": ({"W.npy": array(W).replace(b"(3, 4)", b"(3, 1)")}, "which are 140"),
    "three dimensions": ({"W.npy": array(W.reshape(1, 3, 4))}, "W.npy: found"),
    "another type": ({"W.npy": array(W.astype(np.complex64))}, "found the header"),
    "the other byte order": ({"W.npy": array(W.astype(">f4"))}, "found the header"),
    "fields": ({"W.npy": array(np.zeros(2, dtype=[("a", "f4")]))}, "found the header"),
    "code for a header": ({"W.npy": array(W).replace(b"(3, 4)", b"a(3,4")}, "found the header"),
    "a header beyond the end": ({"W.npy": b"\x93NUMPY\2\0\xff\xff\xff\x7f{}"}, "has 2147483647 bytes"),
    "no array": ({"W.npy": b"hello"}, "found a header that begins b'hello'"),
    "nothing": ({"W.npy": b""}, "found a header that begins b''"),
    "another kind of file": ({"W.txt": b"x"}, "W.txt: found a member of this name"),
    "a way out": ({"../W.npy": array(W)}, "../W.npy: found a member of this name"),
    "an absolute way": ({"/etc/W.npy": array(W)}, "found a member of this name"),
    "too many": ({f"W{at}.npy": array(W) for at in range(65)}, "found 65 members"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_member_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    files, message = BAD[case]
    with pytest.raises(TensorFileError) as refused:
        forms(archive(tmp_path / "x.npz", files))
    assert str(refused.value).startswith("x.npz")
    assert message in str(refused.value)


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", {"W.npy": array(W), "V.npy": array(W)})
    path.write_bytes(path.read_bytes().replace(b"V.npy", b"W.npy"))
    with pytest.raises(TensorFileError, match="found a member twice"):
        members(path)


def test_a_flipped_byte_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", {"W.npy": array(W)})
    data = bytearray(path.read_bytes())
    data[data.index(W.tobytes()) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match=r"W.npy: found Bad CRC-32"):
        arrays(path)


@pytest.mark.parametrize("kept", [0, 10, 100, 200, -1])
def test_a_download_that_was_cut_short(tmp_path: Path, kept: int) -> None:
    path = archive(tmp_path / "x.npz", {"W.npy": array(W)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TensorFileError, match="found no directory at its end"):
        forms(path)


def test_a_directory_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", {"W.npy": array(W)})
    data = path.read_bytes()
    end = struct.unpack("<4s4H2IH", data[-22:])
    path.write_bytes(data[:-22] + struct.pack("<4s4H2IH", *end[:5], 2**31, *end[6:]))
    with pytest.raises(TensorFileError, match="2147483648 bytes of directory"):
        members(path)
    far = struct.pack("<4sIQI", b"PK\6\7", 0, 2**40, 1)
    path.write_bytes(data[:-22] + far + data[-22:])
    with pytest.raises(TensorFileError, match="a directory in another place"):
        members(path)
    many = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 10**6, 10**6, 10**9, 0)
    near = struct.pack("<4sIQI", b"PK\6\7", 0, len(data) - 22, 1)
    path.write_bytes(data[:-22] + many + near + data[-22:])
    with pytest.raises(TensorFileError, match="found 1000000 members"):
        members(path)


def test_an_archive_beyond_4_gib_has_its_directory_described_elsewhere(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", {"W.npy": array(W)})
    data = path.read_bytes()
    _, _, _, _, count, extent, at, _ = struct.unpack("<4s4H2IH", data[-22:])
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, extent, at)
    near = struct.pack("<4sIQI", b"PK\6\7", 0, len(data) - 22, 1)
    path.write_bytes(data[:-22] + end + near + data[-22:])
    assert forms(path) == {"W": Form("F32", (3, 4))}


def test_a_bomb_is_refused_by_its_directory(tmp_path: Path) -> None:
    zeros = array(np.zeros((256, 16384), dtype=np.float32))
    path = archive(tmp_path / "x.npz", {"W.npy": zeros}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(TensorFileError, match=r"found 16777344 bytes when unpacked, expected at most \d+ from a file"):
        forms(path)


def test_a_bomb_that_lies_about_its_size_unpacks_no_more_than_it_says(tmp_path: Path) -> None:
    zeros = array(np.zeros((1024, 16384), dtype=np.float32))
    path = archive(tmp_path / "x.npz", {"W.npy": zeros}, zipfile.ZIP_DEFLATED)
    said = struct.pack("<I", 128 + 48)
    data = path.read_bytes().replace(struct.pack("<I", len(zeros)), said)
    path.write_bytes(data)
    code = f"""
import resource, sys
from pathlib import Path
from saewatch.core.errors import TensorFileError
from saewatch.dictionary.formats import archive
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    archive.arrays(Path({str(path)!r}))
except TensorFileError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    message, grown = done.stdout.strip().rsplit("\n", 1)
    assert "W.npy" in message
    assert int(grown) < 24, "MiB: the array would have 64"


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", {"W.npy": array(W)})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match="encrypted"):
        forms(path)


def test_the_bounds_leave_room_for_published_dictionaries() -> None:
    largest = 2 * 4608 * 2**17 * 4  # Gemma Scope, 27B, 131,072 latents
    assert largest < limits.TENSOR_FILE_BYTES
