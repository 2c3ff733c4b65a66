"""Make the folder of a stored bundle, which engines, sidecars and other verbs load: the bytes that were added."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from saewatch import cli
from saewatch.cli.dictionary import stored


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which bundle, and where to."""
    parser.add_argument("bundle", metavar="B", help=stored.NAMED)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    stored.store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Exports it; a folder that holds it already is as good."""
    registry = stored.opened(options)
    digest = stored.digest_of(registry, options.bundle)
    registry.store.export(digest, options.out)
    said = {"bundle": digest, "out": str(options.out.absolute())}
    print(json.dumps(said) if options.json else f"{digest} is in {options.out}")
    return cli.GOOD
