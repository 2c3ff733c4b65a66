"""What watching adds to a decoding step in the shape of Llama-3.1-8B, with random weights. It is not vLLM (`shaped`).

The encoder reads the residual stream behind one layer: off, 256 or 2,048 watched latents of 131,072, or all of them; on
the stream of the step, behind it, or beside the layers that follow the hook point (``side``). Of the tap's two places
``staged`` is the one beside the graph, as it is in serving: a step copies its rows, and they are encoded on a side
stream while the next step runs. ``graph`` is the one inside: the rows are multiplied where the sink writes them, and
packed behind the step. On a GPU each variant is one CUDA graph. All run in one process, in rotated order; what is added
is the median over rounds of the difference to ``off``.

    python -m benchmarks.bench_step [--quick] [--device cuda] [--json OUT] [--sequences 1,16,64] [--check]

``--quick`` takes a model of two layers, on the CPU too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import form
from benchmarks.device import captured, gpu_name, seconds_in_turns
from benchmarks.encoding import Size, Subject, subject
from benchmarks.ours import in_bf16, inside, watching, whole
from benchmarks.shaped import LLAMA_8B, TINY, Model, Shape
from saewatch.engine.kernels import available

WATCHED = (256, 2048)
Step = Callable[[], Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs; 0 when it ran, 1 where there is no such device, 3 with --check where a goal is not met."""
    options = _parser().parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here; try --quick --device cpu", file=sys.stderr)
        return 1
    device = torch.device(options.device)
    shape, size = (TINY, _size(64, 512)) if options.quick else (LLAMA_8B, _size(4096, 131_072))
    one = in_bf16(subject(size))
    rows = []
    for sequences in map(int, options.sequences.split(",")):
        rows.append(row(shape, one, sequences, device, rounds=5 if options.quick else 200))
        print(json.dumps(rows[-1]), file=sys.stderr)
    result = document(rows, quick=options.quick)
    print(json.dumps({"facts": result["facts"]}, indent=1))
    if options.json:
        form.write(options.json, result)
    unmet = any(one["met"] == "no" for one in result["goals"].values())
    return 3 if options.check and unmet else 0


def _size(d_in: int, latents: int) -> Size:
    return Size(activation="jumprelu", d_in=d_in, latents=latents, l0=100 if latents > 10_000 else 20)


@torch.inference_mode()
def row(shape: Shape, one: Subject, sequences: int, device: torch.device, *, rounds: int) -> dict[str, Any]:
    """One number of sequences: the step alone, and what each way of watching adds."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = Model(shape, sequences=sequences, device=device, dtype=dtype)
    tokens = torch.randint(shape.vocabulary, (sequences,), generator=torch.Generator().manual_seed(1)).to(device)
    steps = {name: captured(step, device) for name, step in _steps(model, tokens, one, device).items()}
    times = seconds_in_turns(steps, device, rounds=rounds, warm=max(2, rounds // 10))
    off = times["off"]
    return {
        "case": f"{shape.d_model}x{shape.layers}/{sequences}",
        "sequences": sequences,
        "unit": "ms",
        "off": round(float(np.median(off)) * 1e3, 4),
        "spread": [round(float(np.percentile(off, part)) * 1e3, 4) for part in (10, 90)],
        "added": {name: round(float(np.median(each - off)) * 1e3, 5) for name, each in times.items() if name != "off"},
        "share": {name: round(float(np.median(each / off - 1)), 5) for name, each in times.items() if name != "off"},
        "n": len(off),
    }


def _steps(model: Model, tokens: Tensor, one: Subject, device: torch.device) -> Mapping[str, Step]:
    """The step, and the step with each encoder behind it; on a GPU also with the encoder beside the later layers."""
    counts = [count for count in WATCHED if count <= one.size.latents]
    encoders = {f"watch{count}": watching(one, count, model.residual) for count in counts}
    encoders["full"] = whole(one, model.residual)
    steps: dict[str, Step] = {"off": lambda: model.step(tokens)}
    for name, encode in encoders.items():
        steps[name] = partial(_behind, model, tokens, encode)
        if device.type == "cuda":
            steps[f"{name}_side"] = _beside(model, tokens, encode)
    for count in counts:
        steps[f"watch{count}_staged"] = _staged(model, tokens, one, count)
        if available():
            steps[f"watch{count}_graph"] = _inside(model, tokens, one, count)
    return steps


def _behind(model: Model, tokens: Tensor, encode: Step) -> None:
    model.step(tokens)
    encode()


def _staged(model: Model, tokens: Tensor, one: Subject, count: int) -> Step:
    """The step before this one is encoded beside it."""
    rows = torch.zeros_like(model.residual)
    encode = watching(one, count, rows)
    side = torch.cuda.Stream() if rows.is_cuda else None

    def step() -> None:
        if side is None:
            encode()
            model.step(tokens)
        else:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                encode()
            model.step(tokens)
            torch.cuda.current_stream().wait_stream(side)
        rows.copy_(model.residual)

    return step


def _inside(model: Model, tokens: Tensor, one: Subject, count: int) -> Step:
    fire, pack = inside(one, count, model.residual)

    def step() -> None:
        model.step(tokens, behind_hook=fire)
        pack()

    return step


def _beside(model: Model, tokens: Tensor, encode: Step) -> Step:
    side = torch.cuda.Stream()

    def fork() -> None:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            encode()

    def step() -> None:
        model.step(tokens, behind_hook=fork)
        torch.cuda.current_stream().wait_stream(side)

    return step


def document(rows: Sequence[Mapping[str, Any]], *, quick: bool) -> dict[str, Any]:
    """The result."""
    facts = {f"{name}_share_{one['sequences']}": value for one in rows for name, value in one["share"].items()}
    facts |= {f"graph_less_staged_{count}_{one['sequences']}": gained for one in rows for count, gained in _gained(one)}
    watched = [one["share"][f"watch{WATCHED[-1]}"] for one in rows if f"watch{WATCHED[-1]}" in one["share"]]
    missing = [] if quick else [{"cell": f"sequences {n}", "why": "not asked for"} for n in (1, 16, 64)]
    asked = {f"sequences {one['sequences']}" for one in rows}
    return form.document(
        "step",
        facts=facts,
        rows=rows,
        goals={
            "G9": form.goal(
                "time that 2,048 watched latents add to a step in the shape of Llama-3.1-8B: the worst",
                max(watched) if watched and not quick else None,
                "of the step",
                accept=0.003,
                target=0.002,
            )
        },
        not_run=[*(one for one in missing if one["cell"] not in asked), *([] if gpu_name() else [NO_GPU])],
        quick=quick,
    )


def _gained(one: Mapping[str, Any]) -> Iterator[tuple[int, float]]:
    """What the place inside the graph adds more than the one beside it, as a share of the step; below 0: less."""
    for count in WATCHED:
        names = [f"watch{count}_{place}" for place in ("graph", "staged")]
        if all(name in one["share"] for name in names):
            inside_share, staged_share = (one["share"][name] for name in names)
            yield count, round(inside_share - staged_share, 5)


NO_GPU = {"cell": "CUDA graphs, the side stream", "why": "no GPU here"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, few rounds")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--sequences", default="1,16,64", help="with commas")
    parser.add_argument("--check", action="store_true", help="exit 3 when a goal is not met")
    return parser


if __name__ == "__main__":
    sys.exit(main())
