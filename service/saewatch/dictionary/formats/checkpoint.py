"""torch's checkpoints (``.pt``): pickles, which can run code. They are read by another process, or not at all.

That process (`saewatch.dictionary.unpickle`) is started isolated, without our environment and our open files, with
bounds on its memory, time and files. It unpickles tensors and plain values only, and leaves them as a safetensors file
and a JSON file, which are checked here as if a stranger had written them. Before it starts, the archive's own
directory has to be sound: torch stores without compression, so nothing in it may be larger than the file.

The program is named by its path, since an isolated interpreter finds installed packages only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

from saewatch.core import limits
from saewatch.core.errors import TensorFileError
from saewatch.dictionary import unpickle
from saewatch.dictionary.formats import archive
from saewatch.dictionary.formats.forms import Form, load_safetensors, safetensors_forms


def read(path: Path) -> tuple[dict[str, Form], dict[str, Tensor], dict[str, Any]]:
    """Forms, tensors and plain values of a checkpoint. TensorFileError when the other process refuses it or fails."""
    _check_archive(path)
    with tempfile.TemporaryDirectory(prefix="saewatch-") as name:
        out = Path(name)
        _unpickle(path, out)
        tensors = out / unpickle.TENSORS
        return safetensors_forms(tensors), load_safetensors(tensors), _scalars(path.name, out / unpickle.SCALARS)


def _check_archive(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(2) != archive.MAGIC:
            hint = "Save it again with torch.save of torch 1.6 or later, or as safetensors."
            raise TensorFileError(path.name, found="no zip archive", expected="a checkpoint of torch", hint=hint)
    for info in archive.members(path):
        if info.compress_type != zipfile.ZIP_STORED:
            subject = f"{path.name}: {info.filename[:80]}"
            raise TensorFileError(subject, found="a compressed member", expected="members stored as they are")


def _unpickle(path: Path, out: Path) -> None:
    seconds = limits.CHECKPOINT_S + path.stat().st_size // (10 * limits.MIB)
    command = [sys.executable, "-I", str(unpickle.__file__), str(path.resolve()), str(out)]
    bounds = [str(seconds), str(limits.CHECKPOINT_SPARE_BYTES)]
    try:
        done = subprocess.run(  # noqa: S603 - our own program, by its path, with two paths and two numbers
            [*command, *bounds],
            env={},
            cwd=out,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=2 * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TensorFileError(path.name, found=f"no end after {2 * seconds} s", expected="tensors") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        found = f"{said:.300}" if said else f"a reader that ended with {done.returncode}"
        hint = "Only tensors and plain values are read from a pickle. Save the state dict alone, or as safetensors."
        raise TensorFileError(path.name, found=found, expected="tensors and plain values", hint=hint)


def _scalars(name: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        data = file.read(limits.CHECKPOINT_SCALARS_BYTES + 1)
    try:
        found = json.loads(data) if len(data) <= limits.CHECKPOINT_SCALARS_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or any(isinstance(value, dict | list) for value in found.values()):
        expected = f"an object of plain values of at most {limits.CHECKPOINT_SCALARS_BYTES} bytes"
        raise TensorFileError(name, found="something else beside its tensors", expected=expected)
    return found
