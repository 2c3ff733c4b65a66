"""How long does encoding take, beside the libraries that train dictionaries? All in one process, in rotated order.

Every result is compared with the float32 reference and with SAELens before anything is timed; a cell that differs
outside the grey band has no times, and the run ends with 2.

    python -m benchmarks.bench_encode [--quick] [--json OUT] [--cells cpu,gpu,screen] [--device cuda]
                                      [--resume] [--budget-s S] [--check]

Cells of ``cpu``: the whole dictionary (``full``) as `saewatch dictionary encode` does it, and 256 watched latents
(``watch``) as the tap does it, one thread, process CPU time and wall time. Cells of ``gpu`` are in `gpucells`; with
``--quick --device cpu`` they run through at a toy size, under TRITON_INTERPRET=1 with the kernels. The cell ``screen``
counts what the screen in int8 admits of a real dictionary (`screened`), on a GPU or in the interpreter. A cell's name
is a path; ``--cells`` takes beginnings of it, with commas. With ``--resume`` cells that OUT has of the same code are
kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import form
from benchmarks.encoding import HAS_BF16, Call, Size, Subject, judged, peers, subject
from benchmarks.gpucells import GpuCell, gpu_cells, gpu_goals, gpu_row, table_of
from benchmarks.screened import ScreenCell, screen_row
from benchmarks.turns import Times, in_turns
from saewatch.engine.encode import normalise
from saewatch.engine.encoder import Encoder
from saewatch.engine.slab import Slab
from saewatch.engine.sparse import firings
from saewatch.engine.whole import Whole

WATCHED = 256
TOKENS = (1, 16, 256)
LARGE, SMALL = (2304, 16_384), (64, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One size and number of rows, and what of ours runs on them."""

    size: Size
    tokens: int
    watched: int = 0  # 0: the whole dictionary

    @property
    def name(self) -> str:
        """Its path."""
        what = f"watch{self.watched}" if self.watched else "full"
        size = self.size
        return f"cpu/{what}/{size.activation}/{size.d_in}x{size.latents}/{self.tokens}"


AnyCell = Cell | GpuCell | ScreenCell


def cells(*, quick: bool) -> list[AnyCell]:
    """All of them."""
    d_in, latents = SMALL if quick else LARGE
    l0, k = (20, 8) if quick else (20, 64)
    sizes = [
        Size(activation=name, d_in=d_in, latents=latents, l0=l0, k=k if name == "topk" else None)
        for name in ("jumprelu", "gated", "topk")
    ]
    full = [Cell(size=size, tokens=tokens) for size in sizes for tokens in TOKENS]
    watched = [Cell(size=sizes[0], tokens=tokens, watched=WATCHED) for tokens in TOKENS]
    return [*full, *watched, *gpu_cells(quick=quick), ScreenCell()]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cells; 0 when they ran, 1 for no such cell, 2 when a result was wrong, 3 with --check."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    every = cells(quick=options.quick)
    wanted = [cell for cell in every if cell.name.startswith(tuple(options.cells.split(",")))]
    if not wanted:
        print(f"no such cell; there are {', '.join(cell.name for cell in every)}", file=sys.stderr)
        return 1
    rows, not_run = _measured(every, wanted, options)
    result = _document(rows, not_run, options)
    print(json.dumps({"facts": result["facts"], "correctness": result["correctness"]}, indent=1))
    if any("ours_fused" in one.get("peers", {}) for one in rows) and not options.quick:
        print(f"kernels/table.py should say FUSED = {tuple(table_of(rows))}")
    unmet = any(goal["met"] == "no" for goal in result["goals"].values())
    return 2 if result["correctness"]["mismatched"] else 3 if options.check and unmet else 0


