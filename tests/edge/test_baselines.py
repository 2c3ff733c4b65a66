from __future__ import annotations

import json
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saewatch.core import canonical, limits
from saewatch.core.errors import ConfigError, SaewatchError, UnreachableError
from saewatch.edge import baselines
from saewatch.edge.baselines import SHEET, TENSORS
from saewatch.monitor.drift import cofiring
from saewatch.monitor.drift.flips import Flips
from saewatch.monitor.drift.known import KnownBaseline
from saewatch.monitor.drift.panel import KnownPanel
from tests import deployed
from tests.monitor.drift import panels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return deployed.written(tmp_path / "b")


def same(left: KnownBaseline, right: KnownBaseline) -> bool:
    pairs = [baselines.unfolded(one.fitted) for one in (left, right)]
    arrays = all(np.array_equal(pairs[0][0][name], pairs[1][0][name], equal_nan=True) for name in pairs[0][0])
    return arrays and pairs[0][1] == pairs[1][1] and (left.about, left.features) == (right.about, right.features)


def test_what_was_written_is_read(folder: Path) -> None:
    assert same(baselines.read(folder), deployed.baseline())
    (found,) = baselines.load([str(folder)])
    assert found.digest == canonical.digest((folder / SHEET).read_bytes())


def test_nothing_is_overwritten(folder: Path) -> None:
    with pytest.raises(ConfigError, match="not overwritten"):
        deployed.written(folder)


def test_a_disk_that_is_full_leaves_nothing_behind(folder: Path) -> None:
    known, other = deployed.baseline(), folder.with_name("other")
    attestation = baselines.attested(known.fitted, known.about, known.features, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UnreachableError, match="other"):
            baselines.write(other, known.fitted, attestation)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [one.name for one in folder.parent.iterdir()] == [folder.name]
    baselines.write(other, known.fitted, attestation)
    assert same(baselines.read(other), known)


def test_two_of_one_dictionary_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="one for each"):
        baselines.load([str(folder), str(folder)])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        baselines.read(tmp_path / "gone")


def test_other_numbers_than_those_attested_are_refused_by_name(folder: Path) -> None:
    data = bytearray((folder / TENSORS).read_bytes())
    data[-3] ^= 1
    (folder / TENSORS).write_bytes(bytes(data))
    with pytest.raises(ConfigError, match=r"(latents|slices).*other numbers"):
        baselines.read(folder)


def rewritten(folder: Path, **changes: object) -> None:
    """An attestation that lies, with a body that is otherwise as it was."""
    sheet = json.loads((folder / SHEET).read_text())
    sheet["body"] |= changes
    (folder / SHEET).write_bytes(canonical.dump(sheet))


