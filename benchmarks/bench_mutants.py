"""Would we notice? Faults are planted in the tap, one at a time, and something must catch each.

The faults are in benchmarks/mutants.py: those that taps of this kind were found with, and some of our own. What catches
one: the *self-test* (the engine does not start), the *books* (the accounting equality, or positions that nobody booked)
or *parity* (other firings than transformers and SAELens give). An engine without a fault must pass all three.

    python -m benchmarks.bench_mutants [--quick] [--json OUT] [--cells NAME,…] [--resume]
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
from benchmarks.bench_matrix import judged, tap_code
from benchmarks.cells import Bench, CellError
from benchmarks.mutants import BEFORE, MUTANTS
from saewatch.core.hookpoint import HookPoint

QUICK = ("none", "shape_only_liveness", "no_residual", "first_request_only")
CELLS = ("none", *MUTANTS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cells; 0 when they ran, 2 when a fault was not caught or a sound tap was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--quick", "--resume"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cells", default="")
    options = parser.parse_args(argv)
    cells = options.cells.split(",") if options.cells else QUICK if options.quick else CELLS
    rows = [row for row in _rows_before(options) if row["code"] == tap_code() and row["caught_by"] != "a crash"]
    for cell in cells:
        if cell not in {row["case"] for row in rows}:
            rows.append({**measure(cell), "code": tap_code()})
            print(json.dumps(rows[-1]), file=sys.stderr)
            if options.json:
                form.write(options.json, _document(rows, quick=options.quick))
    result = _document(rows, quick=options.quick)
    print(json.dumps(result["facts"], indent=1))
    if options.json:
        form.write(options.json, result)
    unmet = any(goal["met"] == "no" for goal in result["goals"].values())
    return 2 if unmet else 0


def _rows_before(options: argparse.Namespace) -> list[dict[str, Any]]:
    if not (options.resume and options.json and options.json.exists()):
        return []
    rows: list[dict[str, Any]] = json.loads(options.json.read_text())["rows"]
    return rows


def measure(name: str) -> dict[str, Any]:
    """One fault's row: what caught it, empty for nothing, and what was seen."""
    says = MUTANTS[name].says if name in MUTANTS else "a sound tap"
    with tempfile.TemporaryDirectory(prefix="saewatch-", ignore_cleanup_errors=True) as folder:
        if name in MUTANTS and MUTANTS[name].corner:
            return {"case": name, "says": says, **_in_a_corner(name, Path(folder))}
        bench = Bench(Path(folder), "llama", "v1")
        watch = [bench.watch(HookPoint("resid_post", 0))]
        mode = MUTANTS[name].mode if name in MUTANTS else "eager"
        if name in BEFORE:
            bench.run(mode, watch, mutant=f"before:{name}")
        try:
            found = bench.run(mode, watch, mutant="" if name == "none" else name)
        except CellError as error:
            return {"case": name, "says": says, "caught_by": _refusal(str(error)), "seen": _last_line(str(error))}
        row = judged("llama", "v1", mode, found, plain=found, artifact="")
        return {"case": name, "says": says, "caught_by": _catcher(row), "seen": row["why"]}


def _in_a_corner(name: str, folder: Path) -> dict[str, str]:
    try:
        rows = corners.run(MUTANTS[name].corner, folder, mutant=name)
    except CellError as error:
        return {"caught_by": _refusal(str(error)), "seen": _last_line(str(error))}
    wrong = [row for row in rows if row["why"]]
    parity = bool(wrong) and all(row["why"].startswith("mismatched") and ";" not in row["why"] for row in wrong)
    caught = "parity" if parity else "books" if wrong else ""
    return {"caught_by": caught, "seen": "; ".join(f"{row['play']}: {row['why']}" for row in wrong)[:400]}


def _refusal(error: str) -> str:
    return "self-test" if "SelfTestFailed" in error else "a crash"


def _last_line(error: str) -> str:
    named = [line for line in error.splitlines() if "SelfTestFailed" in line]
    return (named or error.splitlines())[-1].split("SelfTestFailed: ")[-1]


def _catcher(row: dict[str, Any]) -> str:
    """The books come before parity: they need no oracle."""
    if "booked" in row["why"] or row["missing"] or row["duplicates"] or "blind" in row["why"]:
        return "books"
    return "parity" if row["mismatched"] else ""


def _document(rows: list[dict[str, Any]], *, quick: bool) -> dict[str, Any]:
    faults = [row for row in rows if row["case"] != "none"]
    caught = [row for row in faults if row["caught_by"] in {"self-test", "books", "parity"}]
    false = [row for row in rows if row["case"] == "none" and row["caught_by"]]
    by = {f"caught_by_{way.replace('-', '_')}": _count(caught, way) for way in ("self-test", "books", "parity")}
    facts = {"seeded": len(faults), "caught": len(caught), "false_alarms": len(false), **by}
    return form.document(
        "mutants",
        facts=facts,
        rows=rows,
        goals={
            "U1": form.goal(
                "faults that nothing caught", float(len(faults) - len(caught)), "faults", accept=0, target=0
            ),
            "U2": form.goal("sound taps that something caught", float(len(false)), "taps", accept=0, target=0),
        },
        quick=quick,
    )


def _count(rows: list[dict[str, Any]], way: str) -> int:
    return sum(row["caught_by"] == way for row in rows)


if __name__ == "__main__":
    sys.exit(main())
