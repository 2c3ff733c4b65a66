"""What a bundle says, without its tensors: its sheets, each checked by the digest that names it.

The same reading for a bundle's folder and for one in the store: both hand over bytes for a name and a digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from saewatch.core import canonical
from saewatch.core import manifest as sheets
from saewatch.core.attestation import Attestation, read_attestation, read_conformance
from saewatch.core.catalogue import Catalogue, read_catalogue
from saewatch.core.errors import ManifestError
from saewatch.core.manifest import BundleSheet, Manifest, TensorSheet, attestation_path

Fetch = Callable[[str, str], bytes]
"""(name in a bundle's folder, digest) -> bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A bundle's sheets."""

    sheet: BundleSheet
    manifest: Manifest
    catalogue: Catalogue
    attestations: tuple[Attestation, ...]
    sheets: Mapping[str, bytes] = field(repr=False)
    """The bytes of each sheet but ``bundle.json``, by its name in a bundle's folder."""

    @property
    def digest(self) -> str:
        """Of the bundle."""
        return self.sheet.digest

    def attested(self, kind: str) -> tuple[Attestation, ...]:
        """All attestations of a kind."""
        return tuple(one for one in self.attestations if one.kind == kind)

    def files(self) -> Mapping[str, Mapping[str, TensorSheet]]:
        """The tensors by the file of the bundle's folder that holds them, and by name."""
        tensors = self.manifest.tensors
        decoding = {name: sheet for name, sheet in tensors.items() if name in sheets.DECODER_TENSORS}
        found = {sheets.ENCODER_FILE: {name: sheet for name, sheet in tensors.items() if name not in decoding}}
        if decoding:
            found[sheets.DECODER_FILE] = decoding
        for one in self.attested("conformance")[:1]:
            found[sheets.CONFORMANCE_FILE] = dict(read_conformance(one).tensors)
        return found

    def tensors(self) -> Mapping[str, TensorSheet]:
        """All tensors by their digest."""
        return {sheet.sha256: sheet for tensors in self.files().values() for sheet in tensors.values()}


def read_contents(data: bytes, fetch: Fetch, *, where: str) -> Contents:
    """The bundle of the sheet in ``data``; ManifestError naming the sheet that is wrong, below ``where``."""
    sheet = sheets.read_bundle_sheet(data, subject=f"{where}{sheets.BUNDLE_FILE}")
    read: dict[str, bytes] = {}

    def named(name: str, digest: str) -> bytes:
        found = fetch(name, digest)
        if canonical.digest(found) != digest:
            hint = "It was changed after the bundle was made; a change makes a new bundle."
            raise ManifestError(f"{where}{name}", found=canonical.digest(found), expected=digest, hint=hint)
        read[name] = found
        return found

    manifest_data = named(sheets.MANIFEST_FILE, sheet.weights)
    manifest = sheets.read_manifest(manifest_data, subject=f"{where}{sheets.MANIFEST_FILE}")
    catalogue_data = named(sheets.CATALOGUE_FILE, sheet.catalogue)
    attestations = []
    for kind, digest in sheet.attestations:
        path = attestation_path(kind, digest)
        attested = read_attestation(named(path, digest), subject=f"{where}{path}", weights=sheet.weights)
        if attested.kind != kind:
            raise ManifestError(f"{where}{path}: kind", found=attested.kind, expected=kind)
        attestations.append(attested)
    return Contents(
        sheet=sheet,
        manifest=manifest,
        catalogue=read_catalogue(catalogue_data, manifest, subject=f"{where}{sheets.CATALOGUE_FILE}"),
        attestations=tuple(attestations),
        sheets=read,
    )


def read_folder(folder: Path) -> Contents:
    """What the bundle in ``folder`` says; ManifestError where a sheet is missing, malformed or another one."""
    data = sheets.read_sheet(folder, sheets.BUNDLE_FILE)
    return read_contents(data, lambda name, _: sheets.read_sheet(folder, name), where=f"{folder}/")
