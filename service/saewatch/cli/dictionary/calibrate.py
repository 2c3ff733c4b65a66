"""Choose a limit for each feature from benign requests, for a stated rate of false alarms.

With confidence 1 - DELTA at most the share ALPHA of benign requests lies over a limit, as long as live ones are drawn
as these were. What a limit does is measured on --labelled: other requests, which share no text, template or author with
the benign ones. Files hold prompts as `saewatch score` reads them, with "concept" (null: none), and "template" or
"author" where requests resemble one another. Without enough benign requests a feature stays experimental and gets no
limit. Ends with 2 when no feature got one: then nothing is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saewatch import cli
from saewatch.cli import prompts
from saewatch.cli.dictionary import labelled
from saewatch.cli.dictionary.labelled import Labelled
from saewatch.cli.dictionary.worth import Asked, told
from saewatch.cli.output import whole
from saewatch.cli.values import above_zero, bundle, from_zero
from saewatch.core import aggregate
from saewatch.core.batch import F64
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError
from saewatch.dictionary import calibrate
from saewatch.dictionary.bundle import read_parts, write_bundle
from saewatch.dictionary.calibration import KIND, Calibration, Experimental, Limit, Served, read_calibration
from saewatch.dictionary.promise import Promise
from saewatch.edge.dictionaries import load_one

if TYPE_CHECKING:  # an extra of its own, and seconds to load
    from saewatch.score import Scored, Scorer


def arguments(parser: argparse.ArgumentParser) -> None:
    """The dictionary, the requests, and what is to be promised."""
    rate = from_zero(float, 1)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the dictionary's bundle")
    parser.add_argument("--benign", required=True, metavar="FILE", help="requests that limits are chosen on")
    parser.add_argument("--labelled", metavar="FILE", help="requests that they are tested on")
    parser.add_argument("--chosen-on", action="append", default=[], metavar="FILE", help=CHOSEN_ON)
    parser.add_argument("--model", required=True, help="a transformers model's folder or name")
    parser.add_argument("--alpha", type=rate, default=0.01, help="share of benign requests over a limit (%(default)s)")
    parser.add_argument("--delta", type=rate, default=0.05, help="chance that it is more (%(default)s)")
    parser.add_argument("--family", action="store_true", help="promise it for all limits together, not for each")
    parser.add_argument("--aggregation", metavar="HOW", help="max, topM, KofN, runR or mean; else the catalogue's")
    parser.add_argument("--feature", action="append", default=[], metavar="ID", help="only these; repeatable")
    parser.add_argument("--prevalence", type=rate, default=0.01, help="share of requests with a concept (%(default)s)")
    parser.add_argument("--requests-per-day", type=above_zero(float), metavar="N", help="tell alerts a day at so many")
    parser.add_argument("--mode", choices=["exact", "thresholded"], default="exact", help="for latents that compete")
    parser.add_argument("--chat", action="store_true", help="each text is a user's message")
    parser.add_argument("--generate", type=from_zero(int), default=0, metavar="N", help="tokens of a greedy answer")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the model (%(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="of the model and the encoder (%(default)s)")
    parser.add_argument("--date", type=dt.date.fromisoformat, help="of the calibration, as YYYY-MM-DD; else today")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the attestation there")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="write a bundle with it; it replaces older limits")


CHOSEN_ON = "requests that features were trained or chosen on, which the others must not share; repeatable"


def run(options: argparse.Namespace) -> int:
    """Scores, chooses, tests, tells and writes."""
    known = {feature.concept for feature in load_one(bundle(options.bundle)).catalogue.features}
    benign = labelled.read(options.benign, known)
    held_out = labelled.read(options.labelled, known) if options.labelled else None
    sets = {"benign": benign.keys} | ({"labelled": held_out.keys} if held_out else {})
    sets |= {name: labelled.read(name, known).keys for name in options.chosen_on}
    calibrate.check_apart(sets)
    scorer = _scorer(options)
    features = [_feature(one, options.aggregation) for one in scorer.table.features]
    labelled.check_benign(benign, {one.concept for one in features})
    promise = Promise(alpha=options.alpha, delta=options.delta, family=len(features) if options.family else 1)
    scores = _scored(scorer, features, benign, options, options.benign).scores
    chosen: list[Limit | Experimental] = [
        calibrate.choose(one, row, promise) for one, row in zip(features, scores, strict=True)
    ]
    if held_out:
        seen = _scored(scorer, features, held_out, options, options.labelled)
        chosen = list(_tested(features, chosen, seen, held_out))
    made = Calibration(
        weights=scorer.opening.weights_digest,
        promise=promise,
        served=Served.of(scorer.opening, prompts.reader(options.dtype)),
        date=options.date or dt.datetime.now(tz=dt.UTC).date(),
        scores=calibrate.scores_digest(features, scores),
        benign=benign.data,
        held_out=held_out.data if held_out else None,
        limits=tuple(one for one in chosen if isinstance(one, Limit)),
        experimental=tuple(one for one in chosen if isinstance(one, Experimental)),
    )
    if made.limits:
        _write(made, options)
    asked = Asked(prevalence=options.prevalence, requests=options.requests_per_day)
    print(told(made, asked, as_json=options.json))
    return cli.GOOD if made.limits else cli.FAILED


def _feature(feature: Feature, aggregation: str | None) -> Feature:
    return feature if aggregation is None else dataclasses.replace(feature, aggregation=aggregation)


def _scorer(options: argparse.Namespace) -> Scorer:
    """ConfigError for an aggregation that there is not, before the model is loaded."""
    if options.aggregation is not None:
        aggregate.read(options.aggregation)
    chosen = {"features": options.feature, "mode": options.mode}
    scorer: Scorer = prompts.scoring().Scorer.load(
        options.model,
        options.bundle,
        dtype=options.dtype,
        device=options.device,
        progress=sys.stderr.isatty(),
        **chosen,
    )
    return scorer


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Requests of one file as scores."""

    scores: F64  # [features, R]
    lengths: F64  # [features, R] scored tokens in each feature's scope