def _measured(
    every: Sequence[AnyCell], wanted: Sequence[AnyCell], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    before, deadline = _before(options), time.monotonic() + options.budget_s
    rows, not_run, made = [], [dict(one) for one in NEVER_RUN], _Subjects()
    if not HAS_BF16:
        not_run.append({"cell": "cpu/*/saelens_bf16", "why": "this processor has no instructions for bfloat16"})
    for cell in every:
        if cell.name in before:
            rows.append(before[cell.name])
        elif cell not in wanted:
            not_run.append({"cell": cell.name, "why": "not asked for"})
        elif time.monotonic() > deadline:
            not_run.append({"cell": cell.name, "why": f"the budget of {options.budget_s:.0f} s was spent"})
        elif why := _missing(cell, options):
            not_run.append({"cell": cell.name, "why": why})
        else:
            rows.append({**_row(cell, made, options), "code": _code(cell.name)})
            print(json.dumps(rows[-1]), file=sys.stderr)
            _document(rows, not_run, options)
    return rows, not_run


class _Subjects:
    """The last one is kept: cells of one size follow each other."""

    def __init__(self) -> None:
        self._made: Subject | None = None

    def of(self, size: Size) -> Subject:
        if self._made is None or self._made.size != size:
            self._made = None  # before the next one is made: half a gigabyte
            self._made = subject(size)
        return self._made


def _missing(cell: AnyCell, options: argparse.Namespace) -> str:
    """Why it cannot be run here; empty: it can."""
    if isinstance(cell, ScreenCell):
        return cell.missing
    lacking = isinstance(cell, GpuCell) and options.device == "cuda" and not torch.cuda.is_available()
    return "no GPU here" if lacking else ""


def _row(cell: AnyCell, made: _Subjects, options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device if torch.cuda.is_available() else "cpu")
    if isinstance(cell, ScreenCell):
        return screen_row(cell, device, quick=options.quick)
    if isinstance(cell, GpuCell):
        return gpu_row(cell, made.of(cell.size), device, quick=options.quick)
    return row(cell, made.of(cell.size), quick=options.quick)


# --- one cell ---------------------------------------------------------------------------------------------------------
@torch.inference_mode()
def row(cell: Cell, one: Subject, *, quick: bool = False) -> dict[str, Any]:
    """Is it right, and how long does it take."""
    ours = _watching(cell, one) if cell.watched else _whole(one)
    verdict = _verdict(cell, one, ours)
    found = {"case": cell.name, "tokens": cell.tokens, "unit": "ms of CPU", **verdict}
    if verdict["mismatched"]:
        return found
    pool = [one.rows(cell.tokens, seed=seed) for seed in range(2, 10)]
    others = peers(one)
    if cell.watched:  # the others are in the rows of the whole: here they would only cost rounds
        others = {name: others[name] for name in ("saelens_f32", "product_f32")}
    times = in_turns({"ours": ours, **others}, pool, rounds=3 if quick else 40, warm=2, budget_s=CELL_S)
    return {**found, **figures(times)}


CELL_S = 8.0
"""Of timing. A cell whose peers take seconds gets few rounds, each of them a ratio of its own."""


def figures(times: Mapping[str, Times]) -> dict[str, Any]:
    """Medians in milliseconds, and of each peer the median over rounds of its time over ours."""

    def ms(seconds: Any) -> float:
        return round(float(np.median(seconds)) * 1e3, 4)

    ours = times["ours"]
    others = {name: one for name, one in times.items() if name != "ours"}
    return {
        "ours": ms(ours.cpu),
        "peers": {name: ms(one.cpu) for name, one in others.items()},
        "spread": [round(float(np.percentile(ours.cpu, part)) * 1e3, 4) for part in (10, 90)],
        "n": len(ours.cpu),
        "ours_wall": ms(ours.wall),
        "peers_wall": {name: ms(one.wall) for name, one in others.items()},
        "over_ours": {name: round(float(np.median(one.cpu / ours.cpu)), 3) for name, one in others.items()},
    }


def _whole(one: Subject) -> Call:
    whole = Whole.sized(one.dictionary, decoder=False)
    whole.load(one.dictionary, "exact")
    norm = one.dictionary.manifest.encoder.input_norm
    return lambda x: firings(whole, *normalise(x, norm))


def _watching(cell: Cell, one: Subject) -> Call:
    encoder = Encoder(rows_max=cell.tokens, d_in=cell.size.d_in, slots_max=cell.watched)
    encoder.load(one.dictionary, one.watch(cell.watched))
    slab = Slab(rows_max=cell.tokens, firings_max=cell.tokens * cell.watched)
    positions, ids = torch.arange(cell.tokens) + 1, torch.zeros(cell.tokens, dtype=torch.int64)
    return partial(encoder.encode, positions=positions, token_ids=ids, slab=slab)


def _verdict(cell: Cell, one: Subject, ours: Call) -> dict[str, int]:
    x = one.rows(max(cell.tokens, 16))
    parts = x.split(cell.tokens)
    if not cell.watched:
        return judged(one, x, torch.cat([torch.from_numpy(ours(part).dense(len(part), _rows(one))) for part in parts]))
    found = torch.cat([_dense(ours(part), cell.watched) for part in parts])
    return judged(one, x, found, columns=torch.tensor(one.watch(cell.watched).rows))


def _rows(one: Subject) -> int:
    return one.dictionary.manifest.encoder.rows


def _dense(slab: Slab, slots: int) -> Tensor:
    found, dense = slab.encoded(), torch.zeros(slab.rows, slots)
    dense[torch.from_numpy(found.row).long(), torch.from_numpy(found.slot).long()] = torch.from_numpy(found.value)
    return dense


# --- what it comes to -------------------------------------------------------------------------------------------------
NEVER_RUN = ({"cell": "cpu/torch.compile", "why": "compiled code of the CPU is another one on each processor"},)


def _document(
    rows: Sequence[Mapping[str, Any]], not_run: Sequence[Mapping[str, str]], options: argparse.Namespace
) -> dict[str, Any]:
    facts = facts_of(rows)
    result = form.document(
        "encode",
        facts=facts,
        correctness={name: sum(one[name] for one in rows) for name in ("compared", "mismatched", "in_grey_band")},
        rows=rows,
        goals={**goals({} if options.quick else facts), **gpu_goals([] if options.quick else _of_gpu(rows))},
        not_run=not_run,
        quick=options.quick,
    )
    if options.json:
        form.write(options.json, result)
    return result


def _of_gpu(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [one for one in rows if one["case"].startswith("gpu/")]


def facts_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Peers' CPU time over ours by cell, and what the screen in int8 admits for one that fires."""
    facts: dict[str, float] = {}
    for one in rows:
        if "over_ours" in one and one["case"].startswith("cpu/"):
            _, what, activation, _, tokens = one["case"].split("/")
            facts |= {f"{what}_{activation}_{tokens}_{name}": ratio for name, ratio in one["over_ours"].items()}
        elif one["case"].startswith("screen/"):
            facts |= {"screen_admitted": one["ours"], "screen_admitted_together": one["peers"]["together"]}
    return facts


def goals(facts: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """C1 to C3. Ours over SAELens' own time in its default float32: less is better."""

    def worst(what: str, names: Sequence[str], tokens: Sequence[int]) -> float | None:
        keys = [f"{what}_{name}_{count}_saelens_f32" for name in names for count in tokens]
        return max(1 / facts[key] for key in keys) if all(key in facts for key in keys) else None

    def limit(statement: str, value: float | None, times: float) -> dict[str, Any]:
        return form.goal(statement, value, "of SAELens' float32 time", accept=1 / times, target=1 / times)

    found = {
        "C1": limit(
            "the whole dictionary, JumpReLU and TopK, 1 to 256 tokens: the worst",
            worst("full", ("jumprelu", "topk"), TOKENS),
            0.95,
        ),
        "C2": limit("the whole of a gated one, 1 to 256 tokens: the worst", worst("full", ("gated",), TOKENS), 2),
    }
    for tokens, times in zip(TOKENS, (9, 40, 100), strict=True):
        value = worst(f"watch{WATCHED}", ("jumprelu",), (tokens,))
        found[f"C3 {tokens}"] = limit(f"{WATCHED} watched of 16,384 (2,304 wide), tokens: {tokens}", value, times)
    return found


def _code(case: str) -> str:
    names = [f"service/saewatch/engine/{name}.py" for name in ("encode", "encoder", "slab", "sparse", "whole")]
    names += [f"benchmarks/{name}.py" for name in ("encoding", "turns")]
    paths = [form.ROOT / name for name in names]
    if not case.startswith("cpu/"):
        paths += sorted(form.ROOT.glob("service/saewatch/engine/kernels/*.py"))
        paths += [form.ROOT / f"benchmarks/{name}.py" for name in ("device", "gpucells", "ours", "screened")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def _before(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    if not (options.resume and options.json and options.json.exists()):
        return {}
    found = json.loads(options.json.read_text())
    rows = [one for one in found["rows"] if one["code"] == _code(one["case"]) and "ours" in one]
    return {one["case"]: one for one in rows} if found["quick"] == options.quick else {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small dictionary, few rounds")
    parser.add_argument("--json", type=Path, help="write the result there, after each cell")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="of the GPU's cells")
    parser.add_argument("--cells", default="cpu,gpu,screen", help="beginnings of cells' names, with commas")
    parser.add_argument("--resume", action="store_true", help="keep cells of the result that is there")
    parser.add_argument("--budget-s", type=float, default=3600.0, help="begin no cell after it")
    parser.add_argument("--check", action="store_true", help="exit 3 when a goal is not met")
    return parser


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":  # numpy's BLAS reads it while it is loaded, which it is by now
        os.environ["OMP_NUM_THREADS"] = "1"
        again = [sys.executable, "-m", "benchmarks.bench_encode", *sys.argv[1:]]
        os.execv(again[0], again)  # noqa: S606 - the same command once more
    sys.exit(main())
