"""Finding and opening the weights of a folder: safetensors (also in shards), numpy's ``.npz``, torch's checkpoints.

What a file is shows in its first bytes; its name decides nothing. No link may lead out of the folder that was named,
an index of shards may name files of its own folder only, and what is no regular file is not opened.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from saewatch.core import limits
from saewatch.core.errors import ConfigError, ManifestError, TensorFileError
from saewatch.dictionary.formats import archive, checkpoint
from saewatch.dictionary.formats.forms import Form, Opened, load_safetensors, safetensors_forms

CONFIGS = ("cfg.json", "config.json", "hyperparams.json")
ROWS = "rows.safetensors"
"""Rows for the conformance check: no weights."""
_INDEX = ".safetensors.index.json"
_PICKLES = (".pt", ".pth")
_CHECKPOINTS = "checkpoints"  # where Llama Scope keeps its weights
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.safetensors", re.ASCII)


def read_json(path: Path) -> Any:
    """A JSON file that others wrote; ManifestError when it cannot be read."""
    try:
        data = path.read_bytes() if path.stat().st_size <= limits.MANIFEST_BYTES else None
    except OSError as error:
        raise ManifestError(str(path), found=error.strerror or str(error), expected="a readable file") from error
    if data is None:
        found = f"{path.stat().st_size} bytes"
        raise ManifestError(str(path), found=found, expected=f"at most {limits.MANIFEST_BYTES}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(str(path), found=str(error), expected="JSON") from error


def split(path: Path) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    """The folder that ``path`` names or lies in, its weights that can be looked at, and its checkpoints.

    ConfigError where there is nothing of this name.
    """
    if path.is_file():
        own_file(path.parent, path.name)
        pickled = path.name.endswith(_PICKLES) or (_is_zip(path) and _is_checkpoint(path))
        return path.parent, () if pickled else (path.name,), (path.name,) if pickled else ()
    if not path.is_dir():
        raise ConfigError(str(path), found="nothing that can be read", expected="a folder or a file of weights")
    names = _names(path)
    plain = [name for name in names if name.endswith((".safetensors", ".npz")) and name != ROWS]
    plain += [name for name in names if name.endswith(_INDEX)]
    if (path / _CHECKPOINTS).is_dir():
        inner = sorted((path / _CHECKPOINTS).glob("*.safetensors"))
        plain += [f"{_CHECKPOINTS}/{one.name}" for one in inner]
    return path, tuple(plain), tuple(name for name in names if name.endswith(_PICKLES))


def open_all(folder: Path, names: tuple[str, ...]) -> Iterator[Opened]:
    """The files of weights, each with each configuration of the folder; of those in an index, the index."""
    indices = {name: _open_index(folder, name) for name in names if name.endswith(_INDEX)}
    sharded = {shard for one in indices.values() for shard in one.shards}
    for name in names:
        if name not in sharded:
            yield from with_configs(indices[name] if name in indices else open_one(folder, name))


def open_one(folder: Path, name: str) -> Opened:
    """One safetensors file or ``.npz``. TensorFileError when it is damaged or neither."""
    path = own_file(folder, name)
    if _is_zip(path):
        return Opened(folder=folder, weights=name, forms=archive.forms(path), load=lambda: archive.arrays(path))
    return Opened(folder=folder, weights=name, forms=safetensors_forms(path), load=lambda: load_safetensors(path))


def open_checkpoint(folder: Path, name: str) -> Opened:
    """One of torch's checkpoints, read in a process of its own. TensorFileError when that refuses it."""
    forms, tensors, scalars = checkpoint.read(own_file(folder, name))
    return Opened(folder=folder, weights=name, forms=forms, load=lambda: tensors, scalars=scalars)


def with_configs(opened: Opened) -> Iterator[Opened]:
    """The same with each configuration that lies in its folder; without one, where there is none."""
    found = [name for name in CONFIGS if (opened.folder / name).exists()]
    for name in found:
        config = read_json(own_file(opened.folder, name))
        yield Opened(
            folder=opened.folder,
            weights=opened.weights,
            forms=opened.forms,
            load=opened.load,
            scalars=opened.scalars,
            shards=opened.shards,
            config_name=name,
            config=config,
        )
    if not found:
        yield opened


def _names(folder: Path) -> list[str]:
    try:
        return sorted(one.name for one in folder.iterdir())
    except OSError as error:
        raise ConfigError(str(folder), found=error.strerror, expected="a folder that can be read") from error


def own_file(folder: Path, name: str) -> Path:
    """The file ``name`` of the folder. ConfigError when it is none, or a link that leads out of the folder."""
    path = folder / name
    root = folder.resolve()
    roots = [root]
    if "snapshots" in root.parts:  # the cache of a hub: its files are links to blobs beside the snapshots
        roots.append(Path(*root.parts[: root.parts.index("snapshots")]) / "blobs")
    real = path.resolve()
    if not any(real.is_relative_to(one) for one in roots):
        hint = "Copy what it points to into the folder."
        raise ConfigError(str(path), found="a link that leads out of the folder", expected="a file of it", hint=hint)
    if not (real.exists() and stat.S_ISREG(real.stat().st_mode) and os.access(real, os.R_OK)):
        raise ConfigError(str(path), found="no regular file that can be read", expected="a file")
    return path


def _open_index(folder: Path, name: str) -> Opened:
    """Shards with an index: ``weight_map`` says which file holds which tensor, and must be right about all of them."""
    index = read_json(own_file(folder, name))
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise ManifestError(f"{name}: weight_map", found=f"{named!r:.60}", expected="tensor -> file")
    for tensor, file in named.items():
        if _SHARD.fullmatch(file) is None:
            subject = f"{name}: weight_map.{tensor[:80]}"
            raise ManifestError(subject, found=f"{file!r:.80}", expected="the name of a file beside it")
    shards = tuple(sorted(set(named.values())))
    headers = {shard: safetensors_forms(own_file(folder, shard)) for shard in shards}
    forms: dict[str, Form] = {}
    for shard, header in headers.items():
        stated = {tensor for tensor, file in named.items() if file == shard}
        for tensor in sorted(stated ^ header.keys()):
            there = tensor in header
            expected = "no such tensor" if there else "this tensor"
            found = "present" if there else "nothing"
            raise TensorFileError(f"{shard}: {tensor[:80]}", found=found, expected=f"{expected}, by {name}")
        forms |= header
    return Opened(folder=folder, weights=name, forms=forms, load=lambda: _load_all(folder, shards), shards=shards)


def _load_all(folder: Path, shards: tuple[str, ...]) -> Mapping[str, Tensor]:
    return {name: tensor for shard in shards for name, tensor in load_safetensors(folder / shard).items()}


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == archive.MAGIC


def _is_checkpoint(path: Path) -> bool:
    return any(one.filename.endswith("/data.pkl") for one in archive.members(path))
