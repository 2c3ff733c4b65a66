"""Give features labels: from exports of Neuronpedia, or from a CSV that a person keeps.

An export does not say which weights it is about: --confirm-weights does. An accepted label stays, and a model's never
replaces a person's, unless --overwrite is given. The bundle in --out has the same weights and ids; new labels in it are
unreviewed. Ends with 2 when no label was taken: then nothing is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.cli.values import bundle, from_zero
from saewatch.core import limits
from saewatch.core.canonical import Json, decimal_text
from saewatch.core.label import Score, Source
from saewatch.dictionary import labels
from saewatch.dictionary.bundle import Parts, read_parts, write_bundle
from saewatch.dictionary.labels import Proposal, Relabelled
from saewatch.dictionary.labelsheet import read_label_sheet
from saewatch.dictionary.neuronpedia import Explanation, Export, batches, best, check_weights, read_export


def arguments(parser: argparse.ArgumentParser) -> None:
    """The dictionary, the labels, and which of them are taken."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the dictionary's bundle")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--neuronpedia", type=Path, nargs="+", metavar="PATH", help="batches of explanations, or folders"
    )
    given.add_argument(
        "--csv", type=Path, metavar="FILE", help="feature or latent, label, and what docs/labels.md lists"
    )
    parser.add_argument("--confirm-weights", default="", metavar="DIGEST", help="the weights that an export is about")
    parser.add_argument("--explainer", default="", metavar="MODEL", help="only explanations that this model wrote")
    parser.add_argument("--latent", type=from_zero(int), action="append", default=[], help="only these; repeatable")
    parser.add_argument("--new", default="", metavar="CONCEPT", help="make features of it for latents that have none")
    parser.add_argument("--overwrite", action="store_true", help="replace what a person wrote or accepted as well")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="write the relabelled bundle there")
    parser.add_argument("--replace", action="store_true", help="put it in the place of another bundle")


def run(options: argparse.Namespace) -> int:
    """Reads, relabels, writes and tells."""
    parts = read_parts(bundle(options.bundle))
    export: Export | None = None
    if options.csv:
        for option in ("latent", "explainer"):
            if getattr(options, option):
                raise cli.UsageError(f"--{option}", found="given", expected="nothing: a CSV says what it is about")
        if options.confirm_weights:
            check_weights(options.confirm_weights, parts.manifest.digest)
        sheet = read_label_sheet(options.csv)
        method, data, proposals = "csv", sheet.digest, list(sheet.proposals)
    else:
        export, proposals = _explained(options, parts)
        method, data = "neuronpedia", export.digest
    made = labels.relabelled(
        parts.catalogue, parts.manifest, proposals, concept=options.new, overwrite=options.overwrite
    )
    touched = {*made.changed, *made.added}
    told: dict[str, Json] = {"labels": list[Json](sorted(touched)), **(_kept(export, made) if export else {})}
    attested = labels.attestation(parts.manifest.digest, made.catalogue, method, data, **told)
    parts = dataclasses.replace(parts, catalogue=made.catalogue, attestations=[*parts.attestations, attested])
    if touched:
        write_bundle(parts, options.out, replace=options.replace)
    document = _document(made, parts, options.out if touched else None)
    print(json.dumps(document)) if options.json else stored.show([*_lines(made, document)])
    return cli.GOOD if touched else cli.FAILED


def _explained(options: argparse.Namespace, parts: Parts) -> tuple[Export, list[Proposal]]:
    """The explanations of wanted latents, and a label for each of them."""
    check_weights(options.confirm_weights, parts.manifest.digest)
    chosen = set(options.latent)
    if not chosen and not options.new:
        chosen = {latent for one in parts.catalogue.features for latent in one.latents}
    export = read_export(
        batches(options.neuronpedia),
        latents=parts.manifest.encoder.latents,
        wanted=frozenset(chosen) if chosen or not options.new else None,
    )
    by_latent: dict[int, list[Explanation]] = {}
    for one in export.explanations:
        by_latent.setdefault(one.latent, []).append(one)
    picked = [best(group, model=options.explainer) for _, group in sorted(by_latent.items())]
    return export, [_proposal(one) for one in picked if one is not None]


def _proposal(one: Explanation) -> Proposal:
    return Proposal(
        where=one.where,
        source=Source(kind="neuronpedia", model=one.model),
        label=one.text,
        latent=one.latent,
        score=None if one.score is None else Score(claimed=one.score),
    )


def _kept(export: Export, made: Relabelled) -> dict[str, Json]:
    """All explanations of the latents that got a label, as the attestation keeps them."""
    touched = {*made.changed, *made.added}
    latents = {latent for one in made.catalogue.features if one.id in touched for latent in one.latents}
    explanations: list[Json] = [
        {
            "latent": one.latent,
            "text": one.text,
            "model": one.model,
            "method": one.method,
            "score": None if one.score is None else decimal_text(one.score),
        }
        for one in export.explanations
        if one.latent in latents
    ]
    return {"model": export.model, "source": export.source, "explanations": explanations}


def _document(made: Relabelled, parts: Parts, out: Path | None) -> dict[str, Any]:
    return {
        "bundle": parts.sheet().digest if out else None,
        "out": str(out) if out else None,
        "weights_digest": parts.manifest.digest,
        "catalogue_digest": made.catalogue.digest,
        "changed": list(made.changed),
        "added": list(made.added),
        "kept": list(made.kept),
        "unnamed": made.unnamed,
    }


def _lines(made: Relabelled, document: dict[str, Any]) -> Iterator[str]:
    features = {one.id: one for one in made.catalogue.features}
    for state, names in (("new", made.added), ("label", made.changed), ("kept", made.kept)):
        for name in names[: limits.LISTED]:
            yield f"{state:<5}  {name:<26}  {labels.told(features[name])}"
        if len(names) > limits.LISTED:
            yield f"{state:<5}  {len(names) - limits.LISTED} more"
    yield f"{len(made.added)} features added, {len(made.changed)} labels changed, {len(made.kept)} of a person's kept"
    if made.unnamed:
        yield f"{made.unnamed} labels are of latents without a feature: --new CONCEPT makes one for each."
    if document["out"] is None:
        yield "no label was taken, so nothing was written"
        return
    yield f"bundle     {document['bundle']} in {document['out']}"
    yield f"weights    {document['weights_digest']}, as before: no engine is touched"
    yield f"catalogue  {document['catalogue_digest']}"
