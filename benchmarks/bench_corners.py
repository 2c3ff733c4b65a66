"""Every corner of the engine, run for real: benchmarks/corners.py as a table.

    python -m benchmarks.bench_corners [--quick] [--json OUT] [--cells NAME,…] [--resume] [--check]

A row is a play in a configuration, at one hook point, or what its books came to.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import corners, form
from benchmarks.bench_matrix import tap_code
from benchmarks.cells import CellError
from benchmarks.corners import CORNERS

_SUMS = ("requests", "rows", "duplicates", "missing", "unknown", "recomputed", "beyond")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cells; 0 when they ran, 1 when one could not, 2 when a result was wrong, 3 with --check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cells", default="", help="corners, by name")
    parser.add_argument("--quick", action="store_true", help="those of the everyday tests")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 3 when a goal is not met")
    options = parser.parse_args(argv)
    names = (
        options.cells.split(",")
        if options.cells
        else [n for n, c in CORNERS.items() if c.everyday or not options.quick]
    )
    rows = _rows_before(options) if options.resume else []
    done = {row["corner"] for row in rows}
    for name in names:
        if name in done:
            continue
        found = measure(name)
        print("\n".join(map(json.dumps, found)), file=sys.stderr)
        rows += found
        if options.json:
            form.write(options.json, _document(rows, quick=options.quick))
    result = _document(rows, quick=options.quick)
    print(json.dumps({"facts": result["facts"], "correctness": result["correctness"]}, indent=1))
    if any(row["why"].startswith("could not run") for row in rows):
        return 1
    unmet = any(goal["met"] == "no" for goal in result["goals"].values())
    return 2 if result["facts"]["wrong"] else 3 if options.check and unmet else 0


def measure(name: str) -> list[dict[str, Any]]:
    """One configuration's rows."""
    with tempfile.TemporaryDirectory(prefix="saewatch-", ignore_cleanup_errors=True) as folder:
        try:
            rows = corners.run(name, Path(folder))
        except CellError as error:
            rows = [{"corner": name, "play": "", "why": f"could not run: {error}"}]
    return [{**row, "code": tap_code()} for row in rows]


def _rows_before(options: argparse.Namespace) -> list[dict[str, Any]]:
    if not (options.json and options.json.exists()):
        return []
    rows: list[dict[str, Any]] = json.loads(options.json.read_text())["rows"]
    wrong = {row["corner"] for row in rows if row["why"] or row["code"] != tap_code()}
    return [row for row in rows if row["corner"] not in wrong]


def _document(rows: list[dict[str, Any]], *, quick: bool) -> dict[str, Any]:
    plays = [row for row in rows if row["play"] != "books"]
    wrong, ran = sum(bool(row["why"]) for row in rows), {row["corner"] for row in rows}
    facts = {name: sum(row.get(name, 0) for row in plays) for name in _SUMS}
    return form.document(
        "corners",
        facts={"configurations": len(ran), "cases": len(rows), "wrong": wrong, **facts},
        correctness={
            name: sum(row.get(name, 0) for row in plays) for name in ("compared", "mismatched", "in_grey_band")
        },
        rows=rows,
        not_run=[{"cell": name, "why": "not asked for"} for name in CORNERS if name not in ran],
        goals={"V1": form.goal("cases that are not right", float(wrong), "cases", accept=0, target=0)},
        quick=quick,
    )


if __name__ == "__main__":
    sys.exit(main())
