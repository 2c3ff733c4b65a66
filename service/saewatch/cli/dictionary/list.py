"""List the bundles of the store, and what refers to them."""

from __future__ import annotations

import argparse
import json
from typing import Any

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.core.errors import SaewatchError
from saewatch.core.label import ACCEPTED
from saewatch.dictionary.registry import Registry
from saewatch.dictionary.store import BUNDLES


def arguments(parser: argparse.ArgumentParser) -> None:
    """The store."""
    stored.store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a line for each bundle, and what refers to it."""
    registry = stored.opened(options)
    damaged = registry.damaged()
    references = registry.references(without=damaged)
    found = [_bundle(registry, digest, references.get(digest, [])) for digest in registry.store.digests(BUNDLES)]
    slots = {str(slot): dict(registry.current(slot)) for slot in registry.slots() if slot not in damaged}
    if options.json:
        told = {str(slot): why for slot, why in damaged.items()}
        print(json.dumps({"bundles": found, "slots": slots, "damaged": told}))
    else:
        lines = [_line(one) for one in found] or ["the store has no bundles"]
        stored.show([*lines, *stored.damage(damaged)])
    return cli.GOOD


def _bundle(registry: Registry, digest: str, referenced: list[str]) -> dict[str, Any]:
    """Its figures; of one that is damaged, in what way."""
    try:
        contents = registry.store.contents(digest)
    except SaewatchError as error:
        return {"bundle": digest, "damaged": str(error), "referenced": referenced}
    encoder = contents.manifest.encoder
    return {
        "bundle": digest,
        "weights_digest": contents.sheet.weights,
        "catalogue_digest": contents.sheet.catalogue,
        "hook_point": contents.manifest.hook_point,
        "activation": encoder.activation,
        "latents": encoder.latents,
        "directions": encoder.directions,
        "features": len(contents.catalogue.features),
        "accepted": sum(one.review_state == ACCEPTED for one in contents.catalogue.features),
        "loadable": not registry.store.missing(contents),
        "referenced": referenced,
    }


def _line(one: dict[str, Any]) -> str:
    by = ", ".join(one["referenced"]) or "not referred to"
    if "damaged" in one:
        return f"{one['bundle'][:19]}  DAMAGED: {one['damaged']}; {by}"
    what = f"{one['hook_point']} {one['activation']} {one['latents']}+{one['directions']}"
    what += f", {one['features']} features, {one['accepted']} accepted"
    return f"{one['bundle'][:19]}  {what}{'' if one['loadable'] else ', tensors collected'}; {by}"
