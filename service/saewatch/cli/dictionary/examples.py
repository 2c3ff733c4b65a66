"""Gather examples of what each feature fires on, and of what it does not: from texts, or from a recording.

They are written to a folder of their own, outside of the bundle, for its owner alone. What they hold of the requests is
--content: none (positions, values and the requests' names), ids, or text. A recording holds no text; --texts beside it
gives it, as lines of a *.jsonl file with "request", the client's id or the engine's. --show prints a feature's examples
of a folder that is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saewatch import cli, logs
from saewatch.cli import prompts, recordings
from saewatch.cli.dictionary import labelled, shown, stored
from saewatch.cli.output import whole
from saewatch.cli.terminal import counting
from saewatch.cli.values import bundle, from_zero
from saewatch.core import limits
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.manifest import BUNDLE_FILE
from saewatch.dictionary.calibration import KIND as CALIBRATION
from saewatch.dictionary.calibration import read_calibration
from saewatch.dictionary.contents import Contents, read_folder
from saewatch.dictionary.examplefile import CONTENTS, FILE, NONE, TEXT, Head, example_lines, read_examples
from saewatch.dictionary.examples import Collector, Seen
from saewatch.edge.dictionaries import load_one
from saewatch.edge.requests import RecordedRequest, RecordedRequests

if TYPE_CHECKING:  # an extra of its own, and seconds to load
    from saewatch.score import Scored


def arguments(parser: argparse.ArgumentParser) -> None:
    """The dictionary, the requests, and what is kept of them."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the dictionary's bundle")
    parser.add_argument("--texts", metavar="FILE", help="prompts, as `saewatch score` reads them")
    parser.add_argument("--recording", type=Path, metavar="FILE", help="of `saewatch record`, instead of reading texts")
    parser.add_argument("--model", help="a transformers model's folder or name, which reads the texts")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the examples")
    parser.add_argument("--show", metavar="ID", help="print this feature's examples in --out, and gather none")
    parser.add_argument("--content", choices=CONTENTS, default=NONE, help="what they hold of texts (%(default)s)")
    parser.add_argument("--feature", action="append", default=[], metavar="ID", help="only these; repeatable")
    parser.add_argument("--each", type=from_zero(int, limits.EXAMPLES_EACH), default=12, help="of a kind (%(default)s)")
    window = {"type": from_zero(int, limits.EXAMPLE_WINDOW), "default": 16}
    parser.add_argument("--window", **window, help="tokens on either side (%(default)s)")  # type: ignore[arg-type]  # its own words
    parser.add_argument("--seed", type=from_zero(int, 2**31), default=0, help="of what is drawn (%(default)s)")
    parser.add_argument("--mode", choices=["exact", "thresholded"], default="exact", help="for latents that compete")
    parser.add_argument("--chat", action="store_true", help="each text is a user's message")
    parser.add_argument("--cut", action="store_true", help="cut prompts that are too long, instead of refusing them")
    parser.add_argument("--generate", type=from_zero(int), default=0, metavar="N", help="tokens of a greedy answer")
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--dtype", choices=dtypes, default="float32", help="of the model (%(default)s)")
    parser.add_argument("--device", default="cpu", help="of the model and the encoder (%(default)s)")
    parser.add_argument("--replace", action="store_true", help="put them in the place of other examples")


