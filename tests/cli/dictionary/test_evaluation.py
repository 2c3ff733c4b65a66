"""What an evaluation takes from a bundle."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from saewatch.cli.dictionary.evaluation import limits_of, stated_of
from saewatch.core.attestation import Attestation
from saewatch.core.canonical import Json
from saewatch.dictionary.calibration import Calibration, Data, Limit, Served, reads
from saewatch.dictionary.promise import Promise
from tests import made

DIGEST = "sha256:" + "a" * 64


def test_limits_are_those_of_features_that_are_still_what_was_calibrated(tmp_path: Path) -> None:
    one = made.dictionary()
    features = made.features(one.manifest.encoder)
    same, other = features[1], features[0]
    common = {"aggregation": "max", "scope": "all", "n": 400, "unscored": 0, "j": 1, "point95": 0.5, "over95": 20}
    calibration = Calibration(
        weights=one.manifest.digest,
        promise=Promise(alpha=0.01, delta=0.05),
        served=Served(model="", proof="", quantisation="", mode="exact", excluded={}, reader=""),
        date=dt.date(2026, 3, 1),
        scores=DIGEST,
        benign=Data(digest=DIGEST, requests=400, distinct=400),
        held_out=None,
        limits=(
            Limit(feature=same.id, reads=reads(same), limit=2.5, **common),  # type: ignore[arg-type]  # mixed values
            Limit(feature=other.id, reads=DIGEST, limit=9.0, **common),  # type: ignore[arg-type]  # mixed values
        ),
    )
    bundle = made.bundle(tmp_path / "bundle", one, (calibration.attestation(),))
    assert limits_of(bundle, features) == {same.id: 2.5}


@pytest.mark.parametrize("value", ["0.15", 3])
def test_stated_figures_are_numbers_and_nothing_else(tmp_path: Path, value: str | int) -> None:
    one = made.dictionary()
    body: dict[str, Json] = {"fvu": value, "hook_point": "resid_post.1", "l0": "nan", "special": [1], "odd": True}
    bundle = made.bundle(tmp_path / "b", one, (Attestation(kind="stated", weights=one.manifest.digest, body=body),))
    assert stated_of(bundle) == {"fvu": float(value)}
    assert stated_of(made.bundle(tmp_path / "c", one)) == {}
