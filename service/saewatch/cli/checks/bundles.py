"""The dictionaries: each bundle sound by its digests, what is attested of it, and whether it fits the model.

Every byte of a bundle is read and hashed, as the engine does when it starts, without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from saewatch.cli.checks.finding import Finding, Setup, failed, good, refused, unverified, warning
from saewatch.cli.checks.tables import table
from saewatch.core import canonical
from saewatch.core.attestation import Attestation, Conformance, Fit, read_attestation, read_conformance, read_fit
from saewatch.core.errors import ManifestError, SaewatchError, TensorFileError
from saewatch.core.fit import ModelFacts, verify_fit
from saewatch.core.manifest import (
    BUNDLE_FILE,
    CONFORMANCE_FILE,
    DECODER_FILE,
    DECODER_TENSORS,
    ENCODER_FILE,
    TensorSheet,
    attestation_path,
    read_bundle_sheet,
)
from saewatch.core.tensorfile import digests
from saewatch.dictionary.model import facts_at
from saewatch.edge.dictionaries import load_one
from saewatch.monitor.tables import KnownDictionary

FETCH = "Fetch the bundle again as a whole, or import the dictionary anew."
PROVEN = {
    "weights": "by the digest of the weights",
    "config": "by tokenizer and configuration; its weights were not compared",
    "shape": "by shape alone",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What was read of one bundle."""

    name: str
    known: KnownDictionary
    attestations: tuple[Attestation, ...]
    fit: Fit | None
    conformance: Conformance | None
    unsound: tuple[SaewatchError, ...]
    """What is wrong with its tensors."""
    model: ModelFacts | None
    """The model to compare it with, if one was named."""
    series: int
    """Series of one metric, at most."""


def examine(setup: Setup) -> Iterator[Finding]:
    """Every check of this group, for each bundle."""
    model = None
    if setup.model is not None:
        try:
            model = facts_at(setup.model, digests=True)
        except SaewatchError as error:
            yield refused(error, hint="Name the model's folder.")
        else:
            yield from architecture(model)
    if not setup.dictionaries:
        hint = "Name a bundle with --dictionary, or a configuration with -c."
        yield unverified("dictionaries", "none", expected="the bundles that are watched", hint=hint)
    for folder in setup.dictionaries:
        try:
            seen = look(folder, model, setup.series)
        except SaewatchError as error:
            yield refused(error, hint=FETCH)
        else:
            for check in CHECKS:
                yield from check(seen)


def look(folder: Path, model: ModelFacts | None, series: int) -> Bundle:
    """Reads one bundle. ManifestError for sheets that are missing, malformed, or not those that it names."""
    known = load_one(folder)
    attestations = tuple(_attestations(folder))
    kinds = {one.kind: one for one in reversed(attestations)}  # the first of a kind
    conformance = read_conformance(kinds["conformance"]) if "conformance" in kinds else None
    tensors = known.manifest.tensors
    files: Mapping[str, Mapping[str, TensorSheet]] = {
        ENCODER_FILE: {name: sheet for name, sheet in tensors.items() if name not in DECODER_TENSORS},
        DECODER_FILE: {name: sheet for name, sheet in tensors.items() if name in DECODER_TENSORS},
        CONFORMANCE_FILE: conformance.tensors if conformance else {},
    }
    return Bundle(
        name=folder.name,
        known=known,
        attestations=attestations,
        fit=read_fit(kinds["fit"]) if "fit" in kinds else None,
        conformance=conformance,
        unsound=tuple(error for name, sheets in files.items() if sheets for error in _unsound(folder / name, sheets)),
        model=model,
        series=series,
    )


# --- checks -----------------------------------------------------------------------------------------------------------
def architecture(model: ModelFacts) -> Iterator[Finding]:
    """Whether the tap knows the hook points of the model."""
    families = table("families", "FAMILIES")
    subject, found = "model", f"{model.architecture}, {model.layers} layers, {model.d_model} wide"
    if model.architecture in families:
        yield good(subject, found)
    else:
        hint = "The tap refuses it. Set `on_failure: serve` to run it unwatched."
        yield failed(subject, found, expected=f"one of {', '.join(families)}", hint=hint)


