"""Streams and tables come back with the same rule for what fires, whatever number the sidecar gave them."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from saewatch.core.label import Review
from saewatch.edge.history.watched import read_stream, read_table, stream_text, table_bytes
from saewatch.monitor.tables import StreamIdentity, WatchTable, join
from tests import fakes
from tests.edge.history.kept import FEATURES


def a_table(*, number: int = 1) -> WatchTable:
    known = fakes.dictionary(FEATURES)
    opening = fakes.stream_open(known, excluded={"bos": "position 0"}, blind="")
    stream = StreamIdentity(number=number, opening=opening, dictionary=known)
    return join([fakes.watch_set(known)], number=number, stream=stream)


def test_a_stream_comes_back() -> None:
    stream = a_table().stream
    found = read_stream(stream_text(stream))
    assert found.opening == replace(stream.opening, catalogue_digest=stream.catalogue_digest)
    assert found.catalogue_digest == stream.catalogue_digest
    assert stream_text(a_table(number=9).stream) == stream_text(stream)


def test_a_stream_keeps_what_its_dictionary_was_attested_to_fit() -> None:
    stream = a_table().stream
    assert "adapters" not in stream_text(stream), "as it was written before there were any"
    assert stream.dictionary is not None
    attested = replace(stream, dictionary=replace(stream.dictionary, adapters=frozenset({"sql", "chat"})))
    found = read_stream(stream_text(attested))
    assert (found.opening, found.adapters) == (read_stream(stream_text(stream)).opening, frozenset({"sql", "chat"}))


def test_a_table_fires_as_it_did() -> None:
    table = a_table()
    stored = read_stream(stream_text(table.stream))
    again = read_table(table_bytes(table)[1], stream=stored)
    dice = np.random.default_rng(0)
    slot = dice.integers(0, table.slots, 500).astype(np.uint16)
    value = dice.random(500, dtype=np.float32) * 3
    before, after = table.fired(slot, value), again.fired(slot, value)
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert [(one.id, one.label, one.category) for one in again.features] == [
        (one.id, one.label, one.category) for one in table.features
    ]
    assert (again.kind.tolist(), again.unit.tolist()) == (table.kind.tolist(), table.unit.tolist())
    assert not table.direct


def test_a_label_keeps_what_had_been_said_of_it_then() -> None:
    table = a_table()
    first, *others = table.features
    reviewed = replace(table, features=(replace(first, review=Review(state="accepted", by="ada")), *others))
    stored = read_stream(stream_text(table.stream))
    again = read_table(table_bytes(reviewed)[1], stream=stored)
    assert [one.review_state for one in again.features] == ["accepted", *([""] * len(others))]
    assert table_bytes(reviewed)[0] != table_bytes(table)[0]
    assert b"review" not in zlib.decompress(table_bytes(table)[1]), "as it was written before there were any"


def test_one_content_has_one_digest() -> None:
    assert table_bytes(a_table(number=1)) == table_bytes(a_table(number=2))
    other = replace(a_table(), floor=np.ones(4, np.float32))
    assert table_bytes(other)[0] != table_bytes(a_table())[0]
