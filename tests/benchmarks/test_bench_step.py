from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import bench_step
from benchmarks.bench_step import document
from benchmarks.shaped import LLAMA_8B, TINY, Model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_runs_through_at_a_small_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "step.json"
    assert bench_step.main(["--quick", "--device", "cpu", "--sequences", "1,3", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [one["sequences"] for one in found["rows"]] == [1, 3]
    assert set(found["rows"][0]["added"]) == {"watch256", "watch256_staged", "full"}
    assert found["goals"]["G9"]["met"] == "not run"


def test_a_step_reads_the_hook_point_and_what_is_behind_it_sees_it() -> None:
    model = Model(TINY, sequences=2, device=torch.device("cpu"), dtype=torch.float32)
    seen = []
    with torch.inference_mode():
        model.step(torch.tensor([1, 2]), behind_hook=lambda: seen.append(model.residual.clone()))
        first = model.step(torch.tensor([1, 2]))
    assert torch.equal(seen[0], model.residual)
    assert bool(seen[0].abs().sum() > 0)
    assert first.shape == (2,)


def test_the_shape_is_llamas() -> None:
    layer = LLAMA_8B.d_model * (LLAMA_8B.d_model * 2 + 2 * LLAMA_8B.kv_heads * LLAMA_8B.head + 3 * LLAMA_8B.mlp)
    assert 7.9e9 < LLAMA_8B.layers * layer + 2 * LLAMA_8B.vocabulary * LLAMA_8B.d_model < 8.1e9


def test_g9_takes_the_worst_number_of_sequences() -> None:
    rows = [{"sequences": n, "share": {"watch2048": share}} for n, share in ((1, 0.0012), (16, 0.0029), (64, 0.0019))]
    assert document(rows, quick=False)["goals"]["G9"]["met"] == "accept"
    assert document(rows[:1], quick=False)["goals"]["G9"]["met"] == "target"
    assert len(document(rows[:1], quick=False)["not_run"]) >= 2


def test_the_two_places_are_compared_where_both_were_timed() -> None:
    share = {"watch2048": 0.001, "watch2048_graph": 0.0015, "watch2048_staged": 0.0024, "watch256_staged": 0.001}
    facts = document([{"sequences": 16, "share": share}], quick=False)["facts"]
    assert facts["graph_less_staged_2048_16"] == -0.0009
    assert not any("256" in name for name in facts if name.startswith("graph_less"))


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        return
    assert bench_step.main([]) == 1
    assert "no GPU here" in capsys.readouterr().err
