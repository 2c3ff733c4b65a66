"""Make a bundle of a dictionary that others trained: read its format, fold it, check it, write it.

The format is recognised by keys and shapes. What the files do not say (which tensor of the model is read, how many
latents win) is asked for by an option. Exit 2: the dictionary is refused, and the message says which file and field,
and why. docs/dictionaries.md has the formats.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saewatch import cli
from saewatch.cli.values import above_zero
from saewatch.core.errors import AccessError, ConfigError, UnreachableError
from saewatch.core.label import spelt
from saewatch.dictionary import hub
from saewatch.dictionary.attest import FEATURES
from saewatch.dictionary.convert import Sources, make_bundle, read_sources
from saewatch.dictionary.formats import CONVERTERS, Asked
from saewatch.dictionary.oracle import ORACLES, Oracle

_WITHOUT = "Use --no-oracle."


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where it lies, where the bundle goes, and what the files do not say."""
    count = above_zero(int)
    model = "folder of the served model: the bundle then says which one it fits, and leaves out its special tokens"
    oracle = "check against the dictionary's own library, and keep its answers in the bundle (else: where it can be)"
    ignored = "a key of the configuration that decides nothing about what fires; repeatable"
    parser.add_argument("path", metavar="PATH", help="a folder, a file of weights, or hub:org/name[@revision][/folder]")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder")
    parser.add_argument("--format", choices=list(CONVERTERS), default="", help="where several would do, or to be told")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help=model)
    parser.add_argument("--name", default="", help="what the dictionary is called (else as its folder)")
    parser.add_argument("--hook-point", metavar="POINT", help="what it reads, such as resid_post.14")
    parser.add_argument("--hook-out", metavar="POINT", help="where a transcoder's output goes, such as mlp_out.14")
    parser.add_argument("--k", type=count, metavar="K", help="how many latents win")
    parser.add_argument("--mean-norm", type=above_zero(float), metavar="X", help="average norm of the rows in training")
    parser.add_argument(
        "--threshold", type=above_zero(float), metavar="X", help="for TopK: stands in for the competition, on request"
    )
    parser.add_argument("--ignore", action="append", default=[], metavar="KEY", help=ignored)
    parser.add_argument("--allow-pickle", action="store_true", help="read checkpoints, in a restricted process")
    parser.add_argument("--allow-hub", action="store_true", help="fetch what hub: names")
    parser.add_argument("--oracle", action=argparse.BooleanOptionalAction, default=None, help=oracle)
    parser.add_argument("--replace", action="store_true", help="put it in the place of another bundle")


def run(options: argparse.Namespace) -> int:
    """Imports and prints."""
    path = _path(options.path, allowed=options.allow_hub, pickles=options.allow_pickle)
    if options.model is not None and not options.model.is_dir():
        raise UnreachableError(str(options.model), found="no folder", expected="the served model's folder")
    asked = Asked(
        format=options.format,
        hook_point=options.hook_point,
        hook_out=options.hook_out,
        k=options.k,
        mean_norm=options.mean_norm,
        allow_pickle=options.allow_pickle,
        ignore=frozenset(options.ignore),
    )
    sources = read_sources(path, asked)
    oracle = _oracle(sources, wanted=options.oracle)
    sheet = make_bundle(
        sources,
        options.model,
        options.out,
        name=spelt(options.name, subject="--name") if options.name else "",
        oracle=oracle,
        threshold=options.threshold,
        replace_bundle=options.replace,
    )
    told = {
        "bundle": str(options.out),
        "bundle_digest": sheet.digest,
        "weights_digest": sheet.weights,
        "catalogue_digest": sheet.catalogue,
        "format": sources.first.format,
        "architecture": sources.first.architecture,
        "warnings": list(_warnings(sources, options, oracle)),
    }
    print(json.dumps(told) if options.json else "\n".join(_lines(told)))
    return cli.GOOD


def _path(text: str, *, allowed: bool, pickles: bool) -> Path:
    if text.startswith(hub.PREFIX):
        if not allowed:
            hint = "It would be fetched over the network. Say --allow-hub if that is wanted."
            raise AccessError(text, found="a name on a hub", expected="a folder, or --allow-hub", hint=hint)
        return hub.fetch(text, pickles=pickles)
    path = Path(text)
    if not path.exists():
        hint = f"A name on a hub is written {hub.PREFIX}org/name."
        raise UnreachableError(text, found="nothing of this name", expected="a folder or a file of weights", hint=hint)
    return path


def _oracle(sources: Sources, *, wanted: bool | None) -> Oracle | None:
    """The library to check against. ConfigError where one is wanted and there is none for this dictionary."""
    latents = sources.latents
    found = ORACLES.get(latents.format) if latents is not None else None
    if latents is None or found is None or sorted(latents.files) != sorted(found.files):
        if wanted:
            missing = f"none for these files of {sources.first.format}" if found else f"none for {sources.first.format}"
            raise ConfigError("--oracle", found=missing, expected="the dictionary's own library", hint=_WITHOUT)
        return None
    if wanted and not found.installed:
        missing = f"{found.package}, which is not installed"
        raise ConfigError("--oracle", found=missing, expected="the dictionary's own library", hint=_WITHOUT)
    return found if found.installed and wanted is not False else None


def _warnings(sources: Sources, options: argparse.Namespace, oracle: Oracle | None) -> Iterable[str]:
    if sources.latents is not None:
        yield from sources.latents.warnings
    if options.model is None:
        yield "no --model: nothing says which model it fits, and a tokenizer's special tokens are not left out"
    if oracle is None:
        yield "not checked against the dictionary's own library: the bundle has no conformance rows"
    if not (sources.folder / FEATURES).is_file():
        yield f"no {FEATURES}: the catalogue is empty"


def _lines(told: dict[str, Any]) -> Iterable[str]:
    width = max(map(len, told))
    for name, value in told.items():
        if name != "warnings":
            yield f"{name:<{width}}  {value}"
    for warning in told["warnings"]:
        yield f"{'warning':<{width}}  {warning}"
