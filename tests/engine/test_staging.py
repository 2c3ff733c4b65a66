"""A slot holds a step's rows and firings as they were, whatever the next forward pass does to the buffers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from saewatch.core.tapconfig import DictionaryUse
from saewatch.engine import staging
from saewatch.engine.beside import beside
from saewatch.engine.staging import Slot
from tests.engine.standin import BUNDLE, Blocks, a_config, an_engine, another_bundle, hidden, hung, rows_of


def test_a_slot_keeps_its_step(tmp_path: Path) -> None:
    blocks = Blocks()
    (watched,) = hung(a_config(tmp_path), an_engine(), blocks)
    slot = Slot([watched])
    rows = rows_of(a=(0, 20), b=(5, 3))
    blocks.run(hidden(23))
    slot.take(rows, [watched])
    slot.encode()
    watched.sink.buffer.fill_(torch.nan)
    rows.positions.fill_(-1)
    assert slot.positions().tolist() == [*range(20), 5, 6, 7]
    (found,) = slot.read()
    assert len(found.row), "the fixture fires on such rows"
    assert found.excluded[0], "a first token"
    assert not found.excluded[1:].any()
    assert found.row.max() < 23
    key = found.row.astype(np.int64) * 65536 + found.slot
    assert (np.diff(key) > 0).all()


def test_a_slot_gives_what_the_encoder_gives(tmp_path: Path) -> None:
    blocks = Blocks()
    (watched,) = hung(a_config(tmp_path), an_engine(), blocks)
    slot, slab, rows = Slot([watched]), watched.new_slab(), rows_of(a=(3, 40))
    blocks.run(hidden(40, seed=1))
    slot.take(rows, [watched])
    slot.encode()
    x = 3.0 * hidden(40, seed=1)
    watched.encoder.encode(x, positions=rows.positions, token_ids=rows.tokens, slab=slab)
    (found,), expected = slot.read(), slab.encoded()
    assert found.row.tolist() == expected.row.tolist()
    assert found.slot.tolist() == expected.slot.tolist()
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)


def test_streams_on_one_hook_point_find_the_same(tmp_path: Path) -> None:
    blocks, use = Blocks(), DictionaryUse(path=str(BUNDLE))
    watched = hung(a_config(tmp_path, dictionaries=(use, use)), an_engine(), blocks)
    slot, rows = Slot(watched), rows_of(a=(0, 20), b=(5, 3))
    blocks.run(hidden(23))
    slot.take(rows, watched)
    slot.encode()
    first, second = slot.read()
    assert len(first.row), "the fixture fires on such rows"
    for name in ("row", "slot", "value", "excluded"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_streams_on_two_hook_points_find_each_its_own(tmp_path: Path) -> None:
    blocks = Blocks()
    uses = tuple(DictionaryUse(path=str(path)) for path in (BUNDLE, another_bundle(tmp_path / "o", "resid_pre.2")))
    watched = hung(a_config(tmp_path, dictionaries=uses), an_engine(), blocks)
    slot, rows = Slot(watched), rows_of(a=(3, 40))
    blocks.run(hidden(40))
    slot.take(rows, watched)
    slot.encode()
    for one, times, found in zip(watched, (3.0, 1.0), slot.read(), strict=True):
        slab = one.new_slab()
        one.encoder.encode(times * hidden(40), positions=rows.positions, token_ids=rows.tokens, slab=slab)
        expected = slab.encoded()
        assert found.row.tolist() == expected.row.tolist()
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)
    assert len(set(map(len, (found.row for found in slot.read())))) == 2


def test_few_rows_are_encoded_by_the_reader_and_many_by_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "LATE_ROWS", 40)
    blocks = Blocks()
    (watched,) = hung(a_config(tmp_path), an_engine(), blocks)
    slot, seen = Slot([watched]), 0
    for count, late in ((20, True), (40, True), (41, False), (20, True)):
        blocks.run(hidden(count))
        slot.take(rows_of(a=(0, count)), [watched])
        slot.encode()
        assert watched.rows_seen - seen == (0 if late else count)
        (first,), (again,) = slot.read(), slot.read()
        seen += count
        assert watched.rows_seen == seen, "it is encoded once"
        assert len(first.row) == len(again.row) > 0


def test_the_reader_starts_no_threads_beside_those_of_the_model(tmp_path: Path) -> None:
    blocks = Blocks()
    (watched,) = hung(a_config(tmp_path), an_engine(), blocks)
    slot, found = Slot([watched]), [torch.get_num_threads()]
    blocks.run(hidden(20))
    slot.take(rows_of(a=(0, 20)), [watched])
    slot.encode()

    def read() -> None:
        slot.read()
        found.append(torch.get_num_threads())

    reader = beside(read, name="reader", stream=None)
    reader.start()
    reader.join()
    assert found[1] == 1
    assert torch.get_num_threads() == found[0], "the engine's thread keeps its own"
