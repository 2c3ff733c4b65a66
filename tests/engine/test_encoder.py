"""The watched encoder against the reference, its exclusions, its fixed buffers and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from saewatch.core.catalogue import WatchList
from saewatch.core.errors import ManifestError, MisfitError
from saewatch.core.manifest import Exclusions, InputNorm
from saewatch.engine import encoder as module
from saewatch.engine.batching import Encoded
from saewatch.engine.dictionary_file import Dictionary
from saewatch.engine.encode import compare, encode, grey_pairs
from saewatch.engine.encoder import Encoder
from saewatch.engine.slab import Slab
from saewatch.engine.whole import Whole
from tests import made

WATCHED = WatchList(rows=(0, 3, 7, 40, 95, 96, 97), floors=(0.0, 0.5, 0.0, 0.1, 0.0, 0.0, 0.02))
INPUT_NORMS = [InputNorm(), InputNorm(kind="layer_norm", eps=1e-5), InputNorm(kind="constant_norm_rescale")]


def ready(one: Dictionary, watch: WatchList = WATCHED, *, fixed: bool = False, slots: int = 9) -> Encoder:
    whole = Whole.sized(one, decoder=False) if one.manifest.encoder.k else None
    found = Encoder(rows_max=4096, d_in=made.D_IN, slots_max=slots, whole=whole, fixed=fixed)
    found.load(one, watch)
    return found


def fired(
    encoder: Encoder, x: Tensor, *, positions: Tensor | None = None, ids: Tensor | None = None, capacity: int = 100_000
) -> Encoded:
    slab = Slab(rows_max=encoder.rows_max, firings_max=capacity)
    positions = torch.arange(100, 100 + len(x)) if positions is None else positions
    ids = torch.full((len(x),), 77) if ids is None else ids
    return encoder.encode(x, positions=positions, token_ids=ids, slab=slab).encoded()


def dense(firings: Encoded, rows: int, slots: int) -> Tensor:
    found = torch.zeros(rows, slots)
    found[torch.from_numpy(firings.row).long(), torch.from_numpy(firings.slot).long()] = torch.from_numpy(firings.value)
    return found


@pytest.mark.parametrize("norm", INPUT_NORMS, ids=lambda norm: norm.kind)
@pytest.mark.parametrize(("activation", "k"), [("jumprelu", None), ("relu", None), ("topk", 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_watched_rows_fire_as_the_whole_dictionary_does(
    activation: str, k: int | None, norm: InputNorm, dtype: torch.dtype
) -> None:
    one = made.dictionary(activation, k=k, norm=norm, dtype=dtype)
    x = made.rows(1500).bfloat16()
    rows, floor = list(WATCHED.rows), torch.tensor(WATCHED.floors)
    whole = encode(x, one.W, one.limits, one.manifest.encoder)
    reference = whole[:, rows]
    grey = grey_pairs(x.float(), one.W, one.limits, one.manifest.encoder)[:, rows] | ((reference - floor).abs() < 1e-5)
    found = dense(fired(ready(one), x), len(x), len(rows))
    verdict = compare(found, torch.where(reference > floor, reference, 0.0), grey, whole=whole)
    assert verdict.compared > 1000
    assert verdict.good, verdict


@pytest.mark.parametrize(("activation", "k"), [("jumprelu", None), ("topk", 9)])
@pytest.mark.parametrize("capacity", [100_000, 700, 1])
def test_the_fixed_way_gives_the_bytes_of_the_quick_one(activation: str, k: int | None, capacity: int) -> None:
    one, x = made.dictionary(activation, k=k), made.rows(2100)
    left = fired(ready(one, slots=len(WATCHED.rows)), x, capacity=capacity)
    right = fired(ready(one, fixed=True, slots=len(WATCHED.rows)), x, capacity=capacity)
    for name in ("row", "slot", "value", "excluded", "overflowed"):
        assert np.array_equal(getattr(left, name), getattr(right, name)), name
    assert left.overflowed.any() == (capacity < 100_000)


def test_firings_are_sorted_by_row_and_slot() -> None:
    found = fired(ready(made.dictionary()), made.rows(1300))
    keys = found.row.astype(np.int64) * 1000 + found.slot
    assert len(keys) > 1000
    assert (np.diff(keys) > 0).all()


def test_every_value_is_above_its_floor() -> None:
    found = fired(ready(made.dictionary()), made.rows(1000))
    assert (found.value > np.array(WATCHED.floors, dtype=np.float32)[found.slot]).all()


def test_exact_topk_never_loses_a_winner_to_the_last_bit() -> None:
    one = made.dictionary("topk", k=9)
    every = WatchList(rows=tuple(range(made.LATENTS)), floors=(0.0,) * made.LATENTS)
    found = fired(ready(one, every, slots=made.LATENTS), made.rows(500) + 3.0)
    assert np.bincount(found.row, minlength=500).max() == 9
    assert (np.bincount(found.row, minlength=500) == 9).mean() > 0.9


def test_a_thresholded_topk_needs_no_competition() -> None:
    one = made.dictionary("topk", k=9)
    with pytest.raises(MisfitError, match="the whole dictionary where latents compete"):
        Encoder(rows_max=8, d_in=made.D_IN, slots_max=9).load(one, WATCHED)
    with pytest.raises(ManifestError, match="found thresholded, expected exact"):
        Encoder(rows_max=8, d_in=made.D_IN, slots_max=9, mode="thresholded").load(one, WATCHED)


@pytest.mark.parametrize("fixed", [False, True])
def test_what_competes_and_what_does_not_are_the_same_watched_together_or_apart(*, fixed: bool) -> None:
    one, x = made.dictionary("topk", k=9, heads=(("gelu", 6),)), made.rows(700)
    count = one.manifest.encoder.rows
    latents, directions = (3, 40, 95), tuple(range(made.LATENTS, count))
    assert len(directions) == 3, "two, and one with a head"

    def of(*rows: int) -> Tensor:
        watch = WatchList(rows=rows, floors=(0.0,) * len(rows))
        return dense(fired(ready(one, watch, fixed=fixed), x), len(x), len(rows))

    apart = torch.cat((of(*latents), of(*directions)), dim=1)
    assert bool((apart > 0).any(dim=0).all())
    assert torch.equal(of(*latents, *directions), apart)
    alone = ready(one, WatchList(rows=directions, floors=(0.0,) * 3), fixed=fixed)
    assert alone.whole is not None
    alone.whole.top = None  # type: ignore[method-assign,assignment]  # nobody asks who won where no winner is watched
    assert torch.equal(dense(fired(alone, x), len(x), 3), apart[:, 3:])


RULES = Exclusions(exclude_first=2, special=(5, 7), max_norm=20.0)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(("activation", "k"), [("relu", None), ("topk", 9)])
def test_excluded_rows_emit_nothing_and_are_marked(fixed: bool, activation: str, k: int | None) -> None:
    one = made.dictionary(activation, k=k, exclusions=RULES)
    x = made.rows(10)
    x[3] *= 100.0
    x[4, 0], x[5, 0] = torch.nan, torch.inf
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    ids = torch.tensor([5, 9, 9, 9, 9, 9, 5, 7, 6, -1])
    found = fired(ready(one, fixed=fixed), x, positions=positions, ids=ids)
    assert found.excluded.tolist() == [True, True, False, True, True, True, True, True, False, False]
    assert set(found.row.tolist()) == {2, 8, 9}


def test_an_excluded_row_is_silent_where_a_scale_of_zero_would_fire() -> None:
    one = made.dictionary("relu", exclusions=RULES)
    assert (one.limits.lim < 0).any()  # latents with a positive bias fire on a row of zeros
    assert len(fired(ready(one), torch.zeros(1, made.D_IN)).row) > 0
    assert len(fired(ready(one), torch.zeros(1, made.D_IN), positions=torch.zeros(1)).row) == 0


def test_a_row_without_length_cannot_be_rescaled() -> None:
    one = made.dictionary(norm=InputNorm(kind="constant_norm_rescale"))
    assert fired(ready(one), torch.zeros(2, made.D_IN)).excluded.all()


def test_an_empty_step_and_an_empty_watch_set() -> None:
    one = made.dictionary()
    assert len(fired(ready(one), torch.zeros(0, made.D_IN)).excluded) == 0
    for fixed in (False, True):
        found = fired(ready(one, WatchList(rows=(), floors=()), fixed=fixed), made.rows(5))
        assert len(found.row) == 0


def test_a_swap_keeps_the_addresses_and_replaces_everything() -> None:
    first, second = made.dictionary(seed=0), made.dictionary(seed=5, exclusions=RULES)
    encoder, x = ready(first), made.rows(300)
    buffers = [value for value in vars(encoder).values() if isinstance(value, Tensor)]
    before = [buffer.data_ptr() for buffer in buffers]
    encoder.load(second, WatchList(rows=(1, 2), floors=(0.0, 0.3)))
    assert before == [buffer.data_ptr() for buffer in buffers]
    positions = torch.zeros(300)
    assert fired(encoder, x, positions=positions).excluded.all()
    encoder.load(first, WATCHED)  # which excludes nothing
    left, right = fired(encoder, x, positions=positions, ids=torch.full((300,), 5)), fired(ready(first), x)
    assert np.array_equal(left.value, right.value)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(("activation", "k"), [("jumprelu", None), ("topk", 9)])
def test_another_watch_set_is_watched_from_then_on(activation: str, k: int | None, *, fixed: bool) -> None:
    one = made.dictionary(activation, k=k)
    encoder, x = ready(one, fixed=fixed), made.rows(400)
    encoder.watch(WatchList(rows=(7,), floors=(0.0,)))
    found, before = fired(encoder, x), fired(ready(one), x)
    assert set(found.slot.tolist()) == {0}
    assert np.allclose(found.value, before.value[before.slot == 2], rtol=1e-5)


BAD_WATCHES = {
    "expected at most 9": WatchList(rows=tuple(range(10)), floors=(0.0,) * 10),
    "expected ascending": WatchList(rows=(3, 3), floors=(0.0, 0.0)),
    "expected rows 0 to 97": WatchList(rows=(3, 98), floors=(0.0, 0.0)),
    "expected finite floors": WatchList(rows=(3,), floors=(-1.0,)),
}


@pytest.mark.parametrize("message", BAD_WATCHES)
def test_a_refused_watch_set_leaves_the_old_one_in_force(message: str) -> None:
    encoder, x = ready(made.dictionary()), made.rows(50)
    before = fired(encoder, x)
    with pytest.raises(MisfitError, match=message):
        encoder.watch(BAD_WATCHES[message])
    with pytest.raises(MisfitError, match=message):
        encoder.load(made.dictionary(seed=5), BAD_WATCHES[message])
    assert np.array_equal(fired(encoder, x).value, before.value)


def test_a_dictionary_of_another_width_does_not_fit() -> None:
    with pytest.raises(MisfitError, match=r"dictionary.encoder: found \[0, 16\], expected at most 9 rows of width 24"):
        ready(made.dictionary(d_in=16))


def test_a_swap_cannot_change_what_a_graph_has_captured() -> None:
    encoder = ready(made.dictionary())
    with pytest.raises(MisfitError, match="layer_norm"):
        encoder.load(made.dictionary(norm=InputNorm(kind="layer_norm", eps=1e-5)), WATCHED)


def test_a_whole_dictionary_that_would_be_rounded_does_not_fit() -> None:
    half = made.dictionary("topk", k=9, dtype=torch.float16)
    whole = Whole.sized(half, decoder=False)
    encoder = Encoder(rows_max=8, d_in=made.D_IN, slots_max=9, whole=whole)
    encoder.load(half, WATCHED)
    with pytest.raises(MisfitError, match=r"found torch.float32, expected a type within torch.float16"):
        encoder.load(made.dictionary("topk", k=9), WATCHED)


def test_rows_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    one, x = made.dictionary(), made.rows(100)
    whole = fired(ready(one), x)
    monkeypatch.setattr(module, "ROWS", 7)
    parts = fired(ready(one), x)
    assert np.array_equal(whole.row, parts.row)
    assert np.allclose(whole.value, parts.value, atol=1e-6)
