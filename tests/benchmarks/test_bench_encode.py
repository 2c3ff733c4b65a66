from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench_encode, encoding
from benchmarks.bench_encode import TOKENS, cells, facts_of, goals, row
from benchmarks.encoding import Size, Subject, judged, subject
from benchmarks.gpucells import GpuCell, gpu_cells, gpu_goals, table_of

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "encode-cpu.json"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small() -> Subject:
    return subject(Size(activation="jumprelu", d_in=64, latents=512))


def test_a_cell_is_right_before_it_is_timed(small: Subject) -> None:
    cell = next(one for one in cells(quick=True) if one.name == "cpu/watch256/jumprelu/64x512/16")
    found = row(cell, small, quick=True)  # type: ignore[arg-type]  # it is no cell of a GPU
    assert (found["mismatched"], found["n"]) == (0, 3)
    assert found["compared"] > 100
    assert found["ours"] > 0
    assert set(found["over_ours"]) == {"saelens_f32", "product_f32"}


def test_what_is_wrong_has_no_time(small: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = next(one for one in cells(quick=True) if one.name == "cpu/full/jumprelu/64x512/16")
    monkeypatch.setattr(bench_encode, "judged", lambda *_: {"compared": 9, "mismatched": 1, "in_grey_band": 0})
    assert "ours" not in row(cell, small, quick=True)  # type: ignore[arg-type]  # it is no cell of a GPU


def test_a_value_that_differs_is_seen(small: Subject) -> None:
    x = small.rows(16)
    right = small.sae.encode(x)
    assert judged(small, x, right)["mismatched"] == 0
    wrong = right.clone()
    wrong[right > 0] *= 1.001
    assert judged(small, x, wrong)["mismatched"] == 2, "beside the reference and beside SAELens"
    missing = right.clone()
    missing[tuple(right.nonzero()[0])] = 0.0
    assert judged(small, x, missing)["mismatched"] == 2


def test_as_many_fire_as_were_asked_for() -> None:
    for activation, massive in (("jumprelu", False), ("jumprelu", True), ("gated", False), ("relu", False)):
        one = subject(Size(activation=activation, d_in=256, latents=4096, l0=20, massive=massive))
        with torch.inference_mode():
            mean = float((one.sae.encode(one.rows(64)) > 0).sum(dim=1).float().mean())
        assert 14 < mean < 27


def measured(case: str, ratio: float) -> dict[str, Any]:
    return {"case": case, "over_ours": {"saelens_f32": ratio}}


def test_goals_take_the_worst_cell() -> None:
    rows = [measured(f"cpu/full/{name}/1x1/{n}", 2.5) for name in ("jumprelu", "gated", "topk") for n in TOKENS]
    rows += [measured(f"cpu/watch256/jumprelu/1x1/{n}", 101.0) for n in TOKENS]
    assert {one["met"] for one in goals(facts_of(rows)).values()} == {"target"}
    assert {one["met"] for one in goals({}).values()} == {"not run"}
    worse = [*rows, measured("cpu/full/topk/1x1/16", 0.9), measured("cpu/full/gated/1x1/1", 1.9)]
    met = {name: one["met"] for name, one in goals(facts_of(worse)).items()}
    assert (met["C1"], met["C2"], met["C3 256"]) == ("no", "no", "target")


def test_a_gpus_goals_are_not_run_without_its_rows() -> None:
    assert {one["met"] for one in gpu_goals([]).values()} == {"not run"}
    base = {"case": "gpu/G1/jumprelu/4096x131072/64", "tokens": 64, "mismatched": 0, "ours": 9.0}
    found = gpu_goals([base, {**base, "ours": 8.5}])
    assert (found["G1"]["value"], found["G1"]["met"]) == (9.0, "accept")
    assert found["G8"]["met"] == "target"
    assert gpu_goals([{**base, "mismatched": 2}])["G8"]["met"] == "no"


def test_gated_has_a_limit_for_few_rows_and_one_for_many() -> None:
    base = {"mismatched": 0, "ours": 10.0, "floor_us": 9.0, "peak_bytes": 1, "dense_bytes": 100}
    rows = [
        {**base, "case": f"gpu/G6/gated/1x1/{tokens}", "tokens": tokens, "peers": {"saelens_bf16": theirs}}
        for tokens, theirs in ((1, 40.0), (64, 34.0), (2048, 21.0))
    ]
    met = {name: one["met"] for name, one in gpu_goals(rows).items()}
    assert (met["G6"], met["G6 many"]) == ("accept", "accept")
    rows[2]["peers"] = {"saelens_bf16": 19.0}
    met = {name: one["met"] for name, one in gpu_goals(rows).items()}
    assert (met["G6"], met["G6 many"]) == ("accept", "no")


def timed(tokens: int, latents: int, fused: float) -> dict[str, Any]:
    return {
        "case": f"gpu/G4/jumprelu/4096x{latents}/{tokens}",
        "tokens": tokens,
        "peers": {"ours_fused": fused, "ours_window": 1.0},
    }


def test_the_table_gets_a_row_only_where_the_fused_way_was_faster_from_there_on() -> None:
    assert table_of([]) == []
    assert table_of([timed(2048, 32_768, 0.99), timed(8192, 32_768, 1.2)]) == []
    rows = [timed(2048, 32_768, 0.9), timed(8192, 32_768, 1.1), timed(2048, 131_072, 0.9), timed(8192, 131_072, 0.8)]
    assert table_of(rows) == [(2048, 131_072)], "from 32,768 on it is not always faster"
    assert table_of([*rows, timed(4096, 131_072, 1.3)]) == [(8192, 131_072)]


def test_sweeps_have_names_of_their_own() -> None:
    names = [one.name for one in gpu_cells(quick=False)]
    assert len(set(names)) == len(names)
    assert {"gpu/G2/jumprelu/4096x131072/64/l0=400", "gpu/G5/topk/4096x131072/2048/k=256"} <= set(names)
    assert {type(one) for one in gpu_cells(quick=True)} == {GpuCell}


def test_gpu_cells_run_through_on_the_cpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--quick", "--device", "cpu", "--cells", "gpu", "--json", str(tmp_path / "out.json")]
    assert bench_encode.main(arguments) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert {one["case"].split("/")[1] for one in found["rows"]} == {f"G{n}" for n in range(1, 7)}
    assert found["correctness"]["mismatched"] == 0
    assert all("ours" in one for one in found["rows"])


def test_no_such_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_encode.main(["--cells", "tpu"]) == 1
    assert "no such cell" in capsys.readouterr().err


def test_bfloat16_is_a_peer_only_where_the_processor_has_it(small: Subject) -> None:
    assert ("saelens_bf16" in encoding.peers(small)) == encoding.HAS_BF16


def test_the_committed_result_is_whole() -> None:
    found = json.loads(RESULT.read_text())
    assert (found["name"], found["dirty"], found["quick"], found["correctness"]["mismatched"]) == (
        "encode",
        False,
        False,
        0,
    )
    assert {one["case"] for one in found["rows"]} == {
        one.name for one in cells(quick=False) if not one.name.startswith("gpu/")
    }
    assert found["facts"] == facts_of(found["rows"])
