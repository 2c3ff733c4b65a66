"""Read the whole store again: every file by its digest, every journal, every ref. Ends with 2 when one is damaged.

What a crash left is recovered first and said: a line that was never finished, a ref that is behind its journal.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.core.footprint import mib
from saewatch.dictionary.verify import Verified, verify


def arguments(parser: argparse.ArgumentParser) -> None:
    """The store."""
    stored.store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Verifies and prints what was found."""
    found = verify(stored.opened(options))
    if options.json:
        print(json.dumps({"good": found.good, **dataclasses.asdict(found)}))
    else:
        stored.show(_lines(found))
    return cli.GOOD if found.good else cli.FAILED


def _lines(found: Verified) -> list[str]:
    lines = [f"DAMAGED: {one}" for one in found.damage]
    lines += [f"recovered: {one}" for one in found.recovered]
    lines += [f"collected: the tensors of {one[:19]}; it can be read, not loaded" for one in found.without_tensors]
    read = f"{found.files} files of {mib(found.bytes)}, {found.bundles} bundles, {found.journal_lines} moves of refs"
    lines.append(f"{read}; {found.unreferenced} files of no bundle")
    lines.append(f"{len(found.damage)} damaged" if found.damage else "nothing is damaged")
    return lines
