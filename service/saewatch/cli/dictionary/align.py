"""Find the features of an old dictionary on a new one of the same hook point, over texts that both read.

A latent is found again where the new one writes in the same direction and fires at the same time. Features whose
latents were all found keep their ids; --carry-rows takes the encoder row of any other one along, as a direction. What
is lost is listed: policies that name it would break. Limits are never carried: calibrate the new dictionary. With --out
the new bundle is written with these features, and says where they come from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saewatch import cli
from saewatch.cli import prompts
from saewatch.cli.terminal import counting
from saewatch.cli.values import bundle
from saewatch.core.attestation import read_fit
from saewatch.core.errors import MisfitError
from saewatch.dictionary.align import LIVE, Alignment, Pair, kept
from saewatch.dictionary.bundle import Parts, read_parts, write_bundle
from saewatch.dictionary.carry import Move, Moved, move, moved_parts
from saewatch.dictionary.folder import check_new

if TYPE_CHECKING:  # an extra of its own, and seconds to load
    from saewatch.score import Scorer

ENOUGH = 50_000
"""Tokens that correlations should be over: a latent that fires on 1 in 1,000 then fires on 50."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Two bundles, and texts."""
    parser.add_argument("old", type=Path, metavar="OLD", help="the bundle whose features are looked for")
    parser.add_argument("new", type=Path, metavar="NEW", help="the bundle that they are looked for in")
    parser.add_argument("--model", required=True, help="a transformers model's folder or name")
    parser.add_argument("--texts", required=True, metavar="FILE", help="prompts, as `saewatch score` reads them")
    parser.add_argument("--chat", action="store_true", help="each text is a user's message")
    parser.add_argument("--cut", action="store_true", help="cut prompts that are too long, instead of refusing them")
    parser.add_argument("--carry-rows", action="store_true", help="take rows along that are not found again")
    parser.add_argument("--device", default="cpu", help="of the model (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the new bundle with these features")


def run(options: argparse.Namespace) -> int:
    """Reads, compares, tells and writes."""
    check_new(options.out)
    old, new = (read_parts(bundle(folder)) for folder in (options.old, options.new))
    entries = prompts.texts(options.texts, "texts that both dictionaries read")
    scorer = _scorer(options, new)
    wanted = [latent for feature in old.catalogue.features for latent in feature.latents]
    alignment = Alignment(old, new, wanted)
    for ids, x in _progress(scorer, entries, options):
        both = kept(old.manifest.exclusions, ids, x) & kept(new.manifest.exclusions, ids, x)
        alignment.add(x[both])
    pairs = alignment.pairs()
    done = move(old, new, pairs, carry_rows=options.carry_rows)
    made = moved_parts(old, new, done, tokens=alignment.tokens, data=_digest(entries))
    if options.out:
        write_bundle(made, options.out)
    if options.json:
        print(json.dumps(_document(done, pairs, alignment, made)))
    else:
        print("\n".join(_lines(done, pairs, alignment)))
    return cli.GOOD


def _scorer(options: argparse.Namespace, new: Parts) -> Scorer:
    """The model with the old dictionary on it; both have to be made for it, as far as they say so."""
    made = prompts.loaded(options.model, options.old, device=options.device)
    fit = next((read_fit(one) for one in new.attestations if one.kind == "fit"), None)
    if fit is not None and fit.weights and made.opening.model_digest not in {"", fit.weights}:
        hint = "Both dictionaries have to read the same model."
        raise MisfitError("model of NEW", found=fit.weights, expected=made.opening.model_digest, hint=hint)
    return made


def _progress(
    scorer: Scorer, entries: Sequence[tuple[str, Any]], options: argparse.Namespace
) -> Iterator[tuple[list[int], Any]]:
    given = prompts.all_given(entries, chat=options.chat)
    texts = scorer.rows(given, cut=options.cut, names=[where for where, _ in entries])
    for ids, x in counting(texts, "texts", len(given)):
        yield ids, x.cpu()


def _digest(entries: Sequence[tuple[str, Any]]) -> str:
    """Of the texts, in their order."""
    data = "".join(json.dumps(entry, sort_keys=True) + "\n" for _, entry in entries)
    return f"sha256:{hashlib.sha256(data.encode()).hexdigest()}"


def _document(done: Move, pairs: Sequence[Pair], alignment: Alignment, made: Parts) -> dict[str, Any]:
    moved = [
        {"id": one.new.id, "from": one.old.id, "method": one.method, "latents": [asdict(pair) for pair in one.pairs]}
        for one in done.moved
    ]
    return {
        "bundle": made.sheet().digest,
        "weights": made.manifest.digest,
        "catalogue": made.catalogue.digest,
        "tokens": alignment.tokens,
        "whole": alignment.whole,
        "latents": {"compared": len(pairs), "live": _live(pairs), "accepted": _accepted(pairs)},
        "features": moved,
        "lost": [{"id": one.old.id, "why": one.why} for one in done.lost],
    }


def _live(pairs: Sequence[Pair]) -> int:
    return sum(pair.new is not None for pair in pairs)


def _accepted(pairs: Sequence[Pair]) -> int:
    return sum(pair.accepted for pair in pairs)


def _lines(done: Move, pairs: Sequence[Pair], alignment: Alignment) -> Iterator[str]:
    for one in done.moved:
        yield f"{one.old.id:<28}  {one.method:<8}  {_found(one)}"
    for lost in done.lost:
        yield f"{lost.old.id:<28}  LOST      {lost.why}"
    yield ""
    among = "" if alignment.whole else f" (only the nearest of {len(pairs)} that features read were compared)"
    yield f"{_accepted(pairs)} of {_live(pairs)} live latents found again, on {alignment.tokens} tokens{among}"
    if alignment.tokens < ENOUGH:
        yield f"{ENOUGH} tokens are recommended: a latent that fired on fewer than {LIVE} of them is not compared."
    kept_ids = sum(one.old.id == one.new.id for one in done.moved)
    yield f"{kept_ids} features keep their ids, {len(done.moved) - kept_ids} have new ones, {len(done.lost)} are lost."
    yield "No limit is carried: run `saewatch dictionary calibrate` on the new dictionary."


def _found(one: Moved) -> str:
    if one.pairs:
        low = min(one.pairs, key=lambda pair: pair.cos + pair.corr)
        name = f"latent {low.old} -> {low.new}" + (f", the least of {len(one.pairs)}" if len(one.pairs) > 1 else "")
        return f"{name}: cos {low.cos:.2f}, corr {low.corr:.2f}"
    return f"direction {one.new.direction}" + ("" if one.old.id == one.new.id else f", now {one.new.id}")