def run(options: argparse.Namespace) -> int:
    """Gathers and writes, or shows."""
    _check(options)
    contents = read_folder(bundle(options.bundle))
    if options.show:
        return shown.show(read_examples(options.out, contents.manifest.digest), contents, options)
    features = contents.catalogue.chosen(options.feature)
    if len(features) > limits.EXAMPLE_FEATURES:
        hint = "Name some with --feature."
        expected = f"at most {limits.EXAMPLE_FEATURES} at a time"
        raise ConfigError("features", found=len(features), expected=expected, hint=hint)
    if (options.out / BUNDLE_FILE).exists():
        hint = "What users wrote would go wherever the bundle goes."
        raise ConfigError(str(options.out), found="a bundle", expected="a folder of their own", hint=hint)
    if (options.out / FILE).exists() and not options.replace:
        raise ConfigError(str(options.out), found="other examples", expected="a new folder, or --replace")
    collector = Collector(
        features, limits=_limits(contents, features), each=options.each, window=options.window, seed=options.seed
    )
    head = _recorded(options, collector) if options.recording else _read(options, collector)
    head = replace(head, catalogue=contents.catalogue.digest, features=len(features), tokens=collector.tokens)
    found = collector.found()
    digest = _write(options.out, head, found)
    told = [
        {"feature": one.feature, "fired": one.fired, "firing": len(one.firing), "contrasting": len(one.contrasting)}
        for one in found
    ]
    document = {"out": str(options.out), "digest": digest, "content": head.content, "requests": head.requests}
    document |= {"tokens": head.tokens, "encoded": head.encoded, "data": head.data, "features": told}
    print(json.dumps(document)) if options.json else stored.show([*_lines(document)])
    return cli.GOOD


def _check(options: argparse.Namespace) -> None:
    """UsageError for options that do not go together."""
    if options.out is None:
        raise cli.UsageError("--out", found="nothing", expected="the folder of the examples")
    if options.show:
        return
    if not (options.texts or options.recording):
        raise cli.UsageError("--texts", found="nothing", expected="--texts and --model, or --recording")
    if bool(options.texts) != bool(options.model):
        raise cli.UsageError("--model", found="one of --texts and --model", expected="both")
    if options.recording and not options.texts and options.content != NONE:
        expected = "--texts and --model beside a recording, which holds no text"
        raise cli.UsageError("--content", found=options.content, expected=expected)
    if options.each < 1:
        raise cli.UsageError("--each", found=options.each, expected="at least 1")


def _limits(contents: Contents, features: Sequence[Feature]) -> dict[str, float]:
    """Calibrated limits of features whose score is their maximum, so that one peak decides."""
    found: dict[str, float] = {}
    for calibration in map(read_calibration, contents.attested(CALIBRATION)):
        for one in features:
            limit = calibration.limit_of(one)
            if limit is not None and one.aggregation == "max" and not one.head:
                found[one.id] = limit.limit
    return found


# --- from texts -------------------------------------------------------------------------------------------------------
def _read(options: argparse.Namespace, collector: Collector) -> Head:
    entries = prompts.texts(options.texts, "texts that features fire on")
    given = prompts.all_given(entries, chat=options.chat)
    names = [where for where, _ in entries]
    scorer = labelled.scorer(options, options.feature)
    if options.content == TEXT and scorer.tokenizer is None:
        raise ConfigError("--content", found="a model without a tokenizer", expected="ids or none")
    encoded = 0
    each = scorer.each(given, generate=options.generate, cut=options.cut, names=names)
    for index, one in enumerate(counting(each, "texts", len(given))):
        encoded += one.coverage.encoded
        name = entries[index][1].get("request") or names[index].rpartition("/")[2]
        collector.add(_seen(str(name), one, options.content))
    return _head(options, scorer.opening.weights_digest, scorer.opening.model_digest, collector, encoded)


def _seen(name: str, one: Scored, content: str) -> Seen:
    """A scored text as the collector takes it. Ids are looked at whatever is kept: words of peaks are met again."""
    fed = len(one.excluded)
    return Seen(
        name=name,
        tokens=fed,
        prompt_len=one.prompt_len,
        position=one.position.astype(np.int64),
        feature=one.feature.astype(np.int64),
        value=one.value,
        ids=one.ids[:fed].tolist(),
        pieces=one.pieces[:fed] if content == TEXT else (),
        unread=np.flatnonzero(one.excluded),
    )


