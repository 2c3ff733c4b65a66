from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from saewatch.core.errors import MisfitError
from saewatch.core.manifest import Exclusions
from saewatch.dictionary import align
from saewatch.dictionary.align import Alignment, Pair, kept
from saewatch.dictionary.bundle import Parts
from saewatch.engine.encode import Folded, encode
from tests import made
from tests.dictionary.aligned import changed, parts, permuted, rows_of

OLD = parts()
LATENTS = OLD.manifest.encoder.latents


def compared(
    new: Parts, *, old: Parts = OLD, wanted: range | list[int] = range(LATENTS), rows: int = 600
) -> list[Pair]:
    alignment = Alignment(old, new, list(wanted))
    for part in rows_of(old, rows).split(170):
        alignment.add(part)
    assert alignment.tokens == rows
    return alignment.pairs()


def test_a_permuted_and_rescaled_copy_is_found_again_whole() -> None:
    scale = torch.linspace(0.3, 4.0, LATENTS)
    new, went = permuted(OLD, scale)
    found = compared(new)
    assert all(pair.accepted for pair in found)
    assert [pair.new for pair in found] == went
    assert [pair.scale for pair in found] == pytest.approx(scale.tolist(), rel=1e-5)
    assert min(min(pair.cos, pair.corr) for pair in found) > 0.999


def test_another_seed_has_other_latents() -> None:
    found = compared(parts(made.dictionary(seed=1)))
    assert not any(pair.accepted for pair in found)
    assert all("is needed" in pair.why for pair in found)


def test_correlations_are_those_of_numpy() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = {name: torch.randn(OLD.tensors[name].shape, generator=generator) * 0.1 for name in ("W", "W_dec")}
    new = changed(OLD, {name: OLD.tensors[name] + one for name, one in noise.items()})
    x = rows_of(OLD)
    values = [dense(one, x) for one in (OLD, new)]
    for pair in compared(new):
        if pair.new is not None:
            wanted = np.corrcoef(values[0][:, pair.old], values[1][:, pair.new])[0, 1]
            assert pair.corr == pytest.approx(wanted, abs=1e-5)


def test_accepted_pairs_are_those_of_an_optimal_assignment() -> None:
    """Half of the latents of a copy are replaced by others: what is accepted, the optimal assignment accepts too."""
    new, _ = permuted(OLD)
    other = parts(made.dictionary(seed=3))
    half = {
        name: torch.cat([new.tensors[name][: LATENTS // 2], other.tensors[name][LATENTS // 2 :]])
        for name in made.tensors_of(made.dictionary())
        if name != "b_dec"
    }
    mixed = changed(OLD, half)
    found = compared(mixed)
    x = rows_of(OLD)
    left, right = dense(OLD, x), dense(mixed, x)
    live = [(one > 0).sum(0) >= align.LIVE for one in (left, right)]
    with np.errstate(invalid="ignore"):
        corr = np.nan_to_num(np.corrcoef(left.T, right.T)[:LATENTS, LATENTS:])
    unit = [torch.nn.functional.normalize(one.tensors["W_dec"].double(), dim=1).numpy() for one in (OLD, mixed)]
    cos = unit[0] @ unit[1].T
    score = np.where(live[0][:, None] & live[1], (cos + corr) / 2, -2.0)
    pairs = zip(*linear_sum_assignment(score, maximize=True), strict=True)
    wanted = {(int(i), int(j)) for i, j in pairs if min(cos[i, j], corr[i, j]) >= align.ACCEPT}
    assert {(pair.old, pair.new) for pair in found if pair.accepted} == wanted
    assert 0 < len(wanted) < LATENTS


def test_a_new_latent_takes_one_place_only() -> None:
    """Two old latents of which the second is a noisy copy of the first: only the nearer one is found again."""
    W, W_dec = OLD.tensors["W"].clone(), OLD.tensors["W_dec"].clone()
    W[1], W_dec[1] = W[0] + 0.02, W_dec[0] + 0.02
    columns = {name: OLD.tensors[name].clone() for name in ("lim", "s", "c")}
    for column in columns.values():
        column[1] = column[0]
    double = changed(OLD, {"W": W, "W_dec": W_dec, **columns})
    one, other = compared(OLD, old=double)[:2]
    assert (one.accepted, one.new) == (True, 0)
    assert (other.accepted, other.new, other.why) == (False, 0, "the new one is nearer to 0")


def test_latents_that_hardly_fire_say_nothing() -> None:
    few = compared(permuted(OLD)[0], rows=15)
    assert not any(pair.accepted for pair in few)
    assert few[0].why.endswith("20 are needed")
    silent = changed(OLD, {"lim": torch.full_like(OLD.tensors["lim"], torch.inf)})
    assert {pair.why for pair in compared(silent)} == {"no new one fired"}


def test_wide_dictionaries_are_compared_where_features_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align, "WHOLE", LATENTS - 1)
    monkeypatch.setattr(align, "NEAREST", 5)
    new, went = permuted(OLD)
    assert not Alignment(OLD, new, [7, 3]).whole
    found = compared(new, wanted=[7, 3])
    assert [(pair.old, pair.new, pair.accepted) for pair in found] == [(3, went[3], True), (7, went[7], True)]


def test_dictionaries_of_other_places_are_refused() -> None:
    elsewhere = replace(OLD, manifest=replace(OLD.manifest, hook_point="resid_post.2"))
    with pytest.raises(MisfitError, match=r"found resid_post\.2, 24 wide"):
        Alignment(OLD, elsewhere, [])
    without = replace(OLD, tensors={name: one for name, one in OLD.tensors.items() if name != "W_dec"})
    with pytest.raises(MisfitError, match="without a decoder"):
        Alignment(OLD, without, [])


def test_rows_that_a_dictionary_excludes_are_left_out() -> None:
    x = torch.tensor([[1.0], [1.0], [30.0], [1.0], [torch.nan], [1.0]])
    rules = Exclusions(exclude_first=1, special=(7,), max_norm=9.0)
    assert kept(rules, [1, 2, 3, 7, 4, 5], x).tolist() == [False, True, False, False, False, True]
    assert kept(Exclusions(), [1, 2, 3, 7, 4, 5], x).tolist() == [True] * 4 + [False, True]


def dense(one: Parts, x: torch.Tensor) -> np.ndarray:
    folded = Folded(*(one.tensors[name].numpy() for name in ("lim", "s", "c")))
    return encode(x, one.tensors["W"], folded, one.manifest.encoder)[:, :LATENTS].double().numpy()
