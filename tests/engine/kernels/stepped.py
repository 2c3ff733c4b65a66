"""Steps for the kernels' tests: groups made from tensors, and what the fold's arithmetic says of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saewatch.core.manifest import InputNorm
from saewatch.engine.batching import Encoded
from saewatch.engine.encoder import Encoder
from saewatch.engine.kernels.group import Group, Work
from saewatch.engine.kernels.launch import Launch
from saewatch.engine.slab import Scored, Slab, pack_fixed
from saewatch.engine.watched import Watched

CPU = torch.device("cpu")


def whole_numbers(rows: int, width: int, *, seed: int, dtype: torch.dtype = torch.float32, most: int = 4) -> Tensor:
    """Small integers: sums of their products are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, (rows, width), generator=generator).to(dtype)


def a_group(
    x: Tensor, W: Tensor, *, lim: float = 8.0, room: int = 100_000, norm: InputNorm | None = None, rows: int = 0
) -> Group:
    """One whose values are ``2 u + 1``, and which excludes nothing; on the device of ``x`` and ``W``."""
    slots, device = len(W), x.device
    return Group(
        x=x,
        W=W,
        lim=torch.full((slots,), lim, device=device),
        s=torch.full((slots,), 2.0, device=device),
        c=torch.ones(slots, device=device),
        first=torch.zeros(1, dtype=torch.int64, device=device),
        special=torch.full((9,), torch.iinfo(torch.int64).max, dtype=torch.int64, device=device),
        specials=torch.zeros(1, dtype=torch.int64, device=device),
        max_norm=torch.full((1,), torch.finfo(torch.float32).max, device=device),
        norm=norm or InputNorm(),
        slab=Slab(rows_max=rows or len(x), firings_max=room, device=device),
    )


def launched(groups: Sequence[Group], rows: int | None = None) -> list[Encoded]:
    """What each group fires on a step of so many rows, by default all of its buffer."""
    rows = len(groups[0].x) if rows is None else rows
    device = groups[0].x.device
    numbers = torch.arange(rows, device=device)
    Launch(groups, Work(device)).run(rows, numbers, torch.zeros_like(numbers))
    return [read(group.slab) for group in groups]


def read(slab: Slab) -> Encoded:
    """What a slab holds, on the host."""
    slab.to_host()
    if slab.device.type == "cuda":
        torch.cuda.synchronize()
    return slab.encoded()


def packed(group: Group, rows: int | None = None) -> tuple[Encoded, Slab]:
    """The same by torch and `pack_fixed`."""
    rows = len(group.x) if rows is None else rows
    u = group.x[:rows].float() @ group.W.float().t()
    slab = Slab(rows_max=group.slab.rows_max, firings_max=group.slab.firings_max)
    slab.start(rows)
    pack_fixed(slab, Scored(u > group.lim, u, group.s, group.c), 0)
    return slab.encoded(), slab


def with_kernels(one: Watched) -> Watched:
    """The same stream, encoded by the kernels."""
    before = one.encoder
    one.encoder = Encoder(
        rows_max=before.rows_max,
        d_in=before.d_in,
        slots_max=before.slots,
        fused=True,
        dtype=one.bundle.dictionary.W.dtype,
    )
    one.encoder.load(one.bundle.dictionary, before.watch_list)
    assert one.encoder.launched
    return one


def columns(found: Encoded) -> list[list[float]]:
    """All that a step gave, to be compared exactly."""
    names = ("row", "slot", "value", "excluded", "overflowed")
    return [getattr(found, name).tolist() for name in names]
