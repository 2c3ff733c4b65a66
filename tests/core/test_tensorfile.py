"""safetensors files: what the header says is checked before anything is allocated."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save, save_file

from saewatch.core import tensorfile
from saewatch.core.errors import TensorFileError

TENSORS: dict[str, npt.NDArray[Any]] = {
    "W": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.ones(3, dtype=np.float16),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def written(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_entries_and_digests(path: Path) -> None:
    entries = {entry.name: entry for entry in tensorfile.read_header(path)}
    assert (entries["W"].dtype, entries["W"].shape) == ("F32", (3, 4))
    data = path.read_bytes()
    assert data[entries["b"].start : entries["b"].end] == TENSORS["b"].tobytes()
    expected = "sha256:" + hashlib.sha256(b"W|F32|3,4|" + TENSORS["W"].tobytes()).hexdigest()
    assert dict(tensorfile.digests(path))["W"] == expected


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {
    "another dtype": ({"W": ENTRY | {"dtype": "F64"}}, 8, "W: found elements of type 'F64'"),
    "no dtype": ({"W": {"shape": [2], "data_offsets": [0, 8]}}, 8, "W: found other members"),
    "another member": ({"W": ENTRY | {"x": 1}}, 8, "W: found other members"),
    "no object": ({"W": 3}, 8, "W: found other members"),
    "a negative extent": ({"W": ENTRY | {"shape": [-2]}}, 8, "expected a shape and two offsets"),
    "a huge extent": ({"W": ENTRY | {"shape": [2**60]}}, 8, "expected a shape and two offsets"),
    "a fractional extent": ({"W": ENTRY | {"shape": [2.0]}}, 8, "expected a shape and two offsets"),
    "one offset": ({"W": ENTRY | {"data_offsets": [0]}}, 8, "expected a shape and two offsets"),
    "too few bytes": ({"W": ENTRY | {"shape": [3]}}, 8, "W: found 8 bytes, expected 12 bytes for F32"),
    "a gap": ({"W": ENTRY | {"data_offsets": [4, 12]}}, 12, "W: found its bytes at"),
    "an overlap": ({"V": ENTRY, "W": ENTRY | {"data_offsets": [4, 12]}}, 12, "W: found its bytes at"),
    "bytes cut off": ({"W": ENTRY}, 7, "by its header"),
    "bytes to spare": ({"W": ENTRY}, 9, "by its header"),
    "metadata": ({"W": ENTRY, "__metadata__": {"a": "b"}}, 8, "found __metadata__"),
    "a list": ([1], 0, "found a header of type list"),
    "no JSON": (b"{", 0, "found a header that is not JSON"),
    "not UTF-8": (b'{"\xff":1}', 0, "found a header that is not JSON"),
    "nesting": (b"[" * 100_000, 0, "found a header that is not JSON"),
    "a name twice": (b'{"W":1,"W":1}', 0, "found a repeated name"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_header_is_refused(tmp_path: Path, case: str) -> None:
    header, size, message = DAMAGED[case]
    with pytest.raises(TensorFileError) as refused:
        tensorfile.read_header(written(tmp_path / "a.safetensors", header, bytes(size)))
    assert message in str(refused.value)
    assert refused.value.subject.startswith("a.safetensors")


@pytest.mark.parametrize("data", [b"", b"\1\0\0", struct.pack("<Q", 2**63), struct.pack("<Q", 9) + b"{}"])
def test_a_header_longer_than_the_file_is_not_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match="found a header of"):
        tensorfile.read_header(path)


def test_a_long_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2 * 2**20))
        file.truncate(4 * 2**20)
    with pytest.raises(TensorFileError, match="at most 1048576, inside the file"):
        tensorfile.read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match=r"gone.safetensors: found No such file"):
        tensorfile.read_header(tmp_path / "gone.safetensors")


def test_files_of_others_may_hold_metadata_and_other_types(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": np.ones(2), "b": np.ones(1, dtype=np.int64)}, path, {"format": "pt"})
    assert {entry.dtype for entry in tensorfile.read_header(path, foreign=True)} == {"F64", "I64"}
    with pytest.raises(TensorFileError):
        tensorfile.read_header(path)


def test_shards_do_not_change_a_models_digest(tmp_path: Path) -> None:
    many = {f"layer.{i}": np.full((2, 2), i, dtype=np.float32) for i in range(6)}
    save_file(many, tmp_path / "one.safetensors", {"format": "pt"})
    names = sorted(many)
    for part, chosen in enumerate((names[:2], names[2:])):
        save_file({name: many[name] for name in chosen}, tmp_path / f"part{part}.safetensors")
    one = tensorfile.model_digest([tmp_path / "one.safetensors"])
    assert one == tensorfile.model_digest([tmp_path / "part1.safetensors", tmp_path / "part0.safetensors"])
    many["layer.3"][1, 1] = 4.0
    save_file(many, tmp_path / "one.safetensors")
    assert one != tensorfile.model_digest([tmp_path / "one.safetensors"])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tmp_path_factory.mktemp("mutated")) / "m.safetensors"


@hypothesis.given(seed=st.integers(0, 2**32))
@hypothesis.settings(max_examples=300)
def test_a_mutated_file_is_refused_or_read_and_never_crashes(scratch: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(save(TENSORS))
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    scratch.write_bytes(data)
    try:
        entries = tensorfile.read_header(scratch)
    except TensorFileError as error:
        if not error.subject.startswith(scratch.name):
            raise
    else:
        assert all(entry.end <= len(data) for entry in entries)
