"""A dictionary read from its bundle: checked before it is allocated, and again by its digests.

A bundle is a folder: ``bundle.json``, ``dictionary.json``, ``features.json``, ``encoder.safetensors`` (all that
watching needs), ``decoder.safetensors`` (the census and alignment) and ``attestations/``. The data sheet fixes every
tensor's name, type, shape and digest, so a header that says otherwise is refused before a byte of it is allocated, and
a flipped bit is named with its tensor. Nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saewatch.core import canonical
from saewatch.core import manifest as sheets
from saewatch.core.attestation import Attestation, Fit, read_attestation, read_fit
from saewatch.core.catalogue import Catalogue, read_catalogue
from saewatch.core.errors import ManifestError, TensorFileError
from saewatch.core.manifest import BundleSheet, Manifest, TensorSheet, attestation_path
from saewatch.core.tensorfile import read_header, tensor_digest
from saewatch.engine.encode import Folded
from saewatch.engine.heads import Head, Pooled, heads_of, pooled_of

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dictionary:
    """A dictionary in host memory: ``W [rows, d_in]`` in its stored type; the decoder where it was asked for."""

    manifest: Manifest
    W: Tensor
    limits: Folded
    limits_thresholded: Folded | None = None
    W_dec: Tensor | None = None
    b_dec: Tensor | None = None
    heads: tuple[Head, ...] = ()
    pooled: tuple[Pooled, ...] = ()

    def folded(self, mode: str) -> Folded:
        """The limits of a mode; ManifestError when the dictionary does not have it."""
        if mode not in self.manifest.encoder.modes:
            hint = "A thresholded mode needs a threshold at import."
            raise ManifestError("mode", found=mode, expected=" or ".join(self.manifest.encoder.modes), hint=hint)
        thresholded = self.limits_thresholded if mode == "thresholded" else None
        return self.limits if thresholded is None else thresholded


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Bundle:
    """Everything in a bundle's folder but the conformance rows."""

    folder: Path
    sheet: BundleSheet
    dictionary: Dictionary
    catalogue: Catalogue
    attestations: tuple[Attestation, ...] = field(default=())

    @property
    def manifest(self) -> Manifest:
        """The data sheet."""
        return self.dictionary.manifest

    def attestation(self, kind: str) -> Attestation | None:
        """The first attestation of a kind."""
        return next((one for one in self.attestations if one.kind == kind), None)

    def fit(self) -> Fit | None:
        """The model that it was made for, where that is attested."""
        attested = self.attestation("fit")
        return read_fit(attested) if attested else None


def load_bundle(folder: Path, *, decoder: bool = False) -> Bundle:
    """The bundle in ``folder``, every digest checked.

    Args:
        folder: the bundle.
        decoder: also read the decoder, for the census.

    Raises:
        ManifestError: a sheet is missing, malformed or not the one that the bundle names.
        TensorFileError: a tensor file is corrupt or holds other tensors.
    """
    sheet, manifest = _sheets(folder)
    data = _named(folder, sheets.CATALOGUE_FILE, digest=sheet.catalogue)
    catalogue = read_catalogue(data, manifest, subject=str(folder / sheets.CATALOGUE_FILE))
    attestations = []
    for kind, digest in sheet.attestations:
        path = attestation_path(kind, digest)
        data = _named(folder, path, digest=digest)
        attestations.append(read_attestation(data, subject=str(folder / path), weights=sheet.weights))
    return Bundle(
        folder=folder,
        sheet=sheet,
        dictionary=load_dictionary(folder, manifest, decoder=decoder),
        catalogue=catalogue,
        attestations=tuple(attestations),
    )


def load_manifest(folder: Path) -> Manifest:
    """The data sheet of the bundle in ``folder``. Raises `ManifestError` as `load_bundle` does."""
    return _sheets(folder)[1]


def _sheets(folder: Path) -> tuple[BundleSheet, Manifest]:
    path = folder / sheets.BUNDLE_FILE
    sheet = sheets.read_bundle_sheet(sheets.read_sheet(folder, sheets.BUNDLE_FILE), subject=str(path))
    data = _named(folder, sheets.MANIFEST_FILE, digest=sheet.weights)
    return sheet, sheets.read_manifest(data, subject=str(folder / sheets.MANIFEST_FILE))


