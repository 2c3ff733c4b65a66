"""Let a chat endpoint name what features fire on, and measure each label on examples that it was not made from.

Every question goes to URL/chat/completions, as OpenAI's API has it, with texts of --examples in it: for a host that is
not this machine --send-text says that they may leave it. --dry-run tells how many questions it takes, and asks none. A
label that a person wrote or accepted is measured and left, unless --overwrite is given; new labels are unreviewed. What
was done is noted beside --out, so that the same command goes on where it was interrupted. Ends with 2 when no feature
got a label or a score, and with 3 when the endpoint does not answer.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.cli.dictionary.progress import Progress
from saewatch.cli.terminal import counting
from saewatch.cli.values import above_zero, bundle, from_zero
from saewatch.core.canonical import Json
from saewatch.core.catalogue import Catalogue, Feature
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.label import Source
from saewatch.dictionary import autolabel, labels
from saewatch.dictionary.autolabel import Measured, Split
from saewatch.dictionary.bundle import read_parts, write_bundle
from saewatch.dictionary.endpoint import Endpoint, loopback
from saewatch.dictionary.examplefile import TEXT, ExampleFile, read_examples
from saewatch.dictionary.folder import check_new, check_replaceable
from saewatch.dictionary.labels import Proposal

FAULTS_IN_A_ROW = 3
"""Features without a usable answer, one after the other: then the endpoint is not asked again."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The dictionary, its examples, and whom to ask."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the dictionary's bundle")
    parser.add_argument("--examples", type=Path, required=True, metavar="DIR", help="with --content text")
    parser.add_argument("--endpoint", required=True, metavar="URL", help="up to and with /v1")
    parser.add_argument("--model", required=True, metavar="NAME", help="as the endpoint names it")
    parser.add_argument("--key-env", default="", metavar="NAME", help="the environment variable that holds the key")
    parser.add_argument("--send-text", action="store_true", help="texts may be sent to a host that is not this machine")
    parser.add_argument("--dry-run", action="store_true", help="tell what it takes, and ask nothing")
    parser.add_argument("--measure", action="store_true", help="measure the labels that are there, and write no other")
    parser.add_argument("--feature", action="append", default=[], metavar="ID", help="only these; repeatable")
    parser.add_argument("--overwrite", action="store_true", help="replace what a person wrote or accepted as well")
    parser.add_argument("--timeout", type=above_zero(float), default=60.0, metavar="S", help="one answer (%(default)s)")
    parser.add_argument("--tries", type=above_zero(int), default=3, help="of one question (%(default)s)")
    parser.add_argument(
        "--seed", type=from_zero(int, 2**31), default=0, help="of how examples are parted (%(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the relabelled bundle there")
    parser.add_argument("--replace", action="store_true", help="put it in the place of another bundle")


@dataclass(frozen=True, slots=True)
class _Task:
    """One feature: its examples, and whether it is to get a new label."""

    feature: Feature
    parts: Split
    naming: bool


def run(options: argparse.Namespace) -> int:
    """Plans, asks, writes and tells."""
    parts = read_parts(bundle(options.bundle))
    examples = read_examples(options.examples, parts.manifest.digest)
    if examples.head.content != TEXT:
        hint = "Gather them again with --content text."
        raise ConfigError(str(options.examples), found=f"content {examples.head.content}", expected="text", hint=hint)
    tasks, skipped = _planned(options, parts.catalogue, examples)
    if options.dry_run:
        return _told_beforehand(options, tasks, skipped)
    endpoint = _endpoint(options)
    if options.out is None:
        raise cli.UsageError("--out", found="nothing", expected="a folder, or --dry-run")
    (check_replaceable if options.replace else check_new)(options.out)
    identity = {"weights": parts.manifest.digest, "examples": examples.digest, "model": options.model}
    identity |= {"prompts": autolabel.prompts_digest(), "seed": str(options.seed)}
    with Progress(options.out, identity) as progress:
        failed = _ask(tasks, endpoint, progress, options)
        done = [one for task in tasks if (one := _noted(task, progress)) is not None]
        proposals = [_proposal(one, options.model) for one in done]
        made = labels.relabelled(parts.catalogue, parts.manifest, proposals, overwrite=True)
        told: dict[str, Json] = {
            "model": options.model,
            "prompts": autolabel.prompts_digest(),
            "seed": options.seed,
            "requests": examples.head.requests,
            "requests_data": examples.head.data,
            "labels": list[Json](one.json() for one in done),
        }
        attested = labels.attestation(parts.manifest.digest, made.catalogue, "auto", examples.digest, **told)
        new = replace(parts, catalogue=made.catalogue, attestations=[*parts.attestations, attested])
        if done:
            write_bundle(new, options.out, replace=options.replace)
            progress.finish()
    document = {
        "bundle": new.sheet().digest if done else None,
        "out": str(options.out) if done else None,
        "catalogue_digest": made.catalogue.digest,
        "calls": endpoint.calls,
        "labels": [{**one.json(), "verdict": one.verdict} for one in done],
        "failed": failed,
        "skipped": skipped,
    }
    print(json.dumps(document)) if options.json else stored.show([*_lines(done, document)])
    return cli.GOOD if done else cli.FAILED


