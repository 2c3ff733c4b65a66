"""The whole dictionary through the kernels, against the reference: every activation, type, shape and corner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saewatch.core import footprint
from saewatch.core.manifest import Exclusions, InputNorm
from saewatch.dictionary.convert import convert
from saewatch.dictionary.formats import read_saelens
from saewatch.engine.dictionary_file import Dictionary
from saewatch.engine.encode import Folded, compare, encode, grey_pairs
from saewatch.engine.kernels import full
from saewatch.engine.kernels.dictionary import Lists
from saewatch.engine.kernels.operands import Latents, norms, rows_of
from saewatch.engine.kernels.pack import CAPS
from tests import made
from tests.engine.kernels.latents import PAIRS, agrees, dense, latents_of, prepared

ACTIVATIONS = ["relu", "jumprelu", "gated", "topk"]
MANY = full.ROWS + 3


def fired(one: Dictionary, x: Tensor, *, cap: int = 256) -> Tensor:
    latents = latents_of(one)
    lists = Lists(cap=cap)
    code = lists.fired(latents, prepared(one, x))
    assert not code.lost.any()
    return dense(code, len(latents))


def won(one: Dictionary, x: Tensor, k: int, *, cap: int = 256) -> tuple[Tensor, Tensor]:
    latents = latents_of(one, directions=False)
    lists = Lists(cap=cap)
    winners = lists.winners(latents, prepared(one, x), k)
    found = torch.zeros(len(x), len(latents) + 1)
    found.scatter_(1, winners.index.long(), winners.value)
    return found[:, :-1], winners.lost > 0


@pytest.mark.parametrize(("activation", "rows"), [*((name, 3) for name in ACTIVATIONS), ("gated", MANY)])
def test_what_fires_is_what_the_reference_says(activation: str, rows: int) -> None:
    one, x = made.dictionary(activation, latents=200), made.rows(rows)
    agrees(fired(one, x), one, x)


@pytest.mark.parametrize(("W", "x", "rows"), [*((*pair, 2) for pair in PAIRS), (*PAIRS[2], MANY)])
def test_every_pair_of_types(W: torch.dtype, x: torch.dtype, rows: int) -> None:
    one, rows_x = made.dictionary("jumprelu", latents=140, dtype=W), made.rows(rows).to(x)
    agrees(fired(one, rows_x), one, rows_x)


@pytest.mark.parametrize("norm", [InputNorm(kind="layer_norm", eps=1e-5), InputNorm(kind="constant_norm_rescale")])
def test_input_normalisation(norm: InputNorm) -> None:
    one, x = made.dictionary("jumprelu", norm=norm), made.rows(4).bfloat16() + 30.0
    agrees(fired(one, x), one, x)


SAELENS: list[tuple[str, str, dict[str, Any]]] = [
    ("standard", "none", {}),
    ("jumprelu", "layer_norm", {}),
    ("gated", "constant_norm_rescale", {}),
    ("transcoder", "none", {}),
    ("topk", "none", {"k": 9}),
    ("topk", "constant_norm_rescale", {"k": 9}),
]


@pytest.mark.parametrize(("case", "norm", "options"), SAELENS)
def test_parity_with_saelens(tmp_path: Path, case: str, norm: str, options: dict[str, Any]) -> None:
    sae = made.saelens(case, seed=len(case), normalize_activations=norm, **options)
    sae.save_model(tmp_path)
    converted = convert(read_saelens(tmp_path), exclusions=Exclusions())
    tensors = converted.tensors
    folded = Folded(*(tensors[name].numpy() for name in ("lim", "s", "c")))
    one = Dictionary(manifest=converted.manifest, W=tensors["W"], limits=folded, W_dec=None, b_dec=None)
    x = made.rows(5)
    with torch.no_grad():
        expected = sae.encode(x)
    found, still_open = (
        won(one, x, options["k"]) if "k" in options else (fired(one, x), torch.zeros(5, dtype=torch.bool))
    )
    verdict = compare(found, expected, grey_pairs(x, one.W, folded, converted.manifest.encoder), oracle="SAELens")
    assert not still_open.any()
    assert verdict.compared > 20
    assert verdict.good, verdict


@pytest.mark.parametrize(("rows", "latents", "d_in"), [(0, 60, 24), (1, 1, 8), (17, 129, 40), (18, 127, 72)])
def test_odd_shapes(rows: int, latents: int, d_in: int) -> None:
    one = made.dictionary("relu", latents=latents, d_in=d_in, directions=1)
    x = made.rows(rows, d_in=d_in)
    agrees(fired(one, x), one, x)


def test_a_massive_dimension_drowns_nothing() -> None:
    one, x = made.dictionary("jumprelu", dtype=torch.bfloat16), made.rows(6)
    x[:, 5] = 3000.0
    x = x.bfloat16()
    agrees(fired(one, x), one, x)


def test_results_do_not_depend_on_the_other_rows() -> None:
    one, x = made.dictionary("jumprelu"), made.rows(9)
    together = fired(one, x)
    assert torch.equal(together[7:8], fired(one, x[7:8]))
    assert torch.equal(together, fired(one, x))


def test_closed_rows_fire_nothing_even_where_they_are_not_finite() -> None:
    one, x = made.dictionary("relu"), made.rows(3)
    x[1] = torch.nan
    latents = latents_of(one)
    rows = prepared(one, x)
    rows.is_open[1] = 0
    code = Lists(cap=256).fired(latents, rows)
    assert code.count[1] == 0
    assert torch.equal(dense(code, len(latents))[[0, 2]], fired(one, x[[0, 2]]))


@pytest.mark.parametrize("rows", [2, MANY])
def test_what_has_no_room_is_counted_and_the_first_are_kept(rows: int) -> None:
    one = made.dictionary("relu", latents=400)
    one.W[:] = 1.0
    latents, x = latents_of(one), torch.ones(rows, made.D_IN)
    code = Lists(cap=256).fired(latents, prepared(one, x))
    assert set(code.count.tolist()) == {402}
    assert set(code.lost.tolist()) == {402 - 256}
    assert code.index[0].tolist() == list(range(256))


@pytest.mark.parametrize(("rows", "k"), [(1, 9), (4, 1), (4, 9), (4, 32), (MANY, 9)])
def test_winners_are_the_references(rows: int, k: int) -> None:
    one, x = made.dictionary("topk", latents=300, k=k), made.rows(rows)
    found, still_open = won(one, x, k)
    assert not still_open.any()
    agrees(found, one, x)


def test_ties_go_to_the_lowest_index() -> None:
    one = made.dictionary("topk", latents=200, k=9)
    one.W[:200], one.limits.c[:200], one.limits.s[:200], one.limits.lim[:200] = 1.0, 0.5, 1.0, 0.0
    found, _ = won(one, torch.ones(2, made.D_IN), 9)
    assert found[:, :9].unique().tolist() == [made.D_IN + 0.5]
    assert not found[:, 9:].any()


def test_fewer_than_k_may_fire() -> None:
    one = made.dictionary("topk", latents=200, k=9)
    one.W[:], one.limits.lim[:] = -1.0, 0.0
    one.W[70] = 1.0
    found, still_open = won(one, torch.ones(2, made.D_IN), 9)
    assert found.nonzero()[:, 1].tolist() == [70, 70]
    assert not still_open.any()


def crowded(latents: int = 600) -> Dictionary:
    """Latents of which none that is sampled for a floor fires, and most others do."""
    one = made.dictionary("topk", latents=latents, k=9)
    one.W[:latents] = torch.linspace(1.0, 0.5, latents)[:, None]
    one.W[0:latents:8] = -1.0
    for column, value in ((one.limits.lim, 0.0), (one.limits.c, 0.0), (one.limits.s, 1.0)):
        column[:latents] = value
    return one


@pytest.mark.parametrize("rows", [3, MANY])
def test_a_row_whose_list_overflowed_is_screened_again(rows: int) -> None:
    one = crowded()
    x = torch.ones(rows, made.D_IN)
    found, still_open = won(one, x, 9)
    expected = encode(x, one.W, one.limits, one.manifest.encoder)[:, :600]
    settled = ~still_open
    assert int(settled.sum()) == min(rows, 2 * 16)  # twice sixteen places
    assert torch.equal(found[settled] > 0, expected[settled] > 0)


def test_a_row_that_overflows_again_and_again_is_said_to_be_open() -> None:
    one = crowded(3000)
    one.W[:3000] = one.W[:3000].flip(0).clone()  # ascending: the first entries are the least, and raise no floor
    one.W[0:3000:8] = -1.0
    assert won(one, torch.ones(2, made.D_IN), 9)[1].all()


@pytest.mark.parametrize(("latents", "known"), [(400, 32), (640, 16)])
def test_winners_of_a_second_round_are_put_where_they_belong(latents: int, known: int) -> None:
    """The first entries are the least; of 640 the first list's floor must hold too, or no second list has room."""
    W = torch.zeros(latents, 8)
    W[:, 0] = torch.arange(latents) + 1.0
    W[::8] = -1.0
    zeros, x = torch.zeros(latents), torch.zeros(MANY, 8)
    x[:, 0] = 1.0
    some = Latents(W=W, lim=zeros, s=zeros + 1.0, c=zeros, norm=norms(W))
    best = Lists(cap=256).winners(some, rows_of(x, None), 9)
    settled, order = best.lost == 0, W[:, 0].topk(9).indices.sort().values
    assert int(settled.sum()) == known
    assert set(best.count.tolist()) == {0, 9}
    assert bool((best.index[settled] == order).all())
    assert bool((best.value[settled] == W[order, 0]).all())


def test_what_is_reckoned_with_is_what_the_kernels_take() -> None:
    assert footprint.SCREENED == full.ROWS
    assert CAPS[-1] // (2 * footprint.SAMPLE) == footprint.WINNERS, "twice what reaches a floor fits the longest list"


def test_the_same_bytes_on_every_run() -> None:
    one, x = made.dictionary("topk", latents=300, k=9), made.rows(5)
    first = won(one, x, 9)[0].numpy().tobytes()
    assert all(won(one, x, 9)[0].numpy().tobytes() == first for _ in range(2))
