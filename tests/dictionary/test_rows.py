"""Rows in .npz files: read and written in parts, and refused where they are not what they say."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saewatch.core.errors import ConfigError, SaewatchError, UnreachableError
from saewatch.dictionary.rows import ArraysFile, RowsFile

X = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_rows_come_in_parts_and_in_order(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=X, positions=np.arange(10), token_ids=np.arange(10) * 3)
    with RowsFile(path) as rows:
        assert (rows.count, rows.d_in) == (10, 4)
        parts = list(rows.parts(4))
    assert [len(part.x) for part in parts] == [4, 4, 2]
    assert np.array_equal(np.concatenate([part.x for part in parts]), X)
    assert [part.token_ids.tolist() for part in parts if part.token_ids is not None][2] == [24, 27]
    assert parts[1].positions is not None
    assert parts[1].positions.tolist() == [4, 5, 6, 7]


def test_no_rows_are_rows_too(tmp_path: Path) -> None:
    with RowsFile(npz(tmp_path / "x.npz", x=X[:0])) as rows:
        assert (rows.count, rows.d_in, list(rows.parts(5))) == (0, 4, [])
        assert [rows.has_positions, rows.has_token_ids] == [False, False]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": X}, "x: found y.npy, expected the array x"),
        ({"x": X.astype(np.float64)}, "x: found elements of type float64, expected float32"),
        ({"x": X.astype(">f4")}, "x: found elements of type >f4, expected float32"),
        ({"x": np.array([{}, {}], dtype=object)}, "x: found elements of type object, expected float32"),
        ({"x": X[0]}, r"x: found \[4\], expected \[n, d_in\] in C order"),
        ({"x": np.asfortranarray(X)}, r"x: found \[10, 4\] in Fortran order"),
        ({"x": X[:, :0]}, r"x: found \[10, 0\], expected"),
        ({"x": np.zeros((1, 65537), np.float32)}, "d_in at most 65536"),
        ({"x": X, "positions": np.arange(9)}, r"positions: found \[9\], expected \[10\], one for each row"),
        ({"x": X, "token_ids": np.ones(10)}, "token_ids: found elements of type float64, expected integers"),
        ({"x": X, "token_ids": np.array([None] * 10)}, "token_ids: found elements of type object"),
    ],
)
def test_arrays_of_another_kind_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RowsFile(npz(tmp_path / "x.npz", **arrays))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_row_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    x = X.copy()
    x[7, 2] = value
    refused = pytest.raises(ConfigError, match=r"x.npz: x: row 7: found NaN or infinity")
    with RowsFile(npz(tmp_path / "x.npz", x=x)) as rows, refused:
        list(rows.parts(3))
    assert tmp_path / "x.npz" not in [one.resolve() for one in Path("/proc/self/fd").iterdir()], "it is closed"


@pytest.mark.parametrize("name", ["positions", "token_ids"])
def test_no_row_stands_before_the_first_position(tmp_path: Path, name: str) -> None:
    ids = np.arange(10)
    ids[6] = -1
    refused = pytest.raises(ConfigError, match=rf"x.npz: {name}: row 6: found -1, expected 0 or more")
    with RowsFile(npz(tmp_path / "x.npz", x=X, **{name: ids})) as rows, refused:
        list(rows.parts(4))


def lying(path: Path, header: bytes, data: bytes = b"") -> Path:
    """A member with a header of our choice."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)
    return path


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{'descr':'<f4','fortran_order':False,'shape':(100000000000,4)}\n", "found 0 bytes, expected 1600000000000"),
        (b"{'descr':'<f4','fortran_order':False,'shape':(-1,4)}\n", r"the shape \(-1, 4\)"),
        (b"{'descr':'<f4','fortran_order':False,'shape':(10**30,4)}\n", "an array in .npy form"),
        (b"{'descr':'<f4','fortran_order':False,'shape':(True,4)}\n", "the shape"),
        (b"{'descr':'|O','fortran_order':False,'shape':(1,4)}\n", "elements of type object"),
        (b"(" * 5000 + b"\n", "an array in .npy form"),
        (b"__import__('os').getpid()\n", "an array in .npy form"),
        (b"{'descr':'<f4'}\n", "an array in .npy form"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_read(tmp_path: Path, header: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RowsFile(lying(tmp_path / "x.npz", header))


def test_what_is_no_npz(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"\x93NUMPY")
    with pytest.raises(ConfigError, match=r"expected an .npz"):
        RowsFile(tmp_path / "x.npz")
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(UnreachableError, match="expected a file of rows"):
            RowsFile(path)
    with zipfile.ZipFile(tmp_path / "two.npz", "w") as archive:
        archive.writestr("x.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", b"")
    with pytest.raises(ConfigError, match="found 2 arrays of that name"):
        RowsFile(tmp_path / "two.npz")


def test_damaged_files_are_refused_and_nothing_else_happens(tmp_path: Path) -> None:
    """Bytes changed at random: read as they were (in what is not looked at), or an error of ours."""
    draw = random.Random(3)
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=X, positions=np.arange(10))
    whole, refused = path.read_bytes(), 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.2 else data)
        try:
            with RowsFile(path) as rows:
                assert np.array_equal(np.concatenate([part.x for part in rows.parts(3)]), X)
        except SaewatchError:
            refused += 1
    assert refused > 200


def test_what_is_written_is_what_numpy_reads(tmp_path: Path) -> None:
    for name in ("one.npz", "two.npz"):
        with (
            ArraysFile(tmp_path / name) as file,
            file.spooled(row="<i8", excluded="|b1") as append,
            file.array("acts", "<f4", (10, 4)) as write,
        ):
            write(X[:6])
            append(row=np.arange(3), excluded=np.array([True, False]))
            write(X[6:])
            append(row=np.arange(3, 5), excluded=np.array([], dtype=bool))
    found = np.load(tmp_path / "one.npz", allow_pickle=False)
    assert sorted(found) == ["acts", "excluded", "row"]
    assert np.array_equal(found["acts"], X)
    assert found["row"].tolist() == [0, 1, 2, 3, 4]
    assert found["excluded"].tolist() == [True, False]
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]
