"""Is the tap right in every family, on both of vLLM's runners, however the graph came about?

One tiny model of each family, every hook point that it has, in one engine: stock compilation, the GPU's compile path
with an empty cache (``cold``), and the same with the artifact that the run before left (``warm``). Firings must equal
those of transformers and SAELens, and token ids those of an engine without a tap. Then the cache matrix: tap off, on,
off, on another hook point, on two, with another dictionary of the same shape, each on the cache of the one before.

    python -m benchmarks.bench_matrix [--quick] [--json OUT] [--cells llama:v1,…] [--resume] [--budget-s S] [--check]

A cell is a family (or ``cache``) and a runner. With ``--resume`` cells are left out that OUT has, right and measured
with the same code of the tap.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import form
from benchmarks.cells import Bench, CellError
from benchmarks.tiny import TINY
from saewatch.core.hookpoint import HookPoint

RUNNERS: Mapping[str, str] = {
    "v1": "vllm.v1.worker.cpu_model_runner.CPUModelRunner",
    "v2": "vllm.v1.worker.cpu.model_runner.CPUModelRunner",
}
"""The class that must have run: vLLM takes V1 without a word where it cannot have V2."""

ALWAYS_RIGHT = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral")
QUICK = ("llama:v1", "gemma2:v2")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cells; 0 when they ran, 1 when one could not, 2 when a result was wrong, 3 with --check."""
    options = _parser().parse_args(argv)
    cells = options.cells.split(",") if options.cells else QUICK if options.quick else _all_cells()
    rows = _rows_before(options.json) if options.resume and options.json else []
    done = {_cell_of(row) for row in rows}
    not_run: list[dict[str, str]] = []
    deadline = time.monotonic() + options.budget_s
    for cell in cells:
        if cell in done:
            continue
        if time.monotonic() > deadline:
            not_run.append({"cell": cell, "why": f"the budget of {options.budget_s:.0f} s was spent"})
            continue
        case, _, runner = cell.partition(":")
        for row in measure(case, runner):
            rows.append(row)
            print(json.dumps({name: value for name, value in row.items() if name != "points"}), file=sys.stderr)
            if options.json:
                form.write(options.json, _document(rows, not_run, options))
    result = _document(rows, not_run, options)
    print(json.dumps({"facts": result["facts"], "correctness": result["correctness"]}, indent=1))
    if options.json:
        form.write(options.json, result)
    if any(row["why"] for row in rows if "could not run" in row["why"]):
        return 1
    unmet = any(goal["met"] == "no" for goal in result["goals"].values())
    return 2 if result["facts"]["wrong_cells"] else 3 if options.check and unmet else 0


def measure(case: str, runner: str) -> Iterator[dict[str, Any]]:
    """One cell's rows."""
    with tempfile.TemporaryDirectory(prefix="saewatch-", ignore_cleanup_errors=True) as folder:
        runs = cache_runs if case == "cache" else family_runs
        bench = Bench(Path(folder), "llama" if case == "cache" else case, runner)
        try:
            for mode, found, plain, artifact in runs(bench):
                yield judged(case, runner, mode, found, plain=plain, artifact=artifact)
        except CellError as error:
            yield _row(case, runner, "", why=f"could not run: {error}")


Run = tuple[str, dict[str, Any], dict[str, Any], str]
"""Mode, what the cell found, what an engine without a tap said, and what must become of the artifact, if it matters."""


def family_runs(bench: Bench) -> Iterator[Run]:
    """All hook points of a family at once."""
    watch = [bench.watch(point) for point in TINY[bench.case].points]
    plain = bench.run("eager", ())
    yield "default", bench.run("default", watch), plain, ""
    cached = TINY[bench.case].cached
    yield "cold", bench.run("forced", watch), plain, "compiled" if cached else "none"
    yield "warm", bench.run("forced", watch), plain, "loaded" if cached else "none"


def cache_runs(bench: Bench) -> Iterator[Run]:
    """Each on the cache of the one before. The dictionary's folder keeps its name, as where one is swapped in place."""
    plain = bench.run("eager", ())
    first, other = HookPoint("resid_post", 0), HookPoint("resid_post", 1)
    yield "off", bench.run("forced", ()), plain, "compiled"
    yield "on", bench.run("forced", [bench.watch(first, name="current")]), plain, "compiled"
    yield "off again", bench.run("forced", ()), plain, "loaded"
    yield "other hook point", bench.run("forced", [bench.watch(other, name="current")]), plain, "compiled"
    two = [bench.watch(first, name="current"), bench.watch(other)]
    yield "two hook points", bench.run("forced", two), plain, "compiled"
    swapped = [bench.watch(first, name="current", seed=7)]
    yield "other dictionary", bench.run("forced", swapped), plain, "loaded"
    shared = [bench.watch(first, name="current", seed=7), bench.watch(first)]
    yield "two dictionaries, one hook point", bench.run("forced", shared), plain, "loaded"


