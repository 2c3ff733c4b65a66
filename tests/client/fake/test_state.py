"""What a script does to a fake sidecar, read from its log."""

from __future__ import annotations

import pytest

from saewatch.client.fake.made import FEATURES, MadeDictionary
from saewatch.client.fake.rows import Rows
from saewatch.client.fake.state import State
from saewatch.core.errors import ConfigError
from saewatch.edge.pb import common_pb2


def rows(state: State) -> list[Rows]:
    return [entry.item for entry in state.log.entries() if isinstance(entry.item, Rows)]


def test_tokens_follow_one_another() -> None:
    state = State()
    state.request("r1", prompt_len=9, tenant="acme", traffic_class="canary")
    state.tokens(4, missed={"cached": 2})
    state.tokens(3, request="r2")
    state.fires("violence.p1", value=2.5)
    state.tokens(2, position=1, recomputed=True)
    state.tokens(1)
    found = rows(state)
    assert [(one.request.client_id, one.position, one.tokens) for one in found] == [
        ("r1", 0, 4),
        ("r2", 0, 3),
        ("r1", 6, 1),
        ("r1", 1, 2),
        ("r1", 7, 1),
    ]
    assert found[0].request.traffic_class == common_pb2.TRAFFIC_CLASS_CANARY
    assert (found[0].request.tenant, found[1].request.tenant, found[1].request.prompt_len) == ("acme", "", 4)
    assert (found[2].firings, found[3].recomputed) == ([(0, 2, 2.5)], True)
    assert [one.seq for one in found] == [1, 2, 3, 4, 5]


def test_books_add_up() -> None:
    state = State()
    state.tokens(4, missed={"cached": 2, "no_slot": 4}, firings=[(0, "violence.p1", 1.0)])
    state.tokens(2, position=0, recomputed=True)
    books = state.books()
    assert (books.fed, books.encoded, books.coverage, books.firings) == (10, 4, 0.4, 1)
    state.coverage(blind="no_beat")
    assert (state.books().blind, state.blind[0].reason) == ("no_beat", "no_beat")
    state.coverage()
    assert not state.blind


def test_what_a_gap_held_counts() -> None:
    state = State()
    state.tokens(3)
    state.gap("overload", tokens=5, firings=2)
    assert (state.log.head.tokens, state.log.head.firings) == (8, 2)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"violence\.p9"):
        State().fires("violence.p9")
    with pytest.raises(ValueError, match="NO_REASON"):
        State().tokens(1, missed={"no_reason": 1})


def test_what_is_fed_while_it_is_off_is_missed() -> None:
    state = State()
    state.switch(on=False)
    assert [one.reason for one in state.blind] == ["off"]
    state.tokens(3, missed={"blind": 1, "cached": 2}, firings=[(0, "violence.p1", 1.0)])
    state.coverage()
    assert state.blind[0].reason == "off", "whatever a script says"
    state.switch(on=True)
    state.fires("violence.p1")
    books = state.books()
    assert (state.blind, books.fed, books.encoded, books.firings) == ([], 7, 1, 1)
    blind, seen = rows(state)
    assert (blind.tokens, blind.firings, dict(blind.missed)) == (
        0,
        [],
        {common_pb2.MISSED_REASON_BLIND: 4, common_pb2.MISSED_REASON_CACHED: 2},
    )
    assert (seen.position, seen.tokens) == (6, 1)


def test_what_is_not_watched_does_not_fire() -> None:
    state = State()
    state.rewatch(["violence.p1"])
    state.tokens(2, firings=[(0, "medical.p1", 1.0), (1, "violence.p1", 2.0)])
    state.rewatch([])
    state.fires("violence.p1")
    first, second = rows(state)
    assert (first.firings, second.firings) == ([(1, 0, 2.0)], [(0, 2, 1.0)])
    assert (first.of.stream, first.of.table, second.of.stream, second.of.table) == (1, 2, 1, 3)


def test_another_dictionary_is_another_stream() -> None:
    state = State(others=[MadeDictionary(FEATURES[:1], weights="sha256:other")])
    state.tokens(5)
    state.swap(state.dictionaries["sha256:other"])
    state.tokens(2)
    (old,) = state.ended
    assert (old.ended, old.stream.number, old.books.fed, old.connected) == ("swap", 1, 5, False)
    now = state.status()
    assert (now.ended, now.stream.number, now.stream.weights_digest) == ("", 2, "sha256:other")
    assert (now.books.stream, now.books.fed, now.slots) == (2, 2, 2)
    state.begin_again()
    assert (state.ended, state.of.stream, state.made.weights) == ([], 3, "sha256:other")
