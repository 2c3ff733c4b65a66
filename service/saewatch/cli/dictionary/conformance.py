"""Compare a bundle with the library that its source was made with: is it read right?

Rows are made so that latents fire, and encoded by both. Firings may differ only where float32 does not decide (the
grey band), and values by 1e-5 of the row's largest. Ends with 2 when they differ by more, or when nothing fired. The
library must be installed beside saewatch, which does not need it otherwise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from saewatch import cli
from saewatch.cli.values import bundle, from_zero
from saewatch.core import limits
from saewatch.core.errors import UnreachableError
from saewatch.dictionary.conformance import Compared, conformance
from saewatch.dictionary.oracle import ORACLES


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is compared, with what, and on which rows."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument("--source", type=Path, required=True, metavar="PATH", help="the folder that it was made from")
    parser.add_argument("--against", choices=list(ORACLES), required=True, help="the library that reads that folder")
    count = from_zero(int, limits.CONFORMANCE_ROWS)
    parser.add_argument("--rows", type=count, default=256, metavar="N", help="rows that are made (%(default)s)")
    parser.add_argument("--input", type=Path, metavar="X.npz", help="compare these rows too: x [n, d_in] float32")
    parser.add_argument("--seed", type=from_zero(int, 2**63 - 1), default=0, metavar="S", help="of the made rows")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="read weights that are kept in a pickle, restricted and apart"
    )


def run(options: argparse.Namespace) -> int:
    """Compares and prints; fails when they differ."""
    if not options.source.is_dir():
        raise UnreachableError(str(options.source), found="no folder", expected="the folder that the library loads")
    if not options.rows and options.input is None:
        raise cli.UsageError("--rows", found=0, expected="some rows, or --input")
    found = conformance(
        bundle(options.bundle),
        options.source,
        options.against,
        rows=options.rows,
        given=options.input,
        seed=options.seed,
        allow_pickle=options.allow_pickle,
    )
    print(json.dumps(found.facts()) if options.json else "\n".join(_lines(found)))
    return cli.GOOD if found.good else cli.FAILED


def _lines(found: Compared) -> Iterator[str]:
    verdict = found.verdict
    yield f"{verdict.oracle}, {found.rows} rows of {found.latents} latents: {verdict.compared} firings compared"
    differ = f"{verdict.mismatched} differ, {verdict.in_grey_band} more inside the grey band"
    yield f"{differ}; values by {verdict.error_max:.1e} of the row's largest"
    if found.directions:
        yield f"{found.directions} directions were not compared: the library has none"
    if found.good:
        yield "read right"
    elif verdict.compared:
        yield "NOT READ RIGHT: the bundle does not encode what its library encodes"
    else:
        yield "NOTHING FIRED: nothing was compared; give rows of activations with --input"
