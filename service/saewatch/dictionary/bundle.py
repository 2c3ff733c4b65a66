"""What a bundle is made of, and its files: the same inputs give the same bytes.

Times, paths and names of machines are in no file. Reading is `saewatch.engine.dictionary_file`, the code that an
engine reads with; writing is `saewatch.dictionary.folder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from saewatch.core import manifest as sheets
from saewatch.core.attestation import Attestation, read_conformance
from saewatch.core.catalogue import Catalogue
from saewatch.core.manifest import BundleSheet, Manifest, attestation_path
from saewatch.dictionary import signatures
from saewatch.dictionary.contents import read_folder
from saewatch.dictionary.folder import place
from saewatch.engine.dictionary_file import Bundle, load_bundle, load_tensors

__all__ = ["Bundle", "Parts", "load_bundle", "read_parts", "write_bundle"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Parts:
    """What a bundle is made of. ``rows`` are the conformance rows, where there are any."""

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    catalogue: Catalogue
    attestations: Sequence[Attestation] = ()
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    signatures: Mapping[str, bytes] = field(default_factory=dict)
    """Envelopes by their name in the folder: those of attestations that are no longer there are not written."""

    def sheet(self) -> BundleSheet:
        """The bundle's own sheet."""
        named = sorted((one.kind, one.digest) for one in self.attestations)
        return BundleSheet(weights=self.manifest.digest, catalogue=self.catalogue.digest, attestations=tuple(named))


def read_parts(folder: Path) -> Parts:
    """What the bundle in ``folder`` is made of, every digest checked, so that another one can be made of it.

    Raises `ManifestError` and `TensorFileError` as `load_bundle` does.
    """
    bundle = load_bundle(folder, decoder=True)
    held, attested = bundle.dictionary, bundle.attestation("conformance")
    columns = {name: torch.from_numpy(getattr(held.limits, name)) for name in ("lim", "s", "c")}
    if held.limits_thresholded is not None:
        columns["lim_thresholded"] = torch.from_numpy(held.limits_thresholded.lim)
    decoder = {name: tensor for name, tensor in (("W_dec", held.W_dec), ("b_dec", held.b_dec)) if tensor is not None}
    heads = {name: tensor for one in held.heads for name, tensor in one.tensors.items()}
    heads |= {name: tensor for one in held.pooled for name, tensor in one.tensors.items()}
    expected = read_conformance(attested).tensors if attested else {}
    return Parts(
        manifest=bundle.manifest,
        tensors={"W": held.W, **columns, **decoder, **heads},
        catalogue=bundle.catalogue,
        attestations=bundle.attestations,
        rows=load_tensors(folder / sheets.CONFORMANCE_FILE, expected) if expected else {},
        signatures=dict(signatures.files(folder, signatures.sheets_of(read_folder(folder)))),
    )


def write_bundle(parts: Parts, out: Path, *, replace: bool = False) -> BundleSheet:
    """Writes a bundle's folder and reads it back.

    Args:
        parts: the contents.
        out: the folder to make.
        replace: put it in the place of another bundle. Without it an existing folder is refused, unless it holds
            this very bundle.

    Raises:
        ConfigError: ``out`` is there and holds something else; with ``replace``, something that is no bundle's.
        ManifestError, TensorFileError: the contents contradict each other.
    """
    sheet = parts.sheet()
    files = {name: [data] for name, data in _files(parts, sheet).items()}
    place(out, sheet, files, replace=replace)
    return sheet


def _files(parts: Parts, sheet: BundleSheet) -> dict[str, bytes]:
    decoding = {name: tensor for name, tensor in parts.tensors.items() if name in sheets.DECODER_TENSORS}
    encoding = {name: tensor for name, tensor in parts.tensors.items() if name not in decoding}
    files = {
        sheets.BUNDLE_FILE: sheet.data(),
        sheets.MANIFEST_FILE: parts.manifest.data(),
        sheets.CATALOGUE_FILE: parts.catalogue.data(),
        sheets.ENCODER_FILE: save(encoding),
    }
    if decoding:
        files[sheets.DECODER_FILE] = save(decoding)
    if parts.rows:
        files[sheets.CONFORMANCE_FILE] = save(dict(parts.rows))
    for one in parts.attestations:
        files[attestation_path(one.kind, one.digest)] = one.data()
    there = {digest.removeprefix("sha256:") for digest in (sheet.digest, *(one.digest for one in parts.attestations))}
    files |= {name: data for name, data in parts.signatures.items() if Path(name).name.partition(".")[0] in there}
    return files
