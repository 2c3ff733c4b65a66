"""Pickles: another process reads them, and a hostile one gets nothing done."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from saewatch.core.errors import TensorFileError
from saewatch.dictionary.formats.checkpoint import read
from saewatch.dictionary.formats.forms import Form


class Hostile:
    """Unpickling it would call ``call(*arguments)``."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self._call = call, arguments

    def __reduce__(self) -> Any:
        return self._call


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def test_tensors_and_plain_values_come_back(tmp_path: Path) -> None:
    nested = {"k": 7, "postact_fn": "ReLU", "on": True, "none": None, "x": 0.5}
    tensors = {"W": torch.ones(3, 2).t(), "b": torch.arange(4).bfloat16(), "n": torch.tensor(3), "e": torch.ones(0, 2)}
    forms, found, scalars = read(saved(tmp_path / "ae.pt", {**tensors, "sd": nested, "activation": "TopK"}))
    assert forms["W"] == Form("F32", (2, 3))
    assert forms["b"] == Form("BF16", (4,))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert scalars == {**{f"sd.{key}": value for key, value in nested.items()}, "activation": "TopK"}


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    hostile = {"W": torch.ones(2), "x": Hostile(os.system, f"touch {tmp_path}/ran")}
    with pytest.raises(TensorFileError, match=r"x.pt: found UnpicklingError.*Only tensors and plain values"):
        read(saved(tmp_path / "x.pt", hostile))
    assert not (tmp_path / "ran").exists()


def test_a_view_that_unfolds_to_terabytes_is_refused(tmp_path: Path) -> None:
    wide = torch.zeros(1).expand(2**20, 2**20)
    with pytest.raises(TensorFileError, match=r"wide.pt: found"):
        read(saved(tmp_path / "wide.pt", {"W": wide}))


def test_a_bare_pickle_is_not_started_on(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps(Hostile(os.system, f"touch {tmp_path}/ran")))
    with pytest.raises(TensorFileError, match=r"x.pt: found no zip archive"):
        read(path)
    assert not (tmp_path / "ran").exists()


def test_a_compressed_checkpoint_is_not_torchs(tmp_path: Path) -> None:
    stored = zipfile.ZipFile(saved(tmp_path / "a.pt", {"W": torch.zeros(1000)}))
    with stored, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for info in stored.infolist():
            packed.writestr(info.filename, stored.read(info))
    with pytest.raises(TensorFileError, match=r"b.pt: .*: found a compressed member"):
        read(tmp_path / "b.pt")


def test_a_checkpoint_that_was_cut_short(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"W": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TensorFileError, match=r"x.pt: found no directory at its end"):
        read(path)