@pytest.mark.parametrize(
    "changes",
    [
        {"features": ["demo00.l1"] * deployed.FEATURES},
        {"features": ["demo00.l1"]},
        {"features": []},
        {"features": [1, 2]},
        {"numbers": {}},
        {"tensors": {}},
        {"tensors": "all of them"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_attestation_that_lies_is_refused(folder: Path, changes: dict[str, object]) -> None:
    rewritten(folder, **changes)
    with pytest.raises(SaewatchError):
        baselines.read(folder)


def test_another_kind_of_attestation_is_refused(folder: Path) -> None:
    sheet = json.loads((folder / SHEET).read_text())
    (folder / SHEET).write_bytes(canonical.dump({**sheet, "kind": "quality"}))
    with pytest.raises(ConfigError, match="kind quality"):
        baselines.read(folder)


@pytest.mark.parametrize("name", ["baseline.n.tolerance", "baseline.z.mean"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    known = deployed.baseline()
    arrays, _ = baselines.unfolded(known.fitted)
    kept = arrays[name].copy()
    kept.flat[0] = np.nan
    place: object = known.fitted
    *parts, last = name.split(".")
    for part in parts:
        place = getattr(place, part)
    before = getattr(place, last)
    object.__setattr__(place, last, kept)
    try:
        deployed.written(tmp_path / "b")
    finally:
        object.__setattr__(place, last, before)
    with pytest.raises(ConfigError, match="no number"):
        baselines.read(tmp_path / "b")


def test_a_file_that_is_too_large_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BASELINE_BYTES", 100)
    with pytest.raises(ConfigError, match="at most 100 bytes"):
        baselines.read(folder)


def test_pairs_that_lie_are_refused(tmp_path: Path) -> None:
    known = deployed.baseline()
    pairs = known.fitted.pairs
    for number, wrong in enumerate((replace(pairs, high=pairs.high[:9]), replace(pairs, level=-pairs.level))):
        folder = deployed.written(tmp_path / str(number), fitted=replace(known.fitted, pairs=wrong))
        with pytest.raises(ConfigError, match=r"pairs\.(high|level)"):
            baselines.read(folder)


def test_latents_that_lie_are_refused(tmp_path: Path) -> None:
    known = deployed.baseline()
    latents = known.fitted.latents
    wrongs = (
        replace(latents, rate=latents.rate[:9]),
        replace(latents, rate=latents.rate + 1),
        replace(latents, dispersion=0 * latents.dispersion),
    )
    for number, wrong in enumerate(wrongs):
        folder = deployed.written(tmp_path / str(number), fitted=replace(known.fitted, latents=wrong))
        with pytest.raises(ConfigError, match="latents"):
            baselines.read(folder)


def test_a_baseline_may_know_of_no_pairs(tmp_path: Path) -> None:
    folder = deployed.written(tmp_path / "b", fitted=replace(deployed.baseline().fitted, pairs=cofiring.nothing()))
    assert not baselines.read(folder).fitted.pairs.known


@pytest.mark.parametrize(
    ("name", "lie"),
    [
        ("feature", lambda one: one[::-1].copy()),
        ("feature", lambda one: one + deployed.FEATURES),
        ("feature", np.zeros_like),
        ("n", lambda one: one[:, 1:].copy()),
        ("n", lambda one: one + 10**6),
        ("n", lambda one: -one),
        ("exposure", lambda one: one[:, 1:].copy()),
        ("exposure", lambda one: one - 10**9),
        ("low", lambda one: one + 2.0),
        ("high", lambda one: one + 2.0),
        ("high", lambda one: np.full_like(one, np.nan)),
        ("usual", lambda one: one[1:].copy()),
        ("usual", lambda one: np.full_like(one, np.inf)),
    ],
)
def test_slices_that_lie_are_refused(tmp_path: Path, name: str, lie: Callable[[Any], Any]) -> None:
    known = deployed.baseline()
    slices = known.fitted.slices
    fitted = replace(known.fitted, slices=replace(slices, **{name: lie(getattr(slices, name))}))
    folder = deployed.written(tmp_path / "b", fitted=fitted)
    with pytest.raises(ConfigError, match="slices"):
        baselines.read(folder)


# --- the panel --------------------------------------------------------------------------------------------------------
def test_a_panel_is_kept_with_its_baseline(tmp_path: Path) -> None:
    panel = panels.known()
    found = baselines.read(deployed.written(tmp_path / "b", panel=panel)).panel
    assert found is not None
    assert found.prompts == panel.prompts
    left, right = (baselines.unfolded(one.golden) for one in (found, panel))
    assert all(np.array_equal(left[0][name], right[0][name], equal_nan=True) for name in right[0])
    assert left[1] == right[1]
    assert baselines.read(deployed.written(tmp_path / "c", panel=panel)).panel is not None
    assert json.loads((tmp_path / "b" / SHEET).read_text())["body"]["panel"] == list(panel.prompts)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": np.full(5, 99)},
        {"feature": np.full(5, -1)},
        {"tokens": np.ones(3, np.int64)},
        {"noise": np.ones(3)},
        {"value": np.array([np.nan])},
        {"overlap": np.array([np.inf])},
        {"scatter": np.zeros(1)},
        {"score_sd": 0.0},
        {"replays": 1},
        {"position": np.zeros(1, np.int64)},
        {"steady": np.ones(2, np.bool_)},
        {"flips": Flips(gone=np.ones(3, np.int64), fresh=np.zeros(panels.FEATURES, np.int64))},
        {"flips": Flips(gone=np.zeros(panels.FEATURES, np.int64), fresh=np.full(panels.FEATURES, -1))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_panel_that_lies_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    golden = panels.a_golden()
    made: dict[str, Any] = {}
    for name, given in changes.items():
        before = getattr(golden, name)
        short = isinstance(given, np.ndarray) and len(given) in {1, 5}
        made[name] = np.resize(given, before.shape).astype(before.dtype) if short else given
    panel = KnownPanel(prompts=panels.NAMES, golden=replace(golden, **made))
    with pytest.raises(ConfigError):
        baselines.read(deployed.written(tmp_path / "b", panel=panel))


def test_two_prompts_of_one_name_are_refused(tmp_path: Path) -> None:
    panel = KnownPanel(prompts=(panels.NAMES[1], *panels.NAMES[1:]), golden=panels.a_golden())
    with pytest.raises(ConfigError, match="not made so"):
        baselines.read(deployed.written(tmp_path / "b", panel=panel))
