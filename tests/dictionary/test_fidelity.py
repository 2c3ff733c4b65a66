"""Comparing two readings of texts, on a made dictionary: against the reference encoder over whole texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from saewatch.core import aggregate, limits
from saewatch.core.aggregate import Firings, Requests
from saewatch.core.batch import F64
from saewatch.core.errors import ConfigError, ManifestError, MisfitError
from saewatch.core.manifest import Exclusions
from saewatch.dictionary.fidelity import Compared, Fidelity, Recorded, over
from saewatch.engine.dictionary_file import Dictionary
from saewatch.engine.encode import encode
from tests import made

RULES = Exclusions(exclude_first=1, special=(7,), max_norm=40.0)
HELD = made.dictionary(exclusions=RULES)
FEATURES = made.features(HELD.manifest.encoder)
TEXTS = 24


def texts(seed: int = 0) -> list[tuple[list[int], torch.Tensor]]:
    chance = np.random.default_rng(seed)
    lengths = chance.integers(3, 40, TEXTS).tolist()
    return [(chance.integers(0, 30, n).tolist(), made.rows(n, seed=100 + i)) for i, n in enumerate(lengths)]


def moved(x: torch.Tensor, size: float = 0.2) -> torch.Tensor:
    return x + size * made.rows(len(x), seed=len(x) + 999)


def compared(*, size: float = 0.2, held: Dictionary = HELD) -> Compared:
    found = Fidelity(held, FEATURES)
    for ids, x in texts():
        found.add(found.encoded(ids, x), found.encoded(ids, moved(x, size)), len(ids))
    return found.result()


def acts(ids: list[int], x: torch.Tensor) -> torch.Tensor:
    """By hand: what is excluded is silent."""
    found = encode(x, HELD.W, HELD.folded("exact"), HELD.manifest.encoder)
    out = torch.linalg.vector_norm(x, dim=1) > 40.0
    out[0] = True
    found[out | (torch.tensor(ids) == 7)] = 0.0
    return found


def column(values: torch.Tensor, number: int) -> np.ndarray:
    """A feature's value on each token: its largest latent above the floor."""
    feature = FEATURES[number]
    rows = feature.latents if feature.direction is None else (made.LATENTS + feature.direction,)
    own = values[:, list(rows)].max(dim=1).values
    return np.where(own > feature.floor, own, 0.0)


