"""A tap beside an engine that steps: what is read while the next step may write, and what is changed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saewatch.core.batch import Census
from saewatch.core.records import Result
from saewatch.core.tapconfig import DictionaryUse
from saewatch.engine import watched
from saewatch.engine.dictionary_file import load_bundle
from tests.engine.changing import running_tap
from tests.engine.standin import BUNDLE, another_bundle
from tests.waiting import wait_until

pytestmark = pytest.mark.gpu
STEPS = 200


def test_a_census_counts_each_row_once_and_a_change_is_made_beside_the_steps(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "CENSUS_EVERY_NS", 0)
    stated = load_bundle(BUNDLE)
    other = another_bundle(tmp_path / "other", stated.manifest.hook_point)
    use = DictionaryUse(path=str(BUNDLE), census=1.0)
    with running_tap(tmp_path, device, dictionaries=(use,)) as running:
        for number in range(STEPS):
            if number == STEPS // 2:
                running.command("load", replace=stated.sheet.weights, path=str(other))
            running.step(40)
        wait_until(lambda: any(result.good for result in running.sidecar.of(Result)))
        for _ in range(STEPS):
            running.step(40)
        assert running.asked("self_test").good
        ends = running.closed()
    assert {end.final.blind for end in ends.values()} == {""}
    assert sum(end.final.fed for end in ends.values()) == 80 * STEPS
    for number, end in ends.items():
        counted = [part for part in running.sidecar.of(Census) if (part.stream, part.first) == (number, 0)]
        assert sum(part.tokens for part in counted) == end.final.encoded
