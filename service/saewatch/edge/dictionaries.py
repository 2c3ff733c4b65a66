"""Loads what the sidecar has to know of each dictionary: data sheet, catalogue, model and adapters, but no tensors.

They come from the folder of a bundle, or from a recording that holds the same files; what is checked is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from saewatch.core import canonical
from saewatch.core import manifest as sheets
from saewatch.core.attestation import Attestation, read_adapter, read_attestation, read_fit
from saewatch.core.catalogue import read_catalogue
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.core.fields import Fields
from saewatch.edge import evidence
from saewatch.monitor.tables import KnownDictionary

READ = ("fit", "adapter", *evidence.KINDS)
"""Kinds of attestations that the sidecar reads."""


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
    return replace(known(files(folder), where=f"{folder}/"), folder=str(folder.absolute()))


def files(folder: Path) -> Mapping[str, bytes]:
    """What of a bundle makes its dictionary known, by the names in its folder. Raises `ManifestError`."""
    data = sheets.read_sheet(folder, sheets.BUNDLE_FILE)
    sheet = sheets.read_bundle_sheet(data, subject=str(folder / sheets.BUNDLE_FILE))
    attested = [sheets.attestation_path(kind, digest) for kind, digest in sheet.attestations if kind in READ]
    names = [sheets.MANIFEST_FILE, sheets.CATALOGUE_FILE, *attested]
    return {sheets.BUNDLE_FILE: data, **{name: sheets.read_sheet(folder, name) for name in names}}


def known(found: Mapping[str, bytes], *, where: str) -> KnownDictionary:
    """The dictionary of a bundle's `files`; ``where`` stands before their names in messages.

    Raises `ManifestError` for a file that is missing, malformed or not the one that the bundle names.
    """
    data = _present(found, sheets.BUNDLE_FILE, where)
    sheet = sheets.read_bundle_sheet(data, subject=f"{where}{sheets.BUNDLE_FILE}")
    data = _named(found, sheets.MANIFEST_FILE, sheet.weights, where)
    manifest = sheets.read_manifest(data, subject=f"{where}{sheets.MANIFEST_FILE}")
    data = _named(found, sheets.CATALOGUE_FILE, sheet.catalogue, where)
    return KnownDictionary(
        manifest=manifest,
        catalogue=read_catalogue(data, manifest, subject=f"{where}{sheets.CATALOGUE_FILE}"),
        weights_digest=sheet.weights,
        catalogue_digest=sheet.catalogue,
        bundle_digest=sheet.digest,
        model_id=next((read_fit(one).model for one in _attested(found, sheet, where, "fit")), ""),
        adapters=frozenset(
            read_adapter(Fields(one.body, "adapter: ")).name for one in _attested(found, sheet, where, "adapter")
        ),
        evidence=evidence.checked(one for kind in evidence.KINDS for one in _attested(found, sheet, where, kind)),
    )


def _attested(found: Mapping[str, bytes], sheet: sheets.BundleSheet, where: str, wanted: str) -> Iterator[Attestation]:
    """The attestations of one kind."""
    for kind, digest in sheet.attestations:
        if kind == wanted:
            path = sheets.attestation_path(kind, digest)
            data = _named(found, path, digest, where)
            yield read_attestation(data, subject=f"{where}{path}", weights=sheet.weights)


def _named(found: Mapping[str, bytes], name: str, expected: str, where: str) -> bytes:
    """A file that the bundle names by its digest."""
    data = _present(found, name, where)
    digest = canonical.digest(data)
    if digest != expected:
        hint = "The bundle names another file: fetch it again as a whole."
        raise ManifestError(f"{where}{name}", found=digest, expected=expected, hint=hint)
    return data


def _present(found: Mapping[str, bytes], name: str, where: str) -> bytes:
    if name not in found:
        raise ManifestError(f"{where}{name}", found="nothing", expected="a file of the bundle")
    return found[name]
