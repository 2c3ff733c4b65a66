"""Take a bundle into the store. What the store has already, it shares: a relabelled bundle costs its sheets alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.cli.values import bundle
from saewatch.dictionary.store import BUNDLES


def arguments(parser: argparse.ArgumentParser) -> None:
    """The bundle's folder, and the store."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    stored.store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Adds it and prints its digests."""
    folder = bundle(options.bundle)
    store = stored.opened(options, create=True).store
    before = set(store.digests(BUNDLES))
    found = store.add(folder)
    new = found.digest not in before
    if options.json:
        sheet = found.sheet
        digests = {"bundle": found.digest, "weights_digest": sheet.weights, "catalogue_digest": sheet.catalogue}
        print(json.dumps({**digests, "hook_point": found.manifest.hook_point, "new": new}))
    else:
        print(f"{found.digest} {'added' if new else 'was there already'}, for {found.manifest.hook_point}")
    return cli.GOOD