def judged(
    case: str, runner: str, mode: str, found: Mapping[str, Any], *, plain: Mapping[str, Any], artifact: str
) -> dict[str, Any]:
    """A cell's row: what was compared, and in a word what is wrong."""
    streams = found.get("streams", [])
    total = {name: sum(one.get(name, 0) for one in streams) for name in _COUNTS}
    wrong = [f"{name} {total[name]}" for name in ("mismatched", "duplicates", "missing", "unknown") if total[name]]
    wrong += [f"{one['hook_point'] or 'a stream'} is blind: {one['blind']}" for one in streams if one["blind"]]
    wrong += [_unbalanced(one) for one in streams if one.get("books") and _unbalanced(one)]
    wrong += [f"{one['hook_point']}: cached tokens were not replayed" for one in streams if _unreplayed(one)]
    if streams and not total["rows"]:
        wrong.append("no row was seen")
    if found["runner"] != RUNNERS[runner]:
        wrong.append(f"the runner was {found['runner']}")
    if found["tokens"] != plain["tokens"]:
        wrong.append("token ids differ from those of an engine without a tap")
    if artifact and found["artifact"] != artifact:
        wrong.append(f"the compiled artifact was {found['artifact']}, not {artifact}")
    points = [one["hook_point"] for one in streams]
    return _row(case, runner, mode, points=points, why="; ".join(wrong), artifact=found["artifact"], **total)


_COUNTS = ("rows", "compared", "mismatched", "in_grey_band", "duplicates", "missing", "unknown")


def _unbalanced(stream: Mapping[str, Any]) -> str:
    books, expected = stream["books"], stream["fed_expected"]
    booked = books["encoded"] + books["reused"] + sum(books["missed"].values()) + books["in_flight"]
    return "" if books["fed"] == booked == expected else f"fed {books['fed']}, booked {booked}, expected {expected}"


def _unreplayed(stream: Mapping[str, Any]) -> bool:
    """All that the prefix cache answers for was computed before, and nothing of it was lost."""
    books = stream.get("books")
    return books is not None and (books["reused"] == 0 or "cached" in books["missed"])


def _row(case: str, runner: str, mode: str, *, why: str, **found: Any) -> dict[str, Any]:
    counts = {name: found.pop(name, 0) for name in _COUNTS}
    row = {"case": case, "runner": runner, "mode": mode, **counts, "right": not why, "why": why, **found}
    return {**row, "code": tap_code()}


def tap_code() -> str:
    """What decides a row's figures, beside the model."""
    return form.code_of("service/saewatch/engine", "service/saewatch/core")


def _document(rows: list[dict[str, Any]], not_run: list[dict[str, str]], options: Any) -> dict[str, Any]:
    wrong = [row for row in rows if not row["right"]]
    serious = [row for row in wrong if row["case"] in (*ALWAYS_RIGHT, "cache")]
    facts = {name: sum(row[name] for row in rows) for name in ("rows", "duplicates", "missing", "unknown")}
    return form.document(
        "matrix",
        facts={"cells": len(rows), "right_cells": len(rows) - len(wrong), "wrong_cells": len(wrong), **facts},
        correctness={name: sum(row[name] for row in rows) for name in ("compared", "mismatched", "in_grey_band")},
        rows=rows,
        goals={
            "X1": form.goal(
                "Llama, Qwen, Gemma and Mistral, and the cache matrix: cells that are not right",
                float(len(serious)) if rows else None,
                "cells",
                accept=0,
                target=0,
            ),
            "X2": form.goal(
                "all other cells that are not right", float(len(wrong) - len(serious)), "cells", accept=0, target=0
            ),
        },
        not_run=not_run,
        quick=options.quick,
    )


def _all_cells() -> list[str]:
    return [f"{case}:{runner}" for case in dict.fromkeys((*ALWAYS_RIGHT, "cache", *TINY)) for runner in RUNNERS]


def _rows_before(path: Path) -> list[dict[str, Any]]:
    """Rows of cells that were right to their end; others are measured again."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    whole = {cell for cell in map(_cell_of, rows) if _whole([row for row in rows if _cell_of(row) == cell])}
    return [row for row in rows if _cell_of(row) in whole]


def _whole(rows: Sequence[Mapping[str, Any]]) -> bool:
    current = all(row["right"] and row.get("code") == tap_code() for row in rows)
    return current and len(rows) == (7 if rows[0]["case"] == "cache" else 3)


def _cell_of(row: Mapping[str, Any]) -> str:
    return f"{row['case']}:{row['runner']}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--budget-s", type=float, default=4 * 3600.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cells", default="")
    return parser


if __name__ == "__main__":
    sys.exit(main())
