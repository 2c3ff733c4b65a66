"""Loading a bundle: everything is checked, and what is wrong is named."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saewatch.core import canonical
from saewatch.core.attestation import Attestation
from saewatch.core.errors import ManifestError, TensorFileError
from saewatch.core.tensorfile import digests
from saewatch.engine.dictionary_file import load_bundle, load_manifest, sheet_of
from tests import made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    one = made.dictionary(dtype=torch.float16)
    stated = Attestation(kind="stated", weights=one.manifest.digest, body={"fvu": "0.15"})
    made.bundle(tmp_path / "bundle", one, (stated,))
    return tmp_path / "bundle"


def test_a_bundle_round_trips(folder: Path) -> None:
    one, found = made.dictionary(dtype=torch.float16), load_bundle(folder, decoder=True)
    assert found.manifest == one.manifest
    assert torch.equal(found.dictionary.W, one.W)
    assert found.dictionary.W.dtype == torch.float16
    assert found.dictionary.W_dec is not None
    assert found.dictionary.limits.lim.tobytes() == one.limits.lim.tobytes()
    attested = found.attestation("stated")
    assert attested is not None
    assert attested.body == {"fvu": "0.15"}
    assert found.attestation("quality") is None
    assert found.fit() is None
    assert canonical.digest((folder / "dictionary.json").read_bytes()) == found.sheet.weights


def test_watching_needs_no_decoder(folder: Path) -> None:
    (folder / "decoder.safetensors").unlink()
    assert load_bundle(folder).dictionary.W_dec is None
    with pytest.raises(TensorFileError, match=r"decoder.safetensors: found No such file"):
        load_bundle(folder, decoder=True)


def test_a_digest_of_a_tensor_is_that_of_the_file(folder: Path) -> None:
    found = dict(digests(folder / "encoder.safetensors"))
    for name, tensor in load_file(folder / "encoder.safetensors").items():
        assert sheet_of(name, tensor).sha256 == found[name]


def test_any_flipped_bit_of_a_tensor_file_is_found(folder: Path) -> None:
    path = folder / "encoder.safetensors"
    data = path.read_bytes()
    for place in (len(data) - 1, len(data) // 2, 8 + struct.unpack("<Q", data[:8])[0]):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(TensorFileError, match=r"encoder.safetensors: \w+: found sha256:.*Its bytes changed"):
            load_bundle(folder)


@pytest.mark.parametrize("name", ["dictionary.json", "features.json", "attestation"])
def test_a_changed_sheet_is_not_the_one_that_the_bundle_names(folder: Path, name: str) -> None:
    path = next((folder / "attestations").iterdir()) if name == "attestation" else folder / name
    path.write_bytes(path.read_bytes().replace(b"saewatch", b"saewetch", 1))
    with pytest.raises(ManifestError, match="It was changed after the bundle was made"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["bundle.json", "dictionary.json", "features.json"])
def test_a_missing_sheet_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ManifestError, match=f"{name}: found No such file or directory, expected a readable file"):
        load_bundle(folder)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"bundle.json: found No such file.*A bundle is made by importing"):
        load_bundle(tmp_path)


def test_a_sheet_without_end_is_not_read(folder: Path) -> None:
    with (folder / "bundle.json").open("wb") as file:
        file.truncate(9 * 2**20)
    with pytest.raises(ManifestError, match="found a longer file, expected at most 8388608 bytes"):
        load_bundle(folder)


def rewritten(folder: Path, **tensors: torch.Tensor | None) -> None:
    found = load_file(folder / "encoder.safetensors") | tensors
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, folder / "encoder.safetensors")


WRONG_TENSORS: dict[str, dict[str, torch.Tensor | None]] = {
    "encoder.safetensors: s: found nothing, expected this tensor": {"s": None},
    "encoder.safetensors: extra: found present, expected no such tensor": {"extra": torch.ones(1)},
    "encoder.safetensors: W: found F16 [98, 25], expected F16 [98, 24]": {"W": torch.ones(98, 25).half()},
    "encoder.safetensors: lim: found F16 [98], expected F32 [98]": {"lim": torch.ones(98).half()},
    "encoder.safetensors: c: found sha256:": {"c": torch.ones(98)},
}


@pytest.mark.parametrize("message", WRONG_TENSORS)
def test_other_tensors_than_the_sheet_says_are_named(folder: Path, message: str) -> None:
    rewritten(folder, **WRONG_TENSORS[message])
    with pytest.raises(TensorFileError) as refused:
        load_bundle(folder)
    assert str(refused.value).startswith(message)


def test_a_huge_tensor_is_refused_before_it_is_allocated(folder: Path) -> None:
    header = {"W": {"dtype": "F16", "shape": [2**20, 2**20], "data_offsets": [0, 2**41]}}
    text = json.dumps(header).encode()
    with (folder / "encoder.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2**41)  # sparse: no byte of it is on the disk
    with pytest.raises(TensorFileError, match=r"encoder.safetensors: c: found nothing"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("W", float("nan")), ("W_dec", float("inf")), ("lim", float("nan")), ("lim", float("-inf")), ("c", float("inf"))],
)
def test_a_value_that_is_no_number_is_refused(tmp_path: Path, name: str, value: float) -> None:
    one = made.dictionary()
    tensors = made.tensors_of(one)
    tensors[name][3] = value
    sheets = dict(one.manifest.tensors) | {name: sheet_of(name, tensors[name])}
    bad = type(one)(
        manifest=type(one.manifest)(
            kind="sae", hook_point="resid_post.1", encoder=one.manifest.encoder, tensors=sheets
        ),
        W=one.W,
        limits=one.limits,
        W_dec=one.W_dec,
        b_dec=one.b_dec,
    )
    with pytest.raises(TensorFileError, match=rf"{name}: found a value that is no number, at \d+"):
        made.bundle(tmp_path / "bundle", bad)


def test_a_limit_may_be_infinite(tmp_path: Path) -> None:
    one = made.dictionary()
    one.limits.lim[3] = float("inf")
    sheets = dict(one.manifest.tensors) | {"lim": sheet_of("lim", torch.from_numpy(one.limits.lim))}
    manifest = type(one.manifest)(kind="sae", hook_point="resid_post.1", encoder=one.manifest.encoder, tensors=sheets)
    silent = type(one)(manifest=manifest, W=one.W, limits=one.limits, W_dec=one.W_dec, b_dec=one.b_dec)
    assert made.bundle(tmp_path / "bundle", silent).dictionary.limits.lim[3] == float("inf")


def test_the_data_sheet_alone_is_the_same_one(folder: Path) -> None:
    assert load_manifest(folder) == load_bundle(folder).manifest
