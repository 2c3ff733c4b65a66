"""Finding weights in folders that strangers made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from saewatch.core.errors import ConfigError, ManifestError, SaewatchError, TensorFileError
from saewatch.dictionary.formats import Asked, read_all, read_json
from saewatch.dictionary.formats.files import open_all, open_one, own_file, split
from tests import layouts, made

INDEX = "model.safetensors.index.json"


def sharded(folder: Path, **changes: Any) -> Path:
    """A dictionary of sparsify in two shards, with an index; ``changes`` are members of its map."""
    folder.mkdir(exist_ok=True)
    tensors = layouts.sparsify_tensors()
    parts = {"a.safetensors": ["encoder.weight", "encoder.bias"], "b.safetensors": ["W_dec", "b_dec"]}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    named = {name: file for file, names in parts.items() for name in names} | changes
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": named}))
    (folder / "cfg.json").write_text(json.dumps(layouts.SPARSIFY))
    return folder


def test_shards_are_one_dictionary(tmp_path: Path) -> None:
    source, _ = read_all(sharded(tmp_path / "source"), Asked(hook_point=layouts.POINT))
    assert source is not None
    assert torch.equal(source.W, layouts.sparsify_tensors()["encoder.weight"])
    assert source.files == ("cfg.json", INDEX, "a.safetensors", "b.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W_dec": "../b.safetensors"}, "weight_map.W_dec: found '../b.safetensors'"),
        ({"W_dec": "/etc/passwd"}, "weight_map.W_dec: found '/etc/passwd'"),
        ({"W_dec": "sub/b.safetensors"}, "weight_map.W_dec: found 'sub/b.safetensors'"),
        ({"W_dec": "b.safetensors\0.safetensors"}, "weight_map.W_dec: found"),
        ({"W_dec": "b.bin"}, "weight_map.W_dec: found 'b.bin'"),
        ({"W_dec": ["b.safetensors"]}, "weight_map: found"),
        ({"W_dec": "c.safetensors"}, "c.safetensors: found no regular file"),
        ({"W_dec": "a.safetensors"}, "a.safetensors: W_dec: found nothing, expected this tensor"),
        ({"extra": "a.safetensors"}, "a.safetensors: extra: found nothing, expected this tensor"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SaewatchError) as refused:
        read_all(sharded(tmp_path / "source", **changes), Asked(hook_point=layouts.POINT))
    assert message in str(refused.value)


@pytest.mark.parametrize("index", [[], {"weight_map": 3}, {}, "x"])
def test_an_index_without_a_map(tmp_path: Path, index: Any) -> None:
    folder = sharded(tmp_path / "source")
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ManifestError, match=r"weight_map: found .*, expected tensor -> file"):
        read_all(folder, Asked(hook_point=layouts.POINT))


@pytest.mark.parametrize("name", ["a.safetensors", "cfg.json"])
def test_a_link_that_leads_out_is_not_followed(tmp_path: Path, name: str) -> None:
    folder = sharded(tmp_path / "source")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ConfigError, match=rf"{name}: found a link that leads out of the folder"):
        read_all(folder, Asked(hook_point=layouts.POINT))


def test_links_of_a_hubs_cache_and_inside_the_folder_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    sharded(folder)
    for name in ("a.safetensors", "cfg.json"):
        (folder / name).rename(tmp_path / "hub" / "blobs" / name)
        (folder / name).symlink_to(f"../../blobs/{name}")
    source, _ = read_all(folder, Asked(hook_point=layouts.POINT))
    assert source is not None


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"x.safetensors: found no regular file"):
        list(open_all(*split(tmp_path)[:2]))
    with pytest.raises(ConfigError, match="found no regular file"):
        own_file(tmp_path, "missing.json")
    with pytest.raises(ConfigError, match="nothing that can be read"):
        split(tmp_path / "missing")


def test_names_decide_nothing(tmp_path: Path) -> None:
    made.saelens("standard").save_model(tmp_path)
    (tmp_path / "sae_weights.safetensors").rename(tmp_path / "w.safetensors")
    (tmp_path / "cfg.json").rename(tmp_path / "config.json")
    source, _ = read_all(tmp_path)
    assert source is not None
    assert (source.format, source.files) == ("saelens", ("config.json", "w.safetensors"))
    layouts.layouts()["gemma_scope"].write(tmp_path / "gemma")
    (tmp_path / "gemma" / "params.npz").rename(tmp_path / "gemma" / "params.safetensors")
    assert open_one(tmp_path / "gemma", "params.safetensors").holds("W_enc")


@pytest.mark.parametrize("kept", [4, 40, 400, -1])
def test_a_download_that_was_cut_short(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file(layouts.jumps(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TensorFileError, match=r"x.safetensors.*fetch it again"):
        open_one(tmp_path, "x.safetensors")


@pytest.mark.parametrize(
    ("data", "message"), [(b"{", "expected JSON"), (b"[" * 100_000, "expected JSON"), (b"\xff", "expected JSON")]
)
def test_json_that_is_none(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(ManifestError, match=message):
        read_json(tmp_path / "x.json")


def test_json_that_is_not_there_or_too_long(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        read_json(tmp_path / "x.json")
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(9 * 2**20)
    with pytest.raises(ManifestError, match="at most 8388608"):
        read_json(tmp_path / "x.json")