@pytest.mark.parametrize("part", [5, 1000])
def test_columns_are_those_of_whole_texts(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENCODE_PART_ROWS", part)
    found = compared()
    reference = [acts(ids, x) for ids, x in texts()]
    served = [acts(ids, moved(x)) for ids, x in texts()]
    rows = HELD.manifest.encoder.rows
    assert found.units == rows
    assert found.texts == TEXTS
    for number in range(rows):
        pair = [np.concatenate([one[:, number] for one in side]) for side in (reference, served)]
        assert found.figures.reference[number] == (pair[0] > 0).sum()
        assert found.figures.both[number] == ((pair[0] > 0) & (pair[1] > 0)).sum()
    for number in range(len(FEATURES)):
        pair = [np.concatenate([column(one, number) for one in side]) for side in (reference, served)]
        assert found.figures.served[rows + number] == (pair[1] > 0).sum()
        assert found.figures.both[rows + number] == ((pair[0] > 0) & (pair[1] > 0)).sum()
    assert found.fvu is not None
    assert found.fvu_served is not None


def test_the_same_twice_is_the_same() -> None:
    found = compared(size=0.0)
    fired = found.figures.reference > 0
    assert (found.figures.jaccard[fired] == 1.0).all()
    assert found.figures.corr[fired] == pytest.approx(1.0)
    assert found.fvu == found.fvu_served
    assert found.excluded_apart == 0
    assert all(one.agreement.hits == one.agreement.n for one in found.over)


def test_scores_are_those_of_the_aggregates() -> None:
    """The 95 % point of 24 texts is the second largest score."""
    found = compared()
    scores = []
    for ids, x in texts():
        values = acts(ids, x)
        kept = (torch.linalg.vector_norm(x, dim=1) <= 40.0).numpy()
        kept[0] = False
        kept &= np.array(ids) != 7
        position = np.flatnonzero(column(values, 1))
        none = np.zeros(len(position), np.int64)
        value = column(values, 1)[position].astype(np.float32)
        firings = Firings(request=none, position=position, feature=none, unit=none, value=value)
        scores.append(aggregate.scores(FEATURES[1:2], Requests.of([len(ids)], [len(ids)], kept), firings)[0, 0])
    scored = sorted((one for one in scores if not np.isnan(one)), reverse=True)
    assert found.over[1].scored == len(scored)
    assert found.over[1].point == pytest.approx(scored[len(scored) // 20], rel=1e-6)


def test_what_only_one_side_excludes_is_counted_and_is_silent_there() -> None:
    found = Fidelity(HELD, FEATURES)
    ids, x = [1, 2, 3], made.rows(3)
    loud = x.clone()
    loud[1] *= 100.0
    found.add(found.encoded(ids, x), found.encoded(ids, loud), 3)
    one = found.result()
    assert (one.excluded_apart, one.figures.tokens) == (1, 2)
    assert (one.figures.served <= 1).all()


def test_rows_that_are_no_numbers_are_counted_in_what_serves_and_refused_in_the_reference() -> None:
    found = Fidelity(HELD, FEATURES)
    ids, x = [1, 2, 3], made.rows(3)
    broken = x.clone()
    broken[2, 0] = torch.nan
    found.add(found.encoded(ids, x), found.encoded(ids, broken), 3)
    assert found.result().not_finite == 1
    with pytest.raises(MisfitError, match="no numbers"):
        found.add(found.encoded(ids, broken), found.encoded(ids, x), 3)


def test_what_was_recorded_is_compared_for_features_alone() -> None:
    """A recording of the moved model gives each feature the figures that its activations give."""
    whole, watched = Fidelity(HELD, FEATURES), Fidelity(HELD, FEATURES, whole=False)
    for ids, x in texts():
        served = whole.encoded(ids, moved(x))
        whole.add(whole.encoded(ids, x), served, len(ids))
        block = served.block(0, len(ids))
        order = np.random.default_rng(1).permutation(len(block.position))
        recorded = Recorded(
            seen=served.kept, position=block.position[order], pair=block.pair[order], value=block.value[order]
        )
        watched.add(watched.encoded(ids, x), recorded, len(ids))
    one, other = whole.result(), watched.result()
    assert (other.units, other.fvu, other.fvu_served) == (0, None, None)
    for name in ("reference", "served", "both", "corr", "shift"):
        np.testing.assert_array_equal(getattr(one.figures, name)[one.units :], getattr(other.figures, name))
    assert [a.agreement for a in one.over] == [b.agreement for b in other.over]


def test_texts_without_a_score_say_nothing() -> None:
    nothing: F64 = np.full(30, np.nan)
    assert over(nothing, nothing).agreement.n == 0
    scores: F64 = np.arange(40, dtype=np.float64)
    found = over(scores, scores[::-1])
    assert (found.scored, found.point, found.agreement.hits, found.agreement.n) == (40, 37.0, 0, 4)


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Fidelity(HELD, FEATURES)
    with pytest.raises(ConfigError, match="texts"):
        found.result()
    ids, x = [1, 2, 3], made.rows(3)
    with pytest.raises(MisfitError, match="2 tokens"):
        found.add(found.encoded(ids, x), found.encoded(ids[:2], x[:2]), 3)
    monkeypatch.setattr(limits, "HELD_SCORES", 5)
    found.add(found.encoded(ids, x), found.encoded(ids, x), 3)
    with pytest.raises(ConfigError, match="at most 5 scores"):
        found.add(found.encoded(ids, x), found.encoded(ids, x), 3)
    with pytest.raises(ManifestError, match="mode"):
        Fidelity(replace(HELD), FEATURES, mode="sideways")
