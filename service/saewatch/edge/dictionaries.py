"""Loads what the sidecar has to know of each configured dictionary: data sheet, catalogue and model, but no tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from saewatch.core import canonical, limits
from saewatch.core import manifest as sheets
from saewatch.core.attestation import read_attestation, read_fit
from saewatch.core.catalogue import read_catalogue
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.monitor.tables import KnownDictionary


def load(folders: Iterable[Path]) -> Mapping[str, KnownDictionary]:
    """The dictionaries of these bundles by weights digest.

    Raises:
        ManifestError: a sheet is missing, malformed or not the one that its bundle names.
        ConfigError: two bundles hold the same dictionary.
    """
    found: dict[str, KnownDictionary] = {}
    for index, folder in enumerate(folders):
        known = load_one(folder)
        if known.weights_digest in found:
            raise ConfigError(
                f"dictionaries[{index}]",
                found=f"{folder}, the same dictionary as one before it",
                expected="each dictionary once",
                hint="Keep the bundle with the catalogue that is to be in force.",
            )
        found[known.weights_digest] = known
    return found


def load_one(folder: Path) -> KnownDictionary:
    """The dictionary of one bundle. Raises `ManifestError`."""
    data = _read(folder, sheets.BUNDLE_FILE)
    sheet = sheets.read_bundle_sheet(data, subject=str(folder / sheets.BUNDLE_FILE))
    manifest = sheets.read_manifest(
        _named(folder, sheets.MANIFEST_FILE, sheet.weights), subject=str(folder / sheets.MANIFEST_FILE)
    )
    catalogue = read_catalogue(
        _named(folder, sheets.CATALOGUE_FILE, sheet.catalogue), manifest, subject=str(folder / sheets.CATALOGUE_FILE)
    )
    return KnownDictionary(
        manifest=manifest,
        catalogue=catalogue,
        weights_digest=sheet.weights,
        catalogue_digest=sheet.catalogue,
        bundle_digest=sheet.digest,
        model_id=_model(folder, sheet),
    )


def _model(folder: Path, sheet: sheets.BundleSheet) -> str:
    """The model that the dictionary was made for, where that is attested."""
    for kind, digest in sheet.attestations:
        if kind == "fit":
            path = sheets.attestation_path(kind, digest)
            attested = read_attestation(_named(folder, path, digest), subject=path, weights=sheet.weights)
            return read_fit(attested).model
    return ""


def _named(folder: Path, name: str, digest: str) -> bytes:
    """A file that the bundle names by its digest."""
    data = _read(folder, name)
    found = canonical.digest(data)
    if found != digest:
        hint = "The bundle names another file: fetch it again as a whole."
        raise ManifestError(str(folder / name), found=found, expected=digest, hint=hint)
    return data


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        with path.open("rb") as file:
            data = file.read(limits.MANIFEST_BYTES + 1)
    except OSError as error:
        hint = "Name the folder of a bundle, the one with bundle.json in it."
        raise ManifestError(str(path), found=error.strerror, expected="a file that can be read", hint=hint) from error
    if len(data) > limits.MANIFEST_BYTES:
        raise ManifestError(str(path), found="a larger file", expected=f"at most {limits.MANIFEST_BYTES} bytes")
    return data
