"""Say what makes one bundle another than the other: numbers, meaning, features, evidence."""

from __future__ import annotations

import argparse
import dataclasses
import json

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.dictionary.difference import difference


def arguments(parser: argparse.ArgumentParser) -> None:
    """The old one and the new one."""
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help=f"{stored.NAMED}, or a bundle's folder")
    stored.store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the difference."""
    registry = stored.opened_if_any(options)
    old, new = (stored.contents_of(registry, text) for text in (options.a, options.b))
    found = difference(old, new)
    if options.json:
        print(json.dumps({"a": old.digest, "b": new.digest, "same": found.nothing, **dataclasses.asdict(found)}))
    else:
        stored.show([*found.lines()])
    return cli.GOOD
