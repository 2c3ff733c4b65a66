"""Beside a GPU nobody waits for it: a step is enqueued whole, and no tensor of the host meets one of the device.

There is no GPU here. `elsewhere` stands for one; the kernels, which it cannot run, do nothing.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch

from saewatch.core.catalogue import WatchList
from saewatch.core.manifest import InputNorm
from saewatch.engine.census import Census
from saewatch.engine.encoder import Encoder
from saewatch.engine.kernels import launch as launching
from saewatch.engine.slab import Slab, enqueued
from saewatch.engine.whole import Whole
from tests import made
from tests.engine.elsewhere import FAR, Elsewhere, Far, Waited, moved

ROWS = (1, 64, 200)
HEADS = (("gelu", 6), ("relu", 3))
CASES: list[tuple[str, int | None, InputNorm, tuple[Any, ...]]] = [
    ("jumprelu", None, InputNorm(), ()),
    ("topk", 9, InputNorm(), ()),
    ("relu", None, InputNorm(kind="layer_norm", eps=1e-5), ()),
    ("relu", None, InputNorm(kind="constant_norm_rescale"), ()),
    ("jumprelu", None, InputNorm(), HEADS),
    ("topk", 9, InputNorm(), HEADS),
]


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("full", "screen", "pack", "settle", "pick", "window", "fused", "decode"):
        monkeypatch.setattr(importlib.import_module(f"saewatch.engine.kernels.{room}"), "launch", lambda *_, **__: None)
    monkeypatch.setattr(launching, "start", lambda *_, **__: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)


def step(encoder: Encoder, slab: Slab, census: Census | None, rows: int) -> None:
    x = Far(made.rows(rows).bfloat16())
    positions, ids = (Far(torch.ones(rows, dtype=torch.int64)) for _ in range(2))
    if encoder.launched:
        slab.start(rows)
    else:
        encoder.encode(x, positions=positions, token_ids=ids, slab=slab)
    if census is not None:
        chosen = enqueued(torch.arange(0, rows, 3), x.device)
        census.add(x[chosen], slab.excluded[chosen])
    slab.to_host(encoder.slots_max)


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("counts", [False, True], ids=["", "census"])
@pytest.mark.parametrize("fused", [False, True], ids=["torch", "kernels"])
@pytest.mark.parametrize(("activation", "k", "norm", "heads"), CASES)
def test_a_step_is_enqueued_whole(
    activation: str, k: int | None, norm: InputNorm, heads: tuple[Any, ...], *, fused: bool, counts: bool
) -> None:
    one = made.dictionary(activation, k=k, norm=norm, dtype=torch.bfloat16, heads=heads)
    assert one.W_dec is not None
    one, sheet = replace(one, W_dec=one.W_dec.bfloat16()), one.manifest.encoder
    d_in, whole = sheet.d_in, None
    if k or counts:
        d_out = d_in if counts else 0
        whole = Whole(rows=sheet.rows, d_in=d_in, dtype=torch.bfloat16, d_out=d_out, fused=fused, int8=fused)
    encoder = Encoder(rows_max=512, d_in=d_in, slots_max=40, dtype=torch.bfloat16, whole=whole, fused=fused, fixed=True)
    watched = (*range(30), *range(sheet.latents, sheet.rows))
    encoder.load(one, WatchList(rows=watched, floors=(0.0,) * len(watched)))
    slab = Slab(rows_max=512, firings_max=1000)
    slab._host = tuple(buffer.clone() for buffer in slab._host)  # noqa: SLF001 - as beside a GPU
    census = Census(whole, d_in=d_in, norm=norm) if whole is not None and counts else None
    moved([encoder, slab, census], kept=("_host", "_read", "dictionary"))
    with Elsewhere(), torch.no_grad():
        for rows in ROWS:
            step(encoder, slab, census, rows)


def test_what_waits_is_found() -> None:
    with Elsewhere(), torch.no_grad():
        x = torch.arange(6.0, device=FAR)
        assert isinstance(x + 1, Far)
        for wait in (
            lambda: int(x[0]),
            lambda: float(x.sum()),
            lambda: bool((x > 1).all()),
            lambda: x[x > 1],
            x.nonzero,
            x.cpu,
            lambda: x + torch.ones(6),
            lambda: torch.ones(6).to(FAR),
            lambda: x.copy_(torch.ones(6)),
        ):
            with pytest.raises(Waited):
                wait()
        x.copy_(torch.ones(6), non_blocking=True)
        torch.ones(6).copy_(x, non_blocking=True)
        x[torch.arange(3, device=FAR)] += 1.0
        assert isinstance(x, Far)
        assert x.held.tolist() == [2.0, 2.0, 2.0, 1.0, 1.0, 1.0]
