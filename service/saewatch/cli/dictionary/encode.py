"""Encode rows of activations with a bundle, as a notebook would with the dictionary's own library.

Reads an .npz with the array x [n, d_in] float32. Writes one with acts [n, d_sae] float32: a column for each latent, by
its index, then one for each direction of the bundle (probes). Everything is in float32 and nothing is excluded, unless
--served asks for what the service would see. Memory does not grow with the number of rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from saewatch import cli
from saewatch.cli.output import whole
from saewatch.cli.values import bundle
from saewatch.core.errors import ConfigError
from saewatch.dictionary.encoding import encode_file


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is encoded, with what, and in which form."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument(
        "--input", type=Path, required=True, metavar="X.npz", help="rows: the array x [n, d_in] float32"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="Y.npz", help="gets acts [n, d_sae] float32")
    parser.add_argument(
        "--sparse", action="store_true", help="firings alone: row, index and value of each, and the dense shape"
    )
    parser.add_argument(
        "--served",
        action="store_true",
        help="rows in bfloat16, and the data sheet's exclusions; the input's arrays positions [n] and token_ids [n] "
        "are read where they are there, and the output gets excluded [n]",
    )
    parser.add_argument("--mode", choices=["exact", "thresholded"], default="exact", help="for latents that compete")


def run(options: argparse.Namespace) -> int:
    """Encodes, writes and says what it came to."""
    same = options.input.exists() and options.output.exists() and options.output.samefile(options.input)
    if same:
        raise ConfigError("--output", found="the file of --input", expected="another one: its rows would be lost")
    with whole(options.output) as out:
        found = encode_file(
            bundle(options.bundle), options.input, out, sparse=options.sparse, served=options.served, mode=options.mode
        )
    if options.json:
        print(json.dumps({**dataclasses.asdict(found), "output": str(options.output)}))
        return cli.GOOD
    mean = f", {found.firings / found.rows:.4g} a row" if found.rows else ""
    print(f"{found.rows} rows, {found.firings} firings{mean}, {found.excluded} rows excluded: {options.output}")
    for name in found.not_applied:
        print(f"not applied: {name}, since the input has no {NEEDS[name]}")
    return cli.GOOD


NEEDS = {"exclude_first": "positions", "special": "token_ids"}
