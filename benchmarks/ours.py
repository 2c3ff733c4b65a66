"""Our encoders as the benchmarks call them, on a GPU and on the CPU, on the rows of one buffer ``x [T, d_in]``.

On a GPU these are the kernels (`saewatch.engine.kernels`), as under Triton's interpreter; on the CPU alone the same
script runs through what the CPU has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.encoding import Subject
from saewatch.core.footprint import WINDOW
from saewatch.engine.encode import normalise
from saewatch.engine.encoder import Encoder, inside_of, launch_of
from saewatch.engine.kernels import available, window
from saewatch.engine.kernels.dictionary import Lists, cap_for_winners
from saewatch.engine.kernels.group import Work
from saewatch.engine.kernels.operands import Code, Latents, norms, rows_of
from saewatch.engine.kernels.pack import cap_for
from saewatch.engine.kernels.screen import Quantised
from saewatch.engine.slab import Slab
from saewatch.engine.sparse import firings
from saewatch.engine.whole import Whole

Step = Callable[[], Any]


def in_bf16(one: Subject) -> Subject:
    """The same with weights in bfloat16, as most published dictionaries are stored; SAELens' are the same numbers."""
    one.sae.W_enc.data = one.sae.W_enc.data.bfloat16().float()
    return replace(one, dictionary=replace(one.dictionary, W=one.dictionary.W.bfloat16()))


def watching(one: Subject, count: int, x: Tensor) -> Step:
    """``count`` watched latents, as the tap encodes them, into a slab."""
    fused, rows = available(), len(x)
    dtype = one.dictionary.W.dtype if fused else torch.float32
    encoder = Encoder(
        rows_max=rows, d_in=one.size.d_in, slots_max=count, device=x.device, fused=fused, fixed=fused, dtype=dtype
    )
    encoder.load(one.dictionary, one.watch(count))
    slab = Slab(rows_max=rows, firings_max=rows * count, device=x.device)
    positions, ids = torch.ones(2, rows, dtype=torch.int64, device=x.device)
    if not encoder.launched:
        return lambda: encoder.encode(x, positions=positions, token_ids=ids, slab=slab)
    launch = launch_of([encoder.group(x, slab)], Work(x.device))

    def step() -> Slab:
        launch.run(rows, positions, ids)
        return slab

    return step


def inside(one: Subject, count: int, x: Tensor) -> tuple[Step, Step]:
    """``count`` watched latents as the tap encodes them inside the model's graph: what stands in it, and behind it."""
    rows, dtype = len(x), one.dictionary.W.dtype
    encoder = Encoder(rows_max=rows, d_in=one.size.d_in, slots_max=count, device=x.device, fused=True, dtype=dtype)
    encoder.load(one.dictionary, one.watch(count))
    slab = Slab(rows_max=rows, firings_max=rows * count, device=x.device)
    kernels = inside_of([encoder.group(x, slab)])
    packs, (positions, ids) = kernels.packs([slab]), torch.ones(2, rows, dtype=torch.int64, device=x.device)

    def behind() -> Slab:
        slab.start(rows)
        kernels.pack(packs, rows, positions, ids)
        return slab

    return lambda: kernels.fire(rows), behind


def whole(one: Subject, x: Tensor, *, int8: bool = False, many: str = "") -> Step:
    """All latents, or the k largest, without their zeros; ``int8``: by the screen that reads half as much.

    ``many``: which way many rows go; empty: as the table says.
    """
    everything = Whole.sized(one.dictionary, decoder=False, device=x.device)
    everything.load(one.dictionary, "exact")
    norm = one.dictionary.manifest.encoder.input_norm
    if not available():
        return lambda: firings(everything, *normalise(x.float(), norm))
    return _lists(one, everything, x, int8=int8, many=many)


def chunked(one: Subject, x: Tensor) -> Step:
    """All latents through windows of cuBLAS' product, however few the rows are."""
    everything = Whole.sized(one.dictionary, decoder=False, device=x.device)
    everything.load(one.dictionary, "exact")
    known, lists = _known(one, everything), Lists(cap=cap_for(4 * one.size.l0))

    def step() -> Code:
        rows = rows_of(x, None)
        out = lists.empty(rows)
        window.appended(known, rows, x.new_empty(len(x), WINDOW, dtype=torch.float32), out)
        return out

    return step


def dense_of(found: Any, rows: int, columns: int) -> Tensor:
    """What a step gave, with its zeros, ``[rows, columns]`` float32 on its device."""
    if isinstance(found, Slab):
        count = int(found.count)
        dense = torch.zeros(rows, columns, device=found.device)
        dense[found.row[:count].long(), found.slot[:count].long()] = found.value[:count]
        return dense
    if hasattr(found, "dense"):
        return torch.from_numpy(found.dense(rows, columns))
    dense = torch.zeros(rows, columns + 1, device=found.value.device)  # the last column takes what is not there
    there = torch.arange(found.value.shape[1], device=dense.device) < found.count[:, None]
    return dense.scatter_(1, torch.where(there, found.index.long(), columns), found.value)[:, :columns]


def _lists(one: Subject, everything: Whole, x: Tensor, *, int8: bool, many: str) -> Step:
    known, k = _known(one, everything), one.size.k
    quantised = Quantised.sized(len(known), one.size.d_in, x.device) if int8 else None
    if quantised is not None:
        quantised.load(known.W, one.size.typical)
    cap = cap_for_winners(k) if k else cap_for(4 * one.size.l0)
    assert cap is not None, "k winners fit a list"
    lists = Lists(cap=cap, quantised=quantised, many=many)
    if k:
        return lambda: lists.winners(known, rows_of(x, None), k)
    return lambda: lists.fired(known, rows_of(x, None))


def _known(one: Subject, everything: Whole) -> Latents:
    columns = {name: getattr(everything, name)[: one.size.latents] for name in ("W", "lim", "s", "c")}
    return Latents(**columns, norm=norms(columns["W"]))
