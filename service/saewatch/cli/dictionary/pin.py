"""Keep a bundle's tensors, whatever refers to it; with --remove, no longer."""

from __future__ import annotations

import argparse
import json

from saewatch import cli
from saewatch.cli.dictionary import stored


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which bundle."""
    parser.add_argument("bundle", metavar="B", help=stored.NAMED)
    parser.add_argument("--remove", action="store_true", help="take the pin away")
    stored.store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Pins or unpins it."""
    registry = stored.opened(options, writes=True)
    digest = stored.digest_of(registry, options.bundle)
    (registry.unpin if options.remove else registry.pin)(digest)
    said = {"bundle": digest, "pinned": not options.remove}
    print(json.dumps(said) if options.json else f"{digest} {'is no longer pinned' if options.remove else 'is pinned'}")
    return cli.GOOD
