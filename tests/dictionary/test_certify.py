"""From figures to a certificate, on the fixture: altered copies are put into order, and what broke is quarantined."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from benchmarks.bench_certificate import certificate_of, inversions, prepared
from benchmarks.copies import COPIES, altered, rounded
from saewatch.dictionary.certificate import MEASURED, Certificate, Survival, read_certificate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made() -> Mapping[str, Certificate]:
    bench = prepared("fixture", 1500)
    return {
        name: certificate_of(altered(bench.scorer.model, recipe, bench.tuned_on), bench)
        for name, recipe in COPIES.items()
    }


def test_copies_are_put_into_the_order_of_what_was_done_to_them(made: Mapping[str, Certificate]) -> None:
    rows = {
        name: {"jaccard_all": one.latents.both / one.latents.either}
        | {point: float(value) for point, value in one.latents.points.items()}
        for name, one in made.items()
    }
    assert inversions(rows) == 0, rows
    swapped = {**rows, "int6": rows["int4"], "int4": rows["int6"]}
    assert inversions(swapped) > 0, "the measure can fail"


def test_what_broke_is_quarantined_and_what_did_not_is_not(made: Mapping[str, Certificate]) -> None:
    share = {name: one.latents.quarantined / one.latents.live for name, one in made.items()}
    assert share["bf16"] <= 0.01
    assert share["int8"] <= 0.01
    assert share["int4"] > 0.05
    assert share["tuned_large"] > 0.25
    assert (made["bf16"].verdict, made["tuned_large"].verdict) == ("passed", "refused")
    broken = made["tuned_large"]
    fired = [one for one in broken.features if one.reference >= MEASURED]
    lost = [one for one in fired if broken.broken(one)]
    assert len(lost) >= 3, "single latents; groups of twenty hold longer"
    assert {one.feature for one in lost} <= set(broken.without_alert)
    kept = made["bf16"]
    assert not any(rule.figure != "agreement" for one in fired for rule in kept.broken(_same(kept, one)))


def _same(made: Certificate, feature: Survival) -> Survival:
    """The feature in another certificate."""
    (found,) = [one for one in made.features if one.feature == feature.feature]
    return found


def test_it_reads_back(made: Mapping[str, Certificate]) -> None:
    for one in made.values():
        assert read_certificate(one.attestation()) == one


def test_live_latents_are_those_that_fired_often_enough(made: Mapping[str, Certificate]) -> None:
    one = made["bf16"].latents
    assert 0 < one.live < one.count == 1024
    assert MEASURED * one.live <= one.either


def test_rounding_has_so_many_steps() -> None:
    """Oracle: numpy, a row at a time."""
    weight = np.random.default_rng(1).normal(size=(5, 40)).astype(np.float32)
    weight[3] = 0.0
    found = rounded(torch.from_numpy(weight), 4).numpy()
    for row, own in zip(weight, found, strict=True):
        step = np.abs(row).max() / 7
        np.testing.assert_allclose(own, np.rint(row / step) * step if step else 0.0 * row, atol=1e-6)