# --- from a recording -------------------------------------------------------------------------------------------------
def _recorded(options: argparse.Namespace, collector: Collector) -> Head:
    known = load_one(options.bundle)
    places = {one.id: place for place, one in enumerate(known.catalogue.chosen(options.feature))}
    texts = _texts(options) if options.texts else {}
    model, encoded = "", 0
    logs.set_up("warning")
    with recordings.opened(options.recording) as recording:
        requests = RecordedRequests(recording, known)
        for one in counting(iter(requests), "requests"):
            model, encoded = one.table.stream.opening.model_digest, encoded + int(one.seen.sum())
            collector.add(_replayed(one, places, texts, options.content))
    left_out = "; ".join(f"{count} ({why})" for why, count in sorted(requests.left_out.items()))
    if not collector.requests:
        there = ", ".join(one[:19] for one in requests.weights) or "none"
        found = f"none; streams of dictionaries {there}; left out: {left_out or 'none'}"
        raise ConfigError(str(options.recording), found=found, expected=f"requests of {known.weights_digest[:19]}")
    if left_out:
        print(f"saewatch: {options.recording}: left out: {left_out}", file=sys.stderr)
    return _head(options, known.weights_digest, model, collector, encoded)


def _texts(options: argparse.Namespace) -> dict[str, tuple[list[int], tuple[str, ...]]]:
    """Token ids and pieces of the texts that name a request."""
    entries = [(where, entry) for where, entry in prompts.entries(options.texts) if entry.get("request")]
    scorer = labelled.scorer(options, options.feature)
    read = scorer.tokens(prompts.all_given(entries, chat=options.chat), names=[where for where, _ in entries])
    ids = [[*one.prompt, *one.answer] for one in read]
    return {str(entry["request"]): (own, scorer.pieces(own)) for (_, entry), own in zip(entries, ids, strict=True)}


def _replayed(
    one: RecordedRequest,
    places: Mapping[str, int],
    texts: Mapping[str, tuple[list[int], tuple[str, ...]]],
    content: str,
) -> Seen:
    """A recorded request; its text, if there is one, must be as long as what was seen of it."""
    client, engine, tokens = one.identity.client_id, one.identity.engine_id, len(one.seen)
    ids, pieces = texts.get(client) or texts.get(engine) or ([], ())
    if ids and len(ids) < tokens:
        hint = "A recording has the answer's tokens too: give them as tokens and answer."
        raise ConfigError(f"text of {client or engine}", found=f"{len(ids)} tokens", expected=f"{tokens}", hint=hint)
    feature = np.array([places.get(of.id, -1) for of in one.table.features], np.int64)[one.feature]
    kept = feature >= 0
    return Seen(
        name=client or engine,
        tokens=tokens,
        prompt_len=one.identity.prompt_len,
        position=one.position[kept].astype(np.int64),
        feature=feature[kept],
        value=one.value[kept],
        ids=ids[:tokens],
        pieces=pieces[:tokens] if content == TEXT else (),
        unread=np.flatnonzero(~one.seen),
    )


# --- writing ----------------------------------------------------------------------------------------------------------
def _head(options: argparse.Namespace, weights: str, model: str, collector: Collector, encoded: int) -> Head:
    return Head(
        weights=weights,
        catalogue="",
        data=labelled.digest(str(options.recording or options.texts)),
        content=options.content,
        model=model,
        requests=collector.requests,
        tokens=0,
        encoded=encoded,
        each=options.each,
        window=options.window,
        seed=options.seed,
        features=0,
    )


def _write(out: Path, head: Head, found: Sequence[Any]) -> str:
    """The file's digest. The folder is its owner's, as the file is."""
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnreachableError(str(out), found=error.strerror, expected="a folder that can be made") from error
    made = hashlib.sha256()
    with whole(out / FILE) as partial, partial.open("wb") as file:
        for line in example_lines(head, found):
            made.update(line)
            file.write(line)
    return f"sha256:{made.hexdigest()}"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    yield f"{'feature':<26}  {'fired in':>10}  {'firing':>6}  {'contrasting':>11}"
    for one in document["features"]:
        yield f"{one['feature']:<26}  {one['fired']:>10}  {one['firing']:>6}  {one['contrasting']:>11}"
    seen = f"{document['encoded']} of {document['tokens']} tokens"
    yield f"{document['requests']} requests, {seen} were read by the dictionary; content: {document['content']}"
    yield f"examples   {document['digest']} in {document['out']}"
