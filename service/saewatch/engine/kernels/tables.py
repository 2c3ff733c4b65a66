"""The table of a launch's groups on the device.

It holds addresses, so it is valid as long as those buffers are where they are: a dictionary that is swapped is copied
into the same ones.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from saewatch.engine.kernels.group import Group
from saewatch.engine.slab import Slab, enqueued

X, STRIDE, D_IN, KIND, EPS, FIRST, SPECIAL, SPECIALS, MAX_NORM, CENTRED = (tl.constexpr(n) for n in range(10))
READ, READ_STRIDE, MOVES, W, LIM, SCALE, OFFSET, SLOTS = (tl.constexpr(n) for n in range(10, 18))
VALUES, WORDS, TILE, TILE_END = (tl.constexpr(n) for n in range(18, 22))
ROW, SLOT, VALUE, COUNT, WANTED, EXCLUDED, OVERFLOW, ROOM = (tl.constexpr(n) for n in range(22, 30))
FIELDS = tl.constexpr(30)
"""Columns of the table, ``[groups, FIELDS]`` int64: addresses, sizes and places. ``X`` are the hook point's rows,
``READ`` those that are multiplied: the same, or centred ones, which each part of a step writes anew (``MOVES`` 0)."""

WORD = tl.constexpr(16)
"""Slots of a word of bits: those of the smallest tile, so that no two programs share a word."""

KINDS: Mapping[str, int] = {"none": 0, "layer_norm": 1, "constant_norm_rescale": 2}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tables:
    """What a launch reads of its groups."""

    groups: Tensor  # [groups, FIELDS] int64
    tiles: Tensor  # [tiles, 2] int32: group, first slot
    words: int  # of a row, over all groups
    slots: int  # of a row, over all groups


def tables(groups: Sequence[Group], *, tile: int, rows: int, centred: Tensor) -> Tables:
    """The tables of ``groups`` for tiles of ``tile`` slots, and at most ``rows`` rows in a part of a step.

    ``centred``: where centred rows go, flat float32 (`centred_width` a row).
    """
    found: list[list[int]] = []
    tiles: list[tuple[int, int]] = []
    words = slots = wide = 0
    for number, group in enumerate(groups):
        count, before = len(group.lim), len(tiles)
        tiles += [(number, first) for first in range(0, count, tile)]
        into = centred[rows * wide :].data_ptr() if group.centred else 0
        found.append([*_rows(group, into), *_watched(group), slots, words, before, len(tiles), *_slab(group.slab)])
        slots, words = slots + count, words + math.ceil(count / WORD.value)
        wide += centred_width(group)
    device = groups[0].x.device
    return Tables(
        groups=enqueued(torch.tensor(found, dtype=torch.int64), device),
        tiles=enqueued(torch.tensor(tiles, dtype=torch.int32).reshape(-1, 2), device),
        words=words,
        slots=slots,
    )


def centred_width(group: Group) -> int:
    """Elements of one centred row; 0 where rows are not centred."""
    return int(group.x.shape[1]) if group.centred else 0


def _rows(group: Group, centred: int) -> list[int]:
    x, stride, d_in = group.x.data_ptr(), group.x.stride(0), group.x.shape[1]
    eps = int.from_bytes(struct.pack("<f", group.norm.eps or 0.0), "little", signed=True)
    rules = [tensor.data_ptr() for tensor in (group.first, group.special, group.specials, group.max_norm)]
    read = [centred, d_in, 0] if group.centred else [x, stride, 1]
    return [x, stride, d_in, KINDS[group.norm.kind], eps, *rules, centred, *read]


def _watched(group: Group) -> list[int]:
    return [*(tensor.data_ptr() for tensor in (group.W, group.lim, group.s, group.c)), len(group.lim)]


def _slab(slab: Slab) -> list[int]:
    into = (slab.row, slab.slot, slab.value, slab.count, slab.wanted, slab.excluded, slab.overflow)
    return [*(buffer.data_ptr() for buffer in into), slab.firings_max]
