"""List the bundles of the store, and what refers to them."""

from __future__ import annotations

import argparse
import json
from typing import Any

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.dictionary.registry import Registry
from saewatch.dictionary.store import BUNDLES


def arguments(parser: argparse.ArgumentParser) -> None:
    """The store."""
    stored.store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a line for each bundle, and where each ref points."""
    registry = stored.opened(options)
    found = [*_bundles(registry)]
    slots = {str(slot): dict(registry.current(slot)) for slot in registry.slots()}
    if options.json:
        print(json.dumps({"bundles": found, "slots": slots}))
    else:
        stored.show([_line(one) for one in found] or ["the store has no bundles"])
    return cli.GOOD


def _bundles(registry: Registry) -> list[dict[str, Any]]:
    references = registry.references()
    found = []
    for digest in registry.store.digests(BUNDLES):
        contents = registry.store.contents(digest)
        encoder = contents.manifest.encoder
        found.append(
            {
                "bundle": digest,
                "weights_digest": contents.sheet.weights,
                "catalogue_digest": contents.sheet.catalogue,
                "hook_point": contents.manifest.hook_point,
                "activation": encoder.activation,
                "latents": encoder.latents,
                "directions": encoder.directions,
                "features": len(contents.catalogue.features),
                "loadable": not registry.store.missing(contents),
                "referenced": references.get(digest, []),
            }
        )
    return found


def _line(one: dict[str, Any]) -> str:
    what = f"{one['hook_point']} {one['activation']} {one['latents']}+{one['directions']}, {one['features']} features"
    collected = "" if one["loadable"] else ", tensors collected"
    by = ", ".join(one["referenced"]) or "not referred to"
    return f"{one['bundle'][:19]}  {what}{collected}; {by}"
