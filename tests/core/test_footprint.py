"""The device memory that is told beforehand, and the budget."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from saewatch.core.errors import ConfigError
from saewatch.core.footprint import Footprint, check_budget, footprint
from saewatch.core.head import HeadSheet
from saewatch.core.manifest import InputNorm, Manifest, read_manifest
from saewatch.core.tapconfig import DictionaryUse, TapConfig

SHEET = Path(__file__).parents[1] / "fixture/bundle/dictionary.json"
USE = DictionaryUse(path="bundle")


@pytest.fixture
def manifest() -> Manifest:
    """128 wide, 1,024 latents and 16 directions in float16."""
    return read_manifest(SHEET.read_bytes(), subject="dictionary.json")


def config(**changes: int | str) -> TapConfig:
    return TapConfig(socket="/run/s.sock", dictionaries=(USE,), **changes)  # type: ignore[arg-type]  # each has its type


def needed(manifest: Manifest, use: DictionaryUse = USE, *, staged: bool = True) -> Footprint:
    return footprint(manifest, use, config(), rows=8192, slots=100, staged=staged)


def test_staging_is_a_buffer_and_a_copy_for_each_slot(manifest: Manifest) -> None:
    rows = 8192 * 128 * 2
    assert needed(manifest).staging == 4 * rows + 3 * 16 * 8192
    assert needed(manifest, staged=False).staging == rows + 3 * 16 * 8192


@pytest.mark.parametrize("staged", [True, False])
def test_a_stream_on_rows_that_are_there_already_stages_only_its_positions(manifest: Manifest, *, staged: bool) -> None:
    alone = needed(manifest, staged=staged)
    beside = footprint(manifest, USE, config(), rows=8192, slots=100, staged=staged, shared=True)
    assert beside == dataclasses.replace(alone, staging=3 * 16 * 8192)


def test_the_whole_dictionary_counts_only_where_it_is_used(manifest: Manifest) -> None:
    alone, counted = needed(manifest), needed(manifest, dataclasses.replace(USE, census=0.1))
    assert (alone.whole, alone.decoder) == (0, 0)
    assert (counted.whole, counted.decoder) == (1040 * (2 * 128 + 24), 1040 * 2 * 128 + 12 * 128)
    assert counted.total == sum(getattr(counted, name) for name in Footprint.__dataclass_fields__)


def test_heads_take_their_weights_and_what_lies_between_their_layers(manifest: Manifest) -> None:
    head = HeadSheet(direction=15, kind="mlp", activation="gelu", units=64)
    headed = dataclasses.replace(manifest, encoder=dataclasses.replace(manifest.encoder, heads=(head,)))
    weights, between = 4 * (64 * 128 + 64 + 64 + 3), 1024 * (12 * 64 + 4)
    assert (needed(manifest).heads, needed(headed).heads) == (0, weights + between)
    alone = footprint(manifest, USE, config(), rows=8192, slots=100, fused=False)
    assert needed(headed).temporary == alone.temporary, "the kernels do not compute them"
    counted = needed(headed, dataclasses.replace(USE, census=0.1))
    assert counted.heads == 2 * weights + between, "the census has them too"
    assert "heads 0.8 MiB" in str(needed(headed))


def test_pooled_probes_take_their_numbers_in_each_slot(manifest: Manifest) -> None:
    head = HeadSheet(direction=15, kind="attention", units=4)
    headed = dataclasses.replace(manifest, encoder=dataclasses.replace(manifest.encoder, heads=(head,)))
    weights, slots, between = 4 * 8 * 128, 3 * 8192 * 4 * 8, 1024 * 4 * 8
    assert needed(headed).heads == pytest.approx(weights + slots + between, rel=0.01)


def test_a_budget_that_is_too_small_says_by_what_and_what_would_fit(manifest: Manifest) -> None:
    asked = footprint(manifest, USE, config(), rows=8192, slots=1000)
    check_budget(asked, config(), rows=8192, slots=1000)
    little = config(device_budget_mib=asked.total // 2**20)
    with pytest.raises(ConfigError, match=r"device_budget_mib: found .*MiB, expected .*staging .*About \d+ slots"):
        check_budget(asked, little, rows=8192, slots=1000)
    with pytest.raises(ConfigError, match=r"found .* of 2048 MiB left, expected"):
        check_budget(asked, config(), rows=8192, slots=1000, taken=2**31 - asked.total + 1)
    with pytest.raises(ConfigError, match="Raise it to"):
        check_budget(asked, config(device_budget_mib=1), rows=8192, slots=1000)


def test_kernels_need_no_table_of_pairs_and_keep_w_as_it_is_stored(manifest: Manifest) -> None:
    torch_way, kernels = (
        footprint(manifest, USE, config(), rows=8192, slots=2048, fused=fused) for fused in (False, True)
    )
    assert torch_way.temporary == 1024 * (4 * 128 + 16) + 1024 * 2048 * 42
    assert kernels.temporary == 1024 * (4 * 2048 + 6 * 128 + 4) + 4 * 128 * 64 + 8 * 128 + 248
    assert torch_way.watched - kernels.watched == 2 * 2048 * 128, "float16, which torch upcasts"
    centred = dataclasses.replace(
        manifest, encoder=dataclasses.replace(manifest.encoder, input_norm=InputNorm(kind="layer_norm", eps=1e-5))
    )
    assert footprint(centred, USE, config(), rows=8192, slots=2048).temporary == kernels.temporary + 4 * 128 * 1024


def test_latents_that_compete_are_not_encoded_by_kernels(manifest: Manifest) -> None:
    competing = dataclasses.replace(manifest, encoder=dataclasses.replace(manifest.encoder, k=32, activation="topk"))
    found = footprint(competing, USE, config(), rows=8192, slots=2048)
    assert found.temporary >= 1024 * 2048 * 42


def test_a_screen_in_int8_takes_half_as_much_more(manifest: Manifest) -> None:
    stored, int8 = (
        needed(manifest, dataclasses.replace(USE, census=0.1, screen=screen)) for screen in ("stored", "int8")
    )
    sheet = manifest.encoder
    assert int8.whole - stored.whole == sheet.rows * (128 + 12 + 64) + 128
    assert dataclasses.replace(int8, whole=stored.whole) == stored


@pytest.mark.parametrize(
    ("use", "staged", "why"),
    [
        (dataclasses.replace(USE, census=0.1), False, "a device without the kernels"),
        (USE, True, "neither TopK nor a census"),
    ],
)
def test_a_screen_in_int8_where_nothing_is_screened_is_refused(
    manifest: Manifest, use: DictionaryUse, *, staged: bool, why: str
) -> None:
    with pytest.raises(ConfigError, match=f"screen: found int8 with {why}, expected stored"):
        footprint(manifest, dataclasses.replace(use, screen="int8"), config(), rows=64, slots=10, staged=staged)


def test_in_the_graph_no_rows_are_copied_and_what_lies_between_lasts(manifest: Manifest) -> None:
    beside, inside = (footprint(manifest, USE, config(placement=p), rows=8192, slots=100) for p in ("side", "graph"))
    assert inside.staging == 8192 * 128 * 2 + 4 * 16 * 8192
    assert inside.watched == 2 * beside.watched, "and that of the start"
    assert inside.temporary == pytest.approx(8 * beside.temporary, rel=0.01), "of 8,192 rows and not of 1,024"


@pytest.mark.parametrize(
    ("use", "staged", "why"),
    [
        (dataclasses.replace(USE, census=0.1), True, "a census"),
        (USE, False, "a device without the kernels"),
    ],
)
def test_what_has_no_place_in_the_graph_is_refused(
    manifest: Manifest, use: DictionaryUse, *, staged: bool, why: str
) -> None:
    with pytest.raises(ConfigError, match=f"saewatch.placement: found graph with {why}, expected side"):
        footprint(manifest, use, config(placement="graph"), rows=64, slots=10, staged=staged)


def test_neither_competitors_nor_heads_have_a_place_in_the_graph(manifest: Manifest) -> None:
    head = HeadSheet(direction=15, kind="mlp", activation="gelu", units=64)
    for changes, why in (({"heads": (head,)}, "probe heads"), ({"activation": "topk", "k": 4}, "latents that compete")):
        other = dataclasses.replace(manifest, encoder=dataclasses.replace(manifest.encoder, **changes))
        with pytest.raises(ConfigError, match=f"found graph with {why}"):
            footprint(other, USE, config(placement="graph"), rows=64, slots=10)
