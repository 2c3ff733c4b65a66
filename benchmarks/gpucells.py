"""The GPU's cells of the encoder's benchmark: goals G1 to G8. Same dictionaries, peers on the device, CUDA graphs.

A cell's calls are recorded with a flush of the cache before each, and a graph with the flushes alone is timed beside
them and taken off: so the weights come from memory, as they do in serving. Ceilings are measured in the same run: a
copy for bytes, cuBLAS' product of the same shape for operations. On the CPU the same script goes through at a toy size;
its times mean nothing there.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sparsify.fused_encoder import fused_encoder
from torch import Tensor

from benchmarks import form
from benchmarks.device import FLUSHED_BYTES, Step, captured, seconds_in_turns
from benchmarks.encoding import Call, Size, Subject, judged
from benchmarks.ours import chunked, dense_of, in_bf16, watching, whole
from saewatch.engine.kernels import available

CALLS = 20
"""Of one graph, up to 512 rows; above it a call is long enough by itself."""
JUDGED_ROWS = 64
REPEATS = 100
MANY = 128
"""Rows above which they go through windows or through `kernels.fused` (``kernels.full.ROWS``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCell:
    """One goal, size and number of rows."""

    goal: str
    size: Size
    tokens: int
    watched: int = 0
    int8: bool = False
    sweep: str = ""
    """What is unlike the goal's own cells."""

    @property
    def name(self) -> str:
        """Its path."""
        size = self.size
        path = f"gpu/{self.goal}/{size.activation}/{size.d_in}x{size.latents}/{self.tokens}"
        return f"{path}/{self.sweep}" if self.sweep else path


def gpu_cells(*, quick: bool) -> list[GpuCell]:
    """All of them; ``quick``: one of each goal, at a toy size."""

    def cells(
        goal: str,
        activation: str,
        sizes: Sequence[tuple[int, int]],
        tokens: Sequence[int],
        *,
        l0: int = 100,
        k: int = 64,
        massive: bool = False,
        **more: Any,
    ) -> Iterator[GpuCell]:
        winners = (k if not quick else min(k, 64)) if activation == "topk" else None
        for d_in, latents in ((64, 512),) if quick else sizes:
            size = Size(
                activation=activation, d_in=d_in, latents=latents, l0=20 if quick else l0, k=winners, massive=massive
            )
            yield from (GpuCell(goal=goal, size=size, tokens=count, **more) for count in _toy(tokens, quick=quick))

    llama, large = (4096, 131_072), ((4096, 131_072), (3584, 131_072), (8192, 65_536))
    return [
        *cells("G1", "jumprelu", [llama], (1, 4, 16, 32, 64), watched=64 if quick else 2048),
        *cells("G2", "jumprelu", large, (1, 16, 64)),
        *cells("G3", "jumprelu", [llama], (1, 64), int8=True),
        *cells("G4", "jumprelu", [llama, (8192, 65_536), (4096, 32_768)], (2048, 8192)),
        *cells("G5", "topk", [llama], (2048, 8192)),
        *cells("G6", "gated", [llama], (1, 64, 2048)),
        *cells("G3", "jumprelu", [llama], (64,), int8=True, massive=True, sweep="massive"),
        *(one for l0 in (20, 400) for one in cells("G2", "jumprelu", [llama], (64,), l0=l0, sweep=f"l0={l0}")),
        *(one for l0 in (20, 400) for one in cells("G4", "jumprelu", [llama], (2048,), l0=l0, sweep=f"l0={l0}")),
        *(one for k in (32, 128, 256) for one in cells("G5", "topk", [llama], (2048,), k=k, sweep=f"k={k}")),
    ]


def _toy(tokens: Sequence[int], *, quick: bool) -> tuple[int, ...]:
    """Numbers of rows; ``quick``: one for those that are few, and one for those that are many."""
    return tuple(dict.fromkeys(4 if count <= MANY else MANY + 2 for count in tokens)) if quick else tuple(tokens)


@torch.inference_mode()
def gpu_row(cell: GpuCell, one: Subject, device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Is it right, the same each time, and how long does it take."""
    one = in_bf16(one)
    pool = [one.rows(cell.tokens, seed=seed).bfloat16().to(device) for seed in range(2, 6)]
    x = pool[0].clone()
    ours = watching(one, cell.watched, x) if cell.watched else whole(one, x, int8=cell.int8)
    verdict = _verdict(cell, one, ours, x, repeats=3 if quick else REPEATS)
    found = {"case": cell.name, "tokens": cell.tokens, "unit": "us", **verdict}
    if verdict["mismatched"]:
        return found
    peak = _peak(ours, device)
    steps: dict[str, Step] = {
        "ours": ours,
        **{name: partial(call, x) for name, call in _peers(cell, one, device).items()},
    }
    for name, way in _ways(cell, one, x).items():
        verdict = _verdict(cell, one, way, x, repeats=2)
        if verdict["mismatched"]:
            return {**found, **verdict, "wrong": name}
        steps[name] = way
    times, left_out = _times(steps, x, pool, quick=quick)
    warm = _warm(cell, steps, x, pool, quick=quick)
    ceiling = _ceilings(cell, times, device)
    return {**found, **_figures(times), **warm, **ceiling, "peak_bytes": peak, "not_run": left_out | _missing(cell)}


def _ways(cell: GpuCell, one: Subject, x: Tensor) -> dict[str, Step]:
    """Our own other ways: cuBLAS in chunks (P2 of the study) for any number of rows, and the fused one for many."""
    if cell.watched or not available():
        return {}
    many = ("window", "fused") if cell.tokens > MANY else ()
    return {f"ours_{way}": whole(one, x, many=way) for way in many} or _chunked(cell, one, x)


def _chunked(cell: GpuCell, one: Subject, x: Tensor) -> dict[str, Step]:
    """P2 for few rows, where nothing competes: the winners of few rows have a way of their own."""
    return {} if cell.size.k else {"ours_window": chunked(one, x)}


def _warm(
    cell: GpuCell, steps: Mapping[str, Step], x: Tensor, pool: Sequence[Tensor], *, quick: bool
) -> dict[str, dict[str, float]]:
    """The same with what the cache still holds of the last call, for few rows."""
    if cell.tokens > 512:
        return {}
    times, _ = _times(steps, x, pool, quick=quick, cold=False)
    return {"warm": {name: round(float(np.median(seconds)) * 1e6, 3) for name, seconds in times.items()}}


def _missing(cell: GpuCell) -> dict[str, str]:
    """Peers that are not here, and why."""
    if cell.size.activation != "topk" or importlib.util.find_spec("flashinfer"):
        return {}
    return {"flashinfer_bf16": "flashinfer is not installed"}


def _peers(cell: GpuCell, one: Subject, device: torch.device) -> dict[str, Call]:
    """On the device; SAELens in its default float32 and in bfloat16, each with and without a sparse result."""
    single = copy.deepcopy(one.sae).to(device)
    half = copy.deepcopy(one.sae).to(device, torch.bfloat16)
    W, b = half.W_enc.data.t().contiguous(), getattr(half, "b_enc", torch.zeros((), device=device))
    found: dict[str, Call] = {
        "saelens_f32": lambda x: single.encode(x.float()),
        "saelens_bf16": half.encode,
        "product_bf16": lambda x: x @ W.t(),
    }
    if cell.size.activation == "topk":
        found["sparsify_bf16"] = lambda x: fused_encoder(x, W, b.data, cell.size.k, "topk")
    if cell.size.activation == "topk" and device.type == "cuda" and importlib.util.find_spec("flashinfer"):
        top_k = importlib.import_module("flashinfer").top_k
        found["flashinfer_bf16"] = lambda x: top_k((x @ W.t() + b.data).float(), cell.size.k)
    if device.type == "cuda":
        found["compiled_bf16"] = torch.compile(half.encode)
    return found


def _times(
    callers: Mapping[str, Step], x: Tensor, pool: Sequence[Tensor], *, quick: bool, cold: bool = True
) -> tuple[dict[str, Any], dict[str, str]]:
    """Seconds of one call of each, by round; and why a peer was left out. ``cold``: with a flush before each."""
    device = x.device
    calls = CALLS if len(x) <= 512 and not quick else 1
    flush = torch.empty(FLUSHED_BYTES // 4 if device.type == "cuda" and cold else 1, device=device)

    def flushed(step: Step) -> Step:
        return lambda: (flush.add_(1.0), step())

    left_out: dict[str, str] = {}
    steps = {"nothing": captured(lambda: flush.add_(1.0), device, calls=calls)}
    for name, step in callers.items():
        try:
            steps[name] = captured(flushed(step), device, calls=calls)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            left_out[name] = str(error).splitlines()[0][:200]

    def fresh(number: int) -> None:
        x.copy_(pool[number % len(pool)])

    rounds, warm = (3, 1) if quick else (200, 20)
    took = seconds_in_turns(steps, device, rounds=rounds, warm=warm, cold=False, before=fresh)
    nothing = took.pop("nothing")
    return {name: (seconds - nothing) / calls for name, seconds in took.items()}, left_out


def _figures(times: Mapping[str, Any]) -> dict[str, Any]:
    def us(seconds: Any) -> float:
        return round(float(np.median(seconds)) * 1e6, 3)

    ours, others = times["ours"], {name: one for name, one in times.items() if name != "ours"}
    return {
        "ours": us(ours),
        "peers": {name: us(one) for name, one in others.items()},
        "spread": [round(float(np.percentile(ours, part)) * 1e6, 3) for part in (10, 90)],
        "n": len(ours),
        "over_ours": {name: round(float(np.median(one / ours)), 3) for name, one in others.items()},
    }


def _ceilings(cell: GpuCell, times: Mapping[str, Any], device: torch.device) -> dict[str, float]:
    """The least time that the bytes and the operations take here, in microseconds."""
    latents = cell.watched or cell.size.latents
    read = 2 * cell.size.d_in * (latents + cell.tokens)
    operations = 2 * cell.size.d_in * latents * cell.tokens
    rate = 2 * cell.size.d_in * cell.size.latents * cell.tokens / float(np.median(times["product_bf16"]))
    floor = read / _copied_per_s(device)
    if cell.tokens > 512:
        floor = max(floor, operations / rate)
    return {"floor_us": round(floor * 1e6, 3), "dense_bytes": 2 * cell.tokens * cell.size.latents}


def _copied_per_s(device: torch.device) -> float:
    """Bytes that the memory reads and writes in a second."""
    size = 2**30 if device.type == "cuda" else 2**20
    one, other = torch.empty(2, size, dtype=torch.uint8, device=device)
    step = captured(lambda: other.copy_(one), device)
    took = seconds_in_turns({"copy": step}, device, rounds=20, warm=3, cold=False)["copy"]
    return 2 * size / float(np.median(took))


def _peak(ours: Step, device: torch.device) -> int:
    """Bytes that a call takes beyond what it was given; 0 where nobody counts."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ours()
    return torch.cuda.max_memory_allocated() - before


def _verdict(cell: GpuCell, one: Subject, ours: Step, x: Tensor, *, repeats: int) -> dict[str, int]:
    columns = one.watch(cell.watched).rows if cell.watched else None
    width = cell.watched or cell.size.latents
    found = dense_of(ours(), len(x), width)
    changed, deadline = 0, time.monotonic() + 60.0
    for _ in range(repeats):
        changed += not torch.equal(dense_of(ours(), len(x), width), found)
        if time.monotonic() > deadline:
            break
    kept = min(len(x), JUDGED_ROWS)
    verdict = judged(
        one, x[:kept].float().cpu(), found[:kept].cpu(), columns=None if columns is None else torch.tensor(columns)
    )
    return {**verdict, "mismatched": verdict["mismatched"] + changed, "changed": changed}


# --- which way many rows go -------------------------------------------------------------------------------------------
def table_of(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """What `kernels.table.FUSED` should say by these rows: least rows and latents from which `fused` was always faster.

    Only cells of JumpReLU are asked: the table does not know what latents do.
    """
    both = {
        (row["tokens"], int(row["case"].split("/")[3].split("x")[1])): row["peers"]["ours_fused"]
        <= FASTER * row["peers"]["ours_window"]
        for row in rows
        if row["case"].startswith("gpu/G4/") and {"ours_fused", "ours_window"} <= row.get("peers", {}).keys()
    }
    always = [one for one in both if all(both[other] for other in both if _at_least(other, one))]
    return sorted(one for one in always if not any(_at_least(one, other) for other in always if other != one))


FASTER = 0.98
"""Of the other's time: what is less than a fiftieth faster is no reason."""


def _at_least(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] >= other[0] and one[1] >= other[1]


# --- what it comes to -------------------------------------------------------------------------------------------------
Value = Callable[[Mapping[str, Any]], float]


def _over(row: Mapping[str, Any]) -> float:
    return float(row["ours"] / row["floor_us"])


def _bytes(row: Mapping[str, Any]) -> float:
    return float(row["peak_bytes"] / row["dense_bytes"])


def _beside(row: Mapping[str, Any], peer: str) -> float:
    return float(row["ours"] / row["peers"][peer])


GOALS: Mapping[str, tuple[str, str, float, float, Value]] = {
    "G1": ("2,048 watched latents, up to 64 rows", "us", 10.0, 8.0, lambda row: row["ours"]),
    "G2": ("the whole in bfloat16, up to 64 rows", "of the floor", 1 / 0.85, 1 / 0.90, _over),
    "G3": ("the whole by int8, up to 64 rows", "of bfloat16's floor", 0.70, 0.62, _over),
    "G4": ("many rows", "of the product alone", 1 / 0.80, 1 / 0.88, lambda row: _beside(row, "product_bf16")),
    "G5": ("many rows, TopK", "of the product alone", 1 / 0.78, 1 / 0.85, lambda row: _beside(row, "product_bf16")),
    "G6": ("gated, up to 64 rows", "of SAELens' bfloat16", 1 / 3.3, 1 / 3.6, lambda row: _beside(row, "saelens_bf16")),
    "G6 many": ("gated, many rows", "of SAELens' bfloat16", 1 / 2.0, 1 / 2.3, lambda row: _beside(row, "saelens_bf16")),
    "G7": ("bytes beside what is given", "of dense bfloat16", 1 / 12, 1 / 16, _bytes),
    "G8": ("runs that gave other bytes, and pairs that are wrong", "of both", 0.0, 0.0, lambda row: row["mismatched"]),
}
"""Statement, unit, accept, target and value of a row, less is better; the worst row counts ."""


def gpu_goals(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """G1 to G8, of rows of a GPU; each not run where there is no such row."""
    return {
        name: form.goal(said, _worst(name, rows, value), unit, accept=accept, target=target)
        for name, (said, unit, accept, target, value) in GOALS.items()
    }


def _worst(goal: str, rows: Sequence[Mapping[str, Any]], value: Value) -> float | None:
    name, _, many = goal.partition(" ")
    own = [row for row in rows if row["case"].startswith(f"gpu/{name}/") or goal == "G8"]
    if name == "G6":  # reading binds few rows, and arithmetic many: each has limits of its own
        own = [row for row in own if (row["tokens"] > MANY) == bool(many)]
    own += [row for row in rows if goal == "G7" and row["tokens"] >= 2048]
    found = [value(row) for row in own if "ours" in row or goal == "G8"]
    return max(found, default=None)
