from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saewatch import cli
from saewatch.cli.baseline.build import lines
from saewatch.core import limits
from saewatch.core.marks import Happening, RecordingHead
from saewatch.core.recording import Writer
from saewatch.edge import baselines
from saewatch.monitor.drift.panel import CLEAN, judged
from saewatch.monitor.drift.replays import prompt_name
from saewatch.monitor.drift.slices import HOURS, KINDS, kind_of, source_of
from tests import deployed, fakes
from tests.monitor.drift import panels

TENANT = "a tenant whose name is nobody's business"


@pytest.fixture(scope="module", autouse=True)
def short_silences() -> Iterator[None]:
    """Between two groups lie three hours in which nothing happens: a minute of those is replayed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "RECORDING_SILENCE_NS", 60 * limits.BEAT_INTERVAL_NS)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("traffic")
    week = deployed.recording(folder / "week.frames", 8, tenant=TENANT)
    found = {"week": week, "day": deployed.recording(folder / "day.frames", 1)}
    return {**found, "bundle": deployed.bundle(folder / "bundle")}


def build(files: dict[str, Path], *words: object, of: str = "week", more: Sequence[Path] = ()) -> int:
    given = ["baseline", "build", str(files[of]), *map(str, more), "--dictionary", str(files["bundle"])]
    return cli.main([*given, *map(str, words)])


@dataclass(frozen=True, slots=True)
class Built:
    """A baseline, and what was said of it."""

    folder: Path
    told: dict[str, Any]


@pytest.fixture(scope="module")
def built(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built") / "b"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert build(files, "--out", folder, "--deployment", "demo", "--json") == cli.GOOD
    return Built(folder, json.loads(said.getvalue()))


def test_a_baseline_of_recorded_traffic(built: Built) -> None:
    requests = 8 * deployed.GROUPS_A_DAY * deployed.GROUP
    assert (built.told["requests"], built.told["days"], built.told["paging"]) == (requests, 8, "list")
    assert built.told["left_out"] == "none"
    found = baselines.read(built.folder)
    assert (found.digest, found.about) == (built.told["digest"], deployed.ABOUT)
    assert found.fitted.baseline.prevalence() == pytest.approx(deployed.CHANCES, rel=0.1)
    body = json.loads((built.folder / baselines.SHEET).read_text())["body"]
    assert sum(one["requests"] for one in body["slices"].values()) == requests
    assert len(body["data"]) == 1
    assert len(body["slices"]) == len(HOURS)


def test_requests_are_counted_by_slices_and_no_tenant_is_named(built: Built) -> None:
    slices = baselines.read(built.folder).fitted.slices
    requests = built.told["requests"]
    assert slices.requests.sum() == requests
    assert set(np.flatnonzero(slices.requests) % KINDS) == {kind_of(source_of(TENANT), deployed.TOKENS)}
    assert slices.n.sum(axis=0) / requests == pytest.approx(deployed.CHANCES, rel=0.1)
    body = json.loads((built.folder / baselines.SHEET).read_text())["body"]
    hours = [one["requests"] for one in body["slices"].values()]
    assert slices.requests.reshape(len(HOURS), KINDS).sum(axis=1).tolist() == hours
    assert not [one.name for one in built.folder.iterdir() if TENANT.encode() in one.read_bytes()]


def test_it_says_what_it_came_to(built: Built) -> None:
    said = "\n".join(lines(built.told))
    assert "on 8 days" in said
    assert "smallest visible change" in said


def test_one_day_is_refused_and_nothing_is_written(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(files, "--out", tmp_path / "b", of="day") == cli.FAILED
    assert "at least 7" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_folder_that_is_there_is_refused_at_once(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(files, "--out", tmp_path) == cli.FAILED
    assert "nothing is overwritten" in capsys.readouterr().err


def test_a_recording_that_is_not_there(files: dict[str, Path], tmp_path: Path) -> None:
    words = ["baseline", "build", str(tmp_path / "no.frames"), "--dictionary", str(files["bundle"])]
    assert cli.main([*words, "--out", str(tmp_path / "b")]) == cli.UNREACHED


# --- a panel ----------------------------------------------------------------------------------------------------------
TEXTS = tuple(f"Fixed prompt number {number}." for number in range(panels.PROMPTS))


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Its file, and recordings of 20 and of 19 replays, each behind one live request."""
    folder, chance = tmp_path_factory.mktemp("panel"), np.random.default_rng(3)
    (folder / "panel.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in TEXTS))
    found = {"panel": folder / "panel.jsonl"}
    for count in (20, 19):
        out = io.BytesIO()
        writer = Writer(out, RecordingHead(program="0.1.0", began_ns=deployed.START_NS))
        writer.happens(1, 1, Happening.CONNECTED)
        live = deployed.request(1, deployed.fired(chance, {}), deployed.START_NS)
        names = tuple(map(prompt_name, TEXTS))
        rounds = [
            record
            for number in range(count)
            for record in panels.requests(panels.replayed(chance), 2 + 100 * number, deployed.START_NS, names)
        ]
        for record in (fakes.stream_open(deployed.KNOWN), fakes.watch_set(deployed.KNOWN), *live, *rounds):
            writer.write(1, 1, record)
        writer.close()
        found[f"{count}"] = folder / f"{count}.frames"
        found[f"{count}"].write_bytes(out.getvalue())
    return found


def test_it_says_what_it_came_to_and_the_last_replays_become_the_golden_ones(
    files: dict[str, Path], panel: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(files, "--panel", panel["panel"], "--out", tmp_path / "b", more=[panel["20"]]) == cli.GOOD
    said = capsys.readouterr().out
    assert "on 8 days" in said
    assert "smallest visible change" in said
    assert f"{8 * deployed.GROUPS_A_DAY * deployed.GROUP + 1} requests" in said, "the panel's are no traffic"
    assert "left out: none" in said
    assert f"panel: {panels.PROMPTS} prompts that fire alike by 0.99" in said
    assert f"it exercises {panels.FEATURES - 1} features" in said
    found = baselines.read(tmp_path / "b").panel
    assert found is not None
    assert found.prompts == tuple(map(prompt_name, TEXTS))
    assert judged(found.golden, panels.replayed(np.random.default_rng(5))).state == CLEAN


def test_too_few_replays_are_refused_before_the_fit(
    files: dict[str, Path], panel: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--panel", panel["panel"], "--out", tmp_path / "b"]
    assert build(files, *words, of="day", more=[panel["19"]]) == cli.FAILED
    said = capsys.readouterr().err
    assert "19 whole replays of prompt 1" in said
    assert not (tmp_path / "b").exists()


def test_a_panel_that_is_none_is_refused_before_anything_is_read(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p").write_text("{}\n")
    assert build(files, "--panel", tmp_path / "p", "--out", tmp_path / "b") == cli.FAILED
    assert "line 1" in capsys.readouterr().err