def _planned(
    options: argparse.Namespace, catalogue: Catalogue, examples: ExampleFile
) -> tuple[list[_Task], dict[str, str]]:
    """What is to be asked, and why some features are not."""
    by_id = {one.feature: one for one in examples.features}
    tasks, skipped = [], {}
    for feature in catalogue.chosen(options.feature):
        found = by_id.get(feature.id)
        parts = None if found is None else autolabel.split(found, seed=options.seed)
        if parts is None or parts.lacking:
            skipped[feature.id] = parts.lacking if parts else "no examples"
            continue
        free = options.overwrite or labels.yields(feature, Source(kind="auto"))
        tasks.append(_Task(feature, parts, naming=free and not options.measure))
    return tasks, skipped


def _told_beforehand(options: argparse.Namespace, tasks: Sequence[_Task], skipped: Mapping[str, str]) -> int:
    calls = sum(task.parts.calls(naming=task.naming) for task in tasks)
    naming = sum(task.naming for task in tasks)
    leaves = not loopback(options.endpoint)
    document = {"features": len(tasks), "named": naming, "calls": calls, "leaves": leaves, "skipped": dict(skipped)}
    if options.json:
        print(json.dumps(document))
        return cli.GOOD
    lines = [f"{naming} features would be named, {len(tasks) - naming} labels measured, with {calls} questions"]
    lines += [f"to {options.endpoint}, {'which is NOT this machine: texts leave it' if leaves else 'this machine'}"]
    stored.show([*lines, *(f"skipped    {name}: {why}" for name, why in skipped.items())])
    return cli.GOOD


def _endpoint(options: argparse.Namespace) -> Endpoint:
    """UsageError where texts would leave the machine and nobody said that they may."""
    if not loopback(options.endpoint) and not options.send_text:
        found = "a host that is not this machine"
        raise cli.UsageError("--endpoint", found=found, expected="--send-text, since texts of users may be sent to it")
    key = ""
    if options.key_env and not (key := os.environ.get(options.key_env, "")):
        raise ConfigError("--key-env", found=f"no {options.key_env} in the environment", expected="the key in it")
    return Endpoint(options.endpoint, options.model, key=key, timeout_s=options.timeout, tries=options.tries)


def _ask(tasks: Sequence[_Task], endpoint: Endpoint, progress: Progress, options: argparse.Namespace) -> dict[str, str]:
    """Asks what is not known yet; gives the features without a usable answer, and why."""
    failed: dict[str, str] = {}
    in_a_row = 0
    for task in counting(iter(tasks), "features", len(tasks)):
        name = task.feature.id
        if _noted(task, progress) is not None:
            continue
        try:
            text = autolabel.name(endpoint, task.parts) if task.naming else task.feature.label
            measured = autolabel.measure(endpoint, name, text, task.parts, named=task.naming, seed=options.seed)
        except UnreachableError as error:
            failed[name] = str(error)
            in_a_row += 1
            if in_a_row == FAULTS_IN_A_ROW or len(failed) == len(tasks):
                hint = f"{len(progress.done)} features are noted; the same command goes on from there."
                raise UnreachableError(error.subject, found=error.found, expected=error.expected, hint=hint) from error
            continue
        in_a_row = 0
        progress.note(measured)
    return failed


def _noted(task: _Task, progress: Progress) -> Measured | None:
    """What is known of a feature, if it is what is asked now."""
    known = progress.done.get(task.feature.id)
    if known is None or known.named != task.naming or (not task.naming and known.label != task.feature.label):
        return None
    return known


def _proposal(one: Measured, model: str) -> Proposal:
    return Proposal(
        where=one.feature,
        source=Source(kind="auto", model=model),
        label=one.label if one.named else "",
        feature=one.feature,
        score=one.score,
    )


def _lines(done: Sequence[Measured], document: dict[str, Any]) -> Iterator[str]:
    for one in done:
        how = "named" if one.named else "there"
        yield f"{one.verdict:<10}  {one.feature:<26}  {how}: {one.label}; {labels.worth(one.score)}"
    yield from (f"failed      {name:<26}  {why}" for name, why in document["failed"].items())
    yield from (f"skipped     {name:<26}  {why}" for name, why in document["skipped"].items())
    yield f"{document['calls']} questions; on held-out examples of which {_firing_share(done)} fire"
    yield "Intervals are of 95 %. A score says whether the label predicts firings, not what they do."
    if document["out"] is None:
        yield "no label was made, so nothing was written"
        return
    yield f"bundle     {document['bundle']} in {document['out']}"
    yield f"catalogue  {document['catalogue_digest']}; the weights are as before: no engine is touched"


def _firing_share(done: Sequence[Measured]) -> str:
    fires = sum(one.recall.n for one in done)
    every = fires + sum(one.silent for one in done)
    return f"{fires} of {every}"