def load_dictionary(folder: Path, manifest: Manifest, *, decoder: bool = False) -> Dictionary:
    """The tensors that ``manifest`` describes, from ``folder``; TensorFileError naming file and tensor.

    Of the decoder's file its bias is read in any case, where the file is there.
    """
    decoding = {name: sheet for name, sheet in manifest.tensors.items() if name in sheets.DECODER_TENSORS}
    encoding = {name: sheet for name, sheet in manifest.tensors.items() if name not in decoding}
    found = load_tensors(folder / sheets.ENCODER_FILE, encoding)
    if decoding and (decoder or (folder / sheets.DECODER_FILE).exists()):
        found |= load_tensors(folder / sheets.DECODER_FILE, decoding, only=None if decoder else {"b_dec"})
    _check_finite(found)
    lim, s, c = (found[name].numpy() for name in ("lim", "s", "c"))
    thresholded = found.get("lim_thresholded")
    return Dictionary(
        manifest=manifest,
        W=found["W"],
        limits=Folded(lim=lim, s=s, c=c),
        limits_thresholded=None if thresholded is None else Folded(lim=thresholded.numpy(), s=s, c=c),
        W_dec=found.get("W_dec"),
        b_dec=found.get("b_dec"),
        heads=heads_of(manifest, found),
        pooled=pooled_of(manifest, found),
    )


def load_tensors(
    path: Path, expected: Mapping[str, TensorSheet], *, only: Collection[str] | None = None
) -> dict[str, Tensor]:
    """The tensors of a file, which must be exactly ``expected`` in name, type, shape and digest; ``only``: of these."""
    entries = {entry.name: entry for entry in read_header(path)}
    _check_names(path.name, entries.keys(), expected)
    for name, sheet in expected.items():
        found = (entries[name].dtype, entries[name].shape)
        if found != (sheet.dtype, sheet.shape):
            raise TensorFileError(
                f"{path.name}: {name}",
                found=f"{found[0]} {list(found[1])}",
                expected=f"{sheet.dtype} {list(sheet.shape)}",
                hint="The data sheet says so.",
            )
    try:
        with safe_open(str(path), framework="pt") as file:
            wanted = sorted(expected if only is None else only & expected.keys())
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise TensorFileError(path.name, found=str(error), expected="a readable safetensors file") from error
    for name, tensor in tensors.items():
        found_digest, sheet = digest_of(name, tensor), expected[name]
        if found_digest != sheet.sha256:
            hint = "Its bytes changed after it was imported; fetch the bundle again."
            raise TensorFileError(f"{path.name}: {name}", found=found_digest, expected=sheet.sha256, hint=hint)
    return tensors


def digest_of(name: str, tensor: Tensor) -> str:
    """The digest of a tensor under a name, as `core.tensorfile` computes it from a file."""
    return sheet_of(name, tensor).sha256


def sheet_of(name: str, tensor: Tensor) -> TensorSheet:
    """What a data sheet says of a tensor."""
    dtype = next(ours for ours, theirs in TORCH_DTYPES.items() if theirs == tensor.dtype)
    data = tensor.contiguous().view(torch.uint8).numpy().data.cast("B") if tensor.numel() else b""
    shape = tuple(tensor.shape)
    return TensorSheet(dtype=dtype, shape=shape, sha256=tensor_digest(name, dtype, shape, data))


def _named(folder: Path, name: str, *, digest: str) -> bytes:
    data = sheets.read_sheet(folder, name)
    found = canonical.digest(data)
    if found != digest:
        hint = "It was changed after the bundle was made; a change makes a new bundle."
        raise ManifestError(str(folder / name), found=found, expected=digest, hint=hint)
    return data


def _check_names(file: str, found: Collection[str], expected: Collection[str]) -> None:
    for name in sorted(set(found) ^ set(expected)):
        there = name in found
        raise TensorFileError(
            f"{file}: {name[:80]}",
            found="present" if there else "nothing",
            expected="no such tensor" if there else "this tensor",
            hint="The data sheet says so.",
        )


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        # a limit of +inf is a row that never fires; everything else is a number
        bad = torch.isnan(tensor) | (tensor == -torch.inf) if name.startswith("lim") else ~torch.isfinite(tensor)
        if bool(bad.any()):
            where = int(bad.flatten().nonzero()[0, 0])
            raise TensorFileError(name, found=f"a value that is no number, at {where}", expected="finite values")
