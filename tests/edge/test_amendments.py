from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest

from saewatch.core import canonical
from saewatch.core.errors import ConfigError, SaewatchError, UnreachableError
from saewatch.edge import baselines
from saewatch.edge.amendments import accept
from saewatch.monitor.drift.known import KnownBaseline
from tests import deployed

SAID = {"actor": "ada", "reason": "a new product", "time": "2026-11-22T10:00:00+00:00"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return deployed.written(tmp_path / "b")


def level(known: KnownBaseline, name: str) -> float:
    return float(known.fitted.baseline.n.rates.level[known.features.index(name)])


def test_levels_that_were_accepted_are_read_in_their_order(folder: Path) -> None:
    first = baselines.read(folder)
    second = accept(folder, first, {"demo02.l1": 2.0, "demo03.l1": 0.5}, **SAID)
    third = accept(folder, second, {"demo02.l1": 1.5}, **SAID)
    found = baselines.read(folder)
    assert (found.digest, found.fitted.baseline.version) == (third.digest, 3)
    assert len({first.digest, second.digest, third.digest}) == 3
    assert level(found, "demo02.l1") == pytest.approx(3.0 * level(first, "demo02.l1"))
    assert level(found, "demo03.l1") == pytest.approx(0.5 * level(first, "demo03.l1"))
    assert level(found, "demo04.l1") == level(first, "demo04.l1")
    assert np.array_equal(found.fitted.baseline.n.tolerance, first.fitted.baseline.n.tolerance)


def test_who_said_so_and_why_is_in_the_file(folder: Path) -> None:
    accept(folder, baselines.read(folder), {"demo02.l1": 2.0}, **SAID)
    sheet = json.loads((folder / "accepted-2.json").read_text())
    assert sheet["kind"] == "baseline_amendment"
    assert sheet["body"].items() >= SAID.items()


@pytest.mark.parametrize(
    "levels", [{}, {"nobody.l1": 2.0}, {"demo02.l1": 0.0}, {"demo02.l1": 1e6}, {"demo02.l1": float("nan")}]
)
def test_levels_that_make_no_sense_are_refused_and_not_written(folder: Path, levels: dict[str, float]) -> None:
    with pytest.raises(SaewatchError):
        accept(folder, baselines.read(folder), levels, **SAID)
    assert not list(folder.glob("accepted-*"))


def test_of_two_who_amend_the_same_version_one_is_refused(folder: Path) -> None:
    known = baselines.read(folder)
    accept(folder, known, {"demo02.l1": 2.0}, **SAID)
    with pytest.raises(ConfigError, match="somebody else's"):
        accept(folder, known, {"demo03.l1": 2.0}, **SAID)


@pytest.mark.parametrize("way", ["changed", "taken away", "of another baseline", "misnamed", "another kind"])
def test_a_chain_that_is_broken_is_refused(folder: Path, way: str) -> None:
    second = accept(folder, baselines.read(folder), {"demo02.l1": 2.0}, **SAID)
    accept(folder, second, {"demo03.l1": 2.0}, **SAID)
    path = folder / "accepted-2.json"
    sheet = json.loads(path.read_text())
    if way == "changed":
        sheet["body"]["levels"][0]["times"] = "3.0"
    if way == "of another baseline":
        sheet["body"]["amends"] = "sha256:" + "7" * 64
    if way == "another kind":
        sheet["kind"] = "quality"
    path.write_bytes(canonical.dump(sheet))
    if way == "taken away":
        path.unlink()
    if way == "misnamed":
        (folder / "accepted-3.json").rename(folder / "accepted-three.json")
    with pytest.raises(SaewatchError):
        baselines.read(folder)


def test_an_amendment_that_is_no_attestation_is_refused(folder: Path) -> None:
    (folder / "accepted-2.json").write_bytes(b"{" * 100)
    with pytest.raises(SaewatchError, match=r"accepted-2\.json"):
        baselines.read(folder)


def test_a_disk_that_is_full_leaves_the_baseline_as_it_was(folder: Path) -> None:
    known, before = baselines.read(folder), sorted(one.name for one in folder.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        with pytest.raises(UnreachableError, match=r"accepted-2\.json"):
            accept(folder, known, {"demo02.l1": 2.0}, **SAID)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(one.name for one in folder.iterdir()) == before
    assert baselines.read(folder).digest == known.digest
