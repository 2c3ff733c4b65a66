"""Check a configuration and everything that it names, without serving."""

from __future__ import annotations

import argparse
import datetime as dt
import json
from pathlib import Path

from saewatch import config as settings
from saewatch import logs
from saewatch.app import check_canaries, split_listen
from saewatch.edge import baselines, dictionaries, policies, webhooks
from saewatch.edge.shelf import Shelf


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with which file."""
    parser.add_argument("action", choices=["check"], help="check: say whether `saewatch serve` would take it")
    parser.add_argument("file", type=Path, help="saewatch.yaml")


def run(options: argparse.Namespace) -> int:
    """Checks it as `saewatch serve` would, up to the sockets."""
    logs.set_up("warning")
    config = settings.load(options.file)
    for field, address in (("grpc.listen", config.grpc.listen), ("web.listen", config.web.listen)):
        split_listen(field, address)
    known = dictionaries.load(Path(one) for one in config.dictionaries)
    today = dt.datetime.now(tz=dt.UTC).date()
    found = policies.checked(settings.read_policies(config.policies), known.values(), today)
    rules = sum(len(one.rules) for one in found)
    webhooks.load(config.webhooks)
    baselines.load(config.baselines)
    shelf = Shelf(known, store=Path(config.store) if config.store else None)
    check_canaries(config.canaries, shelf.within_reach())
    if options.json:
        print(json.dumps({"good": True, **config.model_dump(mode="json"), "weights": sorted(known)}))
    else:
        print(f"{options.file}: good; {len(known)} dictionaries, {rules} rules")
    return 0
