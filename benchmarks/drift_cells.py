"""Cells on simulated weeks, one after the other: a row each, written as soon as it is there; --resume goes on."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks import form

Row = dict[str, Any]
Measure = Callable[[str], Row]
"""A cell's row, by its name. One that knows better what it took says its ``seconds``."""
Document = Callable[[argparse.Namespace, Sequence[Row], Sequence[dict[str, str]]], dict[str, Any]]
"""The result: of the options, the rows, and the cells that were not run."""


def run(
    argv: Sequence[str] | None,
    name: str,
    *,
    says: str | None,
    cells: Collection[str],
    prepare: Callable[[argparse.Namespace], Measure],
    document: Document,
) -> int:
    """Measures and judges; 0 when it ran, 1 for a cell that there is not, 2 and 3 as `form.finish`."""
    options = _parser(says, cells).parse_args(argv)
    wanted = options.cells.split(",") if options.cells else list(cells)
    if unknown := set(wanted) - set(cells):
        print(f"no such cell: {', '.join(sorted(unknown))}; there is {', '.join(cells)}", file=sys.stderr)
        return 1
    before, measure = _kept(options), prepare(options)
    rows: list[Row] = []
    not_run: list[dict[str, str]] = []
    for cell in cells:
        if cell in before:
            rows.append(before[cell])
        elif cell in wanted:
            print(f"{name}: {cell}", file=sys.stderr, flush=True)
            began = time.monotonic()
            row = {"cell": cell, **measure(cell), "code": code(options)}
            rows.append({**row, "seconds": row.get("seconds", round(time.monotonic() - began, 1))})
        else:
            not_run.append({"cell": cell, "why": "not asked for"})
        if options.json:
            form.write(options.json, document(options, rows, not_run))
    result = document(options, rows, not_run)
    return form.finish(result, options.json, wrong=result["correctness"]["mismatched"] > 0, check=options.check)


def code(options: argparse.Namespace) -> str:
    """What rows are measured with; those of other code are not kept."""
    return form.code_of("service/saewatch/monitor/drift") + ("-quick" if options.quick else "")


def _parser(says: str | None, cells: Collection[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=says, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small world and little of it: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the result there, after each cell")
    parser.add_argument("--cells", metavar="NAMES", help=f"of {', '.join(cells)}; with commas; else all")
    parser.add_argument("--resume", action="store_true", help="keep rows of the result that is there")
    parser.add_argument("--check", action="store_true", help="exit 3 when a goal is not met")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "saewatch-drift", help="keep simulated weeks there"
    )
    return parser


def _kept(options: argparse.Namespace) -> dict[str, Row]:
    if not (options.resume and options.json and options.json.exists()):
        return {}
    rows = json.loads(options.json.read_text())["rows"]
    return {row["cell"]: row for row in rows if row.get("code") == code(options)}