def sound(seen: Bundle) -> Iterator[Finding]:
    """Whether every file is the one that the bundle names."""
    sheet = seen.known.manifest.encoder
    for error in seen.unsound:
        yield refused(error, of=seen.name, hint=FETCH)
    if not seen.unsound:
        what = f"{sheet.latents} latents and {sheet.directions} directions on {seen.known.manifest.hook_point}"
        yield good(seen.name, f"{what}, {seen.known.weights_digest[:19]}, sound by its digests")


def catalogue(seen: Bundle) -> Iterator[Finding]:
    """Whether its features can have series on the metrics page; what is on it, `pages.series` sees."""
    subject, features = f"{seen.name}: catalogue", len(seen.known.catalogue.features)
    if not features:
        hint = "Add features to the catalogue: nothing is watched without."
        yield failed(subject, "no features", expected="one at least", hint=hint)
    elif features > seen.series:
        hint = "Raise `limits.series`, or watch fewer; what is beyond it is in saewatch_series_dropped_total."
        yield warning(subject, f"{features} features", expected=f"at most {seen.series} series of a metric", hint=hint)
    else:
        yield good(subject, f"{features} features; {seen.series // features} engines fit into one metric's series")


def attested(seen: Bundle) -> Iterator[Finding]:
    """What is known of it besides its weights."""
    subject, kinds = f"{seen.name}: attestations", sorted({one.kind for one in seen.attestations})
    missing = [kind for kind in ("conformance", "fit") if kind not in kinds]
    if missing:
        hint = "Import the dictionary with its library and its model: then both are stored with it."
        found = f"no {' and no '.join(missing)}"
        yield warning(subject, found, expected="rows to test the encoder with, and the model that it is for", hint=hint)
    else:
        yield good(subject, ", ".join(kinds))


def fits(seen: Bundle) -> Iterator[Finding]:
    """Whether it was made for the model, and how far that is proven."""
    subject = f"{seen.name}: fit"
    if seen.model is None:
        hint = "Name the model with --model."
        made_for = seen.known.model_id or "not stated"
        yield unverified(subject, f"made for {made_for}", expected="the model that is served", hint=hint)
        return
    try:
        proof = verify_fit(seen.known.manifest, seen.fit, seen.model)
    except SaewatchError as error:
        yield refused(error, of=seen.name)
        return
    found = f"fits, {PROVEN[proof]}"
    if proof == "weights":
        yield good(subject, found)
    else:
        hint = "Name the folder that holds the model's weights, and import the dictionary for that model."
        yield warning(subject, found, expected=PROVEN["weights"], hint=hint)


CHECKS: tuple[Callable[[Bundle], Iterator[Finding]], ...] = (sound, catalogue, attested, fits)


# --- looking ----------------------------------------------------------------------------------------------------------
def _attestations(folder: Path) -> Iterator[Attestation]:
    """Those that the bundle names; ManifestError for one that is missing or another."""
    sheet = read_bundle_sheet((folder / BUNDLE_FILE).read_bytes())
    for kind, digest in sheet.attestations:
        path = attestation_path(kind, digest)
        try:
            data = (folder / path).read_bytes()
        except OSError as error:
            raise ManifestError(str(folder / path), found=error.strerror, expected="a file", hint=FETCH) from error
        if canonical.digest(data) != digest:
            raise ManifestError(str(folder / path), found=canonical.digest(data), expected=digest, hint=FETCH)
        yield read_attestation(data, subject=path, weights=sheet.weights)


def _unsound(path: Path, sheets: Mapping[str, TensorSheet]) -> Iterator[SaewatchError]:
    """What is wrong with a file of tensors."""
    try:
        found = dict(digests(path))
    except TensorFileError as error:
        yield error
        return
    for name in sorted(found.keys() ^ sheets.keys()):
        there = "present" if name in found else "nothing"
        yield TensorFileError(f"{path.name}: {name}", found=there, expected="as in the data sheet", hint=FETCH)
    for name in sorted(found.keys() & sheets.keys()):
        if found[name] != sheets[name].sha256:
            yield TensorFileError(f"{path.name}: {name}", found=found[name], expected=sheets[name].sha256, hint=FETCH)