def _scored(
    scorer: Scorer, features: Sequence[Feature], requests: Labelled, options: argparse.Namespace, name: str
) -> _Seen:
    given = [prompts.given(entry, prompts.scoring(), chat=options.chat) for _, entry in requests.entries]
    names = [where for where, _ in requests.entries]
    each = scorer.each(given, generate=options.generate, names=names)
    scores = scorer.together(_progress(each, len(given), name))
    coverage = scores.coverage
    print(f"saewatch: {name}: {coverage}", file=sys.stderr)
    if coverage.not_finite:
        hint = "Try --dtype float32."
        raise ConfigError("model", found=f"{coverage.not_finite} rows that are no numbers", expected="none", hint=hint)
    read, firings = scores.columns()
    lengths = [read.tokens(one.scope) for one in features]
    return _Seen(aggregate.scores(features, read, firings), np.array(lengths, np.float64))


def _progress(each: Iterator[Scored], count: int, name: str) -> Iterator[Scored]:
    for number, one in enumerate(each, start=1):
        if sys.stderr.isatty():
            end = "\r\x1b[K" if number == count else ""
            print(f"\r\x1b[K{name}: {number} of {count} requests{end}", end="", file=sys.stderr, flush=True)
        yield one


def _tested(
    features: Sequence[Feature], chosen: Sequence[Limit | Experimental], seen: _Seen, requests: Labelled
) -> Iterator[Limit | Experimental]:
    negative = np.array([not concepts for concepts in requests.concepts], bool)
    for feature, one, scores, lengths in zip(features, chosen, seen.scores, seen.lengths, strict=True):
        positive = np.array([feature.concept in concepts for concepts in requests.concepts], bool)
        if isinstance(one, Experimental):
            yield one
        else:
            found = calibrate.tested(one.limit, scores, positive=positive, negative=negative, lengths=lengths)
            yield dataclasses.replace(one, held_out=found)


def _write(made: Calibration, options: argparse.Namespace) -> None:
    attestation = made.attestation()
    if options.out:
        with whole(options.out) as partial:
            partial.write_bytes(attestation.data())
    if options.into:
        parts = read_parts(options.bundle)
        named = _features(made)
        kept = [one for one in parts.attestations if one.kind != KIND or not named & _features(read_calibration(one))]
        write_bundle(dataclasses.replace(parts, attestations=[*kept, attestation]), options.into)


def _features(made: Calibration) -> set[str]:
    return {one.feature for one in made.limits} | {one.feature for one in made.experimental}
