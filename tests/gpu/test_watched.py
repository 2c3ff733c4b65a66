"""The watched encoder on a GPU: the CPU's answers, the same bytes on every replay, swaps under a graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saewatch.core.catalogue import WatchList
from saewatch.engine.encode import compare, encode, grey_pairs
from saewatch.engine.encoder import Encoder
from saewatch.engine.kernels.group import Group, Work
from saewatch.engine.kernels.inside import Inside
from saewatch.engine.kernels.launch import Launch
from saewatch.engine.slab import Slab
from tests import made
from tests.engine.kernels.stepped import a_group, columns, launched, packed, read, whole_numbers

pytestmark = pytest.mark.gpu

TYPES = [torch.bfloat16, torch.float16, torch.float32]
REPLAYS = 100


def random(rows: int, width: int, *, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator).to(dtype).to(device)


def on_host(group: Group) -> Group:
    moved = a_group(group.x.cpu(), group.W.cpu(), lim=float(group.lim[0]), room=group.slab.firings_max)
    assert moved.norm == group.norm
    return moved


@pytest.mark.parametrize(("x_type", "w_type"), [(a, b) for a in TYPES for b in TYPES])
@pytest.mark.parametrize("rows", [1, 17, 150])
def test_exact_sums_give_the_bytes_of_the_cpu(
    device: torch.device, rows: int, x_type: torch.dtype, w_type: torch.dtype
) -> None:
    x, W = (whole_numbers(n, 264, seed=n).to(device) for n in (rows, 50))
    group = a_group(x.to(x_type), W.to(w_type), lim=40.0, room=500)
    assert columns(launched([group])[0]) == columns(packed(on_host(group))[0])


@pytest.mark.parametrize("dtype", TYPES)
def test_the_reference_outside_the_grey_band(device: torch.device, dtype: torch.dtype) -> None:
    one, x = made.dictionary("jumprelu", d_in=2304, latents=400, dtype=dtype), made.rows(130, d_in=2304).to(dtype)
    encoder = Encoder(rows_max=130, d_in=2304, slots_max=402, device=device, fused=True, fixed=True, dtype=dtype)
    encoder.load(one, WatchList(rows=tuple(range(402)), floors=(0.0,) * 402))
    slab, index = Slab(rows_max=130, firings_max=100_000, device=device), torch.arange(130, device=device)
    found = read(encoder.encode(x.to(device), positions=index, token_ids=index, slab=slab))
    dense = torch.zeros(130, 402)
    dense[torch.from_numpy(found.row).long(), torch.from_numpy(found.slot).long()] = torch.from_numpy(found.value)
    expected = encode(x, one.W, one.limits, one.manifest.encoder)
    verdict = compare(dense, expected, grey_pairs(x.float(), one.W, one.limits, one.manifest.encoder))
    assert verdict.compared > 1000
    assert verdict.good, verdict


@pytest.mark.parametrize(("x_type", "w_type"), [(a, b) for a in TYPES for b in TYPES])
def test_a_value_is_the_same_in_any_step(device: torch.device, x_type: torch.dtype, w_type: torch.dtype) -> None:
    x = random(1, 264, seed=0, dtype=x_type, device=device)
    W = random(33, 264, seed=1, dtype=w_type, device=device)
    values = set()
    for rows in (150, 100, 17, 16, 1):
        (found,) = launched([a_group(x.expand(rows, -1).contiguous(), W, lim=-1e9)])
        values |= {tuple(row) for row in found.value.reshape(rows, 33).tolist()}
    assert len(values) == 1


def replayed(launch: Launch, rows: int, index: Tensor) -> torch.cuda.CUDAGraph:
    """The launch, captured; it was run before, so that nothing is compiled meanwhile."""
    launch.run(rows, index, index)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch.run(rows, index, index)
    return graph


@pytest.mark.parametrize("rows", [1, 64, 1500])
def test_replays_give_the_same_bytes_and_follow_the_rows(cuda: torch.device, rows: int) -> None:
    groups = [
        a_group(
            random(rows, 2304, seed=seed, dtype=torch.bfloat16, device=cuda),
            random(300, 2304, seed=9 + seed, dtype=torch.bfloat16, device=cuda),
            lim=60.0,
            room=20 * rows,
        )
        for seed in range(3)
    ]
    index = torch.arange(rows, device=cuda)
    graph = replayed(Launch(groups, Work(cuda)), rows, index)
    found = set()
    for _ in range(REPLAYS):
        graph.replay()
        found.add(str([columns(read(group.slab)) for group in groups]))
    assert len(found) == 1
    for group in groups:
        group.x.copy_(group.x.flip(0))
    graph.replay()
    again = str([columns(read(group.slab)) for group in groups])
    assert again == str([columns(one) for one in launched(groups)])


def test_a_swap_is_seen_by_a_graph_that_was_captured_before(cuda: torch.device) -> None:
    watch = WatchList(rows=tuple(range(96)), floors=(0.0,) * 96)
    encoder = Encoder(rows_max=40, d_in=made.D_IN, slots_max=96, device=cuda, fused=True)
    encoder.load(made.dictionary(), watch)
    x, index = made.rows(40).to(cuda), torch.arange(40, device=cuda)
    slab = Slab(rows_max=40, firings_max=5000, device=cuda)
    graph = replayed(Launch([encoder.group(x, slab)], Work(cuda)), 40, index)
    encoder.load(made.dictionary(seed=5), watch)
    graph.replay()
    found = columns(read(slab))
    fresh = Slab(rows_max=40, firings_max=5000, device=cuda)
    assert found == columns(read(encoder.encode(x, positions=index, token_ids=index, slab=fresh)))


def test_a_graph_multiplies_what_is_packed_behind_it(cuda: torch.device) -> None:
    x, W = (random(n, 2304, seed=n, dtype=torch.bfloat16, device=cuda) for n in (64, 300))
    group, index = a_group(x, W, lim=60.0, room=2000), torch.arange(64, device=cuda)
    kernels, slab = Inside([group]), Slab(rows_max=64, firings_max=2000, device=cuda)
    kernels.compile()
    packs = kernels.packs([slab])
    kernels.fire(64)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.fire(64)  # for as many rows as it is captured for, whatever the step has
    for rows in (64, 50, 1):
        x.copy_(random(64, 2304, seed=rows, dtype=torch.bfloat16, device=cuda))
        graph.replay()
        slab.start(rows)
        kernels.pack(packs, rows, index[:rows], index[:rows])
        assert columns(read(slab)) == columns(launched([group], rows)[0])


def test_a_graph_follows_what_is_copied_into_its_buffers(cuda: torch.device) -> None:
    first, other = (Encoder(rows_max=8, d_in=made.D_IN, slots_max=n, device=cuda, fused=True) for n in (96, 40))
    for encoder, seed in ((first, 0), (other, 5)):
        count = encoder.slots_max
        encoder.load(made.dictionary(seed=seed), WatchList(rows=tuple(range(count)), floors=(0.0,) * count))
    x, index = made.rows(8).to(cuda), torch.arange(8, device=cuda)
    slab = Slab(rows_max=8, firings_max=800, device=cuda)
    kernels = Inside([first.group(x, slab)])
    packs = kernels.packs([slab])
    kernels.fire(8)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.fire(8)
    first.check_follows(other)
    first.follow(other)
    graph.replay()
    slab.start(8)
    kernels.pack(packs, 8, index, index)
    fresh = Slab(rows_max=8, firings_max=800, device=cuda)
    assert columns(read(slab)) == columns(read(other.encode(x, positions=index, token_ids=index, slab=fresh)))
