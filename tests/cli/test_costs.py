"""What `saewatch plan` computes: against a real tap's buffers, and the ranges of firings."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saewatch.cli import costs
from saewatch.cli.costs import Asked, Plan
from saewatch.core import limits
from saewatch.core.errors import ConfigError, MisfitError
from saewatch.core.fit import ModelFacts
from saewatch.core.manifest import BUNDLE_FILE, BundleSheet, read_bundle_sheet
from saewatch.edge.dictionaries import load_one
from saewatch.engine.staging import Slot
from saewatch.engine.watched import open_watched
from tests.engine.standin import BUNDLE, ROWS, Blocks, a_config, an_engine

FACTS = ModelFacts(architecture="LlamaForCausalLM", d_model=128, layers=4)
SLOTS = 177


def planned(folder: Path = BUNDLE, **changes: Any) -> Plan:
    asked = Asked(**changes)
    return costs.plan([costs.stream(folder, load_one(folder), FACTS, asked)], asked)


def tensors(of: object) -> list[torch.Tensor]:
    """The tensors that an object holds itself."""
    found: list[torch.Tensor] = []
    for value in vars(of).values():
        for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            found += [one] if isinstance(one, torch.Tensor) else []
    return found


def size(*held: torch.Tensor) -> int:
    """Bytes, each storage once."""
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}
    return sum(storages.values())


def test_memory_is_that_of_a_real_taps_buffers(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    (watched,) = open_watched(config, an_engine(), Blocks())
    slots = [Slot([watched]) for _ in range(config.slots)]
    slabs = [slab for slot in slots for slab in slot._slabs]  # noqa: SLF001 - what it has allocated
    memory = planned(rows_max=ROWS, rows=8, dtype="float32", device="cpu").memory
    indexes = size(*(slot._index for slot in slots))  # noqa: SLF001 - as above
    assert memory["staging"] == size(watched.sink.buffer) + indexes
    assert size(*tensors(watched.encoder)) == pytest.approx(memory["watched"], rel=0.05)
    assert size(*(one for slab in slabs for one in tensors(slab))) == pytest.approx(memory["slabs"], rel=0.001)
    assert (memory["whole"], memory["decoder"]) == (0, 0)


def test_memory_is_what_the_tap_itself_computes(tmp_path: Path) -> None:
    (watched,) = open_watched(a_config(tmp_path), an_engine(), Blocks())
    assert planned(rows_max=ROWS, rows=8, dtype="float32", device="cpu").device_bytes == watched.footprint.total


def test_a_gpu_stages_copies_and_more_sequences_than_tokens_count() -> None:
    assert planned(device="H200").memory["staging"] > planned(device="cpu").memory["staging"]
    assert planned(rows_max=10, rows=500).memory["staging"] == planned(rows_max=500, rows=10).memory["staging"]


def test_dictionaries_on_one_hook_point_share_its_rows() -> None:
    asked = Asked()
    one = costs.stream(BUNDLE, load_one(BUNDLE), FACTS, asked)
    alone, both = costs.plan([one], asked), costs.plan([one, one], asked)
    assert both.memory["staging"] < 2 * alone.memory["staging"]
    assert both.memory["watched"] == 2 * alone.memory["watched"]
    assert both.features == 2 * alone.features
    assert both.ranges["socket_bytes_per_s"][1] == pytest.approx(2 * alone.ranges["socket_bytes_per_s"][1])


def test_firings_come_from_what_is_stated() -> None:
    (stream,) = planned().streams
    assert (stream.slots, stream.features) == (SLOTS, 48)
    low, high = stream.firings
    assert low == pytest.approx(23.72 * 161 / 1024, rel=0.01)
    assert high == pytest.approx(23.72 + 16, rel=0.01)
    assert "stated L0 of 23.7" in stream.source


def test_firings_that_are_not_stated(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(BUNDLE, tmp_path / "copy"))
    sheet = read_bundle_sheet((copy / BUNDLE_FILE).read_bytes())
    (copy / BUNDLE_FILE).write_bytes(BundleSheet(weights=sheet.weights, catalogue=sheet.catalogue).data())
    (stream,) = planned(copy).streams
    assert (stream.firings, stream.source) == ((0.0, 64.0), "not known: no L0 is stated")
    (stream,) = planned(copy, watch=7).streams
    assert stream.firings == (0.0, 7.0)


def test_the_quality_sheet_goes_before_what_is_stated(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(BUNDLE, tmp_path / "copy"))
    sheet = read_bundle_sheet((copy / BUNDLE_FILE).read_bytes())
    kept = tuple(one for one in sheet.attestations if one[0] == "stated")
    (copy / BUNDLE_FILE).write_bytes(replace(sheet, attestations=kept).data())
    assert planned(copy).streams[0].firings == planned().streams[0].firings


def test_as_asked() -> None:
    one = planned(firings_per_token=5.0)
    assert one.ranges["firings_per_token"] == (5.0, 5.0)
    assert one.ranges["history_bytes_per_day"][0] == 86_400 * 8 * 5 * 5000
    assert one.ranges["reuse_tokens"] == (2**26 / (14 + 6 * 5),) * 2
    assert one.ranges["recording_bytes_per_day"][0] == 86_400 * one.ranges["socket_bytes_per_s"][0]


def test_rows_that_are_asked_for() -> None:
    (stream,) = planned(watch=1030).streams
    assert (stream.slots, stream.features) == (1030, 1030)
    assert stream.firings[1] == pytest.approx(23.72 + 6, rel=0.01), "1,024 latents, and six directions"
    with pytest.raises(ConfigError, match="watch: found 1041, expected at most 1040"):
        planned(watch=1041)


def test_another_model_is_refused() -> None:
    asked = Asked()
    with pytest.raises(MisfitError, match="d_in"):
        costs.stream(BUNDLE, load_one(BUNDLE), replace(FACTS, d_model=64), asked)


def test_bounds_and_what_the_tap_refuses() -> None:
    used = {one.name.split(",")[0].split(" (")[0]: one for one in planned(watch=1000, subscribers=16).uses}
    assert used["subscribers"].share == 16 / limits.SUBSCRIBERS
    assert used["series of a metric"].share == 1000 / limits.SERIES_DEFAULT
    assert used["slots of a dictionary"].used == 1000
    large = planned(rows_max=2**20)
    assert [why.split(",")[0] for why in large.refused] == ["device memory"]
    assert planned().refused == []


def test_a_cpu_is_not_modelled() -> None:
    facts = planned(device="cpu").facts()
    assert not [name for name in facts if name.endswith(("_us_low", "_us_high"))]
    known = planned(device="L4").ranges
    assert known["decode_step_us"][0] == pytest.approx(256 * known["decode_token_us"][0])
    assert known["prefill_step_us"][0] > known["decode_step_us"][0]
