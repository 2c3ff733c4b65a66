"""saewatch dictionary encode."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from saewatch import cli
from saewatch.core.manifest import Exclusions
from tests import made


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    made.bundle(tmp_path / "bundle", made.dictionary(exclusions=Exclusions(exclude_first=1, max_norm=10.0)))
    np.savez(tmp_path / "x.npz", x=made.rows(50).numpy())
    paths = [str(tmp_path / name) for name in ("bundle", "x.npz", "y.npz")]
    return ["dictionary", "encode", paths[0], "--input", paths[1], "--output", paths[2]]


def test_it_says_what_it_came_to(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--json"]) == cli.GOOD
    said = json.loads(capsys.readouterr().out)
    acts = np.load(tmp_path / "y.npz")["acts"]
    assert acts.shape == (50, made.LATENTS + 2)
    assert said == {
        "rows": 50,
        "latents": made.LATENTS,
        "directions": 2,
        "firings": int((acts > 0).sum()),
        "excluded": 0,
        "not_applied": [],
        "output": str(tmp_path / "y.npz"),
    }
    assert cli.main([*words, "--served", "--sparse"]) == cli.GOOD
    text = capsys.readouterr().out
    assert text.startswith("50 rows, ")
    assert "not applied: exclude_first, since the input has no positions" in text
    assert np.load(tmp_path / "y.npz")["excluded"].sum() > 0


def test_the_rows_are_not_written_over(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "link.npz").symlink_to(tmp_path / "x.npz")
    for name in ("x.npz", "link.npz"):
        assert cli.main([*words[:-1], str(tmp_path / name)]) == cli.FAILED
        assert "--output: found the file of --input" in capsys.readouterr().err
    assert (tmp_path / "x.npz").read_bytes() == before


def test_refusals_leave_what_stood_there(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "y.npz").write_text("before")
    np.savez(tmp_path / "x.npz", x=np.full((3, made.D_IN), np.nan, np.float32))
    assert cli.main(words) == cli.FAILED
    assert "x: row 0: found NaN or infinity" in capsys.readouterr().err
    assert cli.main([*words[:2], str(tmp_path / "none"), *words[3:]]) == cli.UNREACHED
    (tmp_path / "x.npz").unlink()
    assert cli.main(words) == cli.UNREACHED
    assert (tmp_path / "y.npz").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "y.npz"]
