"""Places in the engines' own accounts, and what a subscriber of an earlier run is told."""

from __future__ import annotations

from typing import Any

from saewatch.edge.pb import firing_pb2
from saewatch.edge.pipeline import Dropped
from saewatch.edge.rpc.places import Account, Owed, Place, name_of
from saewatch.monitor.events import Standing, StreamState
from saewatch.monitor.tables import StreamIdentity
from tests import fakes

KNOWN = fakes.dictionary()
NOBODY: dict[str, Place] = {}


def identity(number: int, **changes: Any) -> StreamIdentity:
    return StreamIdentity(number=number, opening=fakes.stream_open(KNOWN, **changes), dictionary=KNOWN)


def standing(*streams: tuple[StreamIdentity, tuple[int, int] | None], ended: str = "") -> Standing:
    return Standing(
        streams=tuple(
            StreamState(
                identity=one,
                books=None,
                beat_time_ns=0,
                connected=True,
                ended=ended,
                blind="",
                received_seq=0,
                received_rows=0,
                received_missed=0,
                received_firings=0,
                unread_rows=0,
                seq_gaps=0,
                duplicates=0,
                slots=1,
                base=base,
            )
            for one, base in streams
        ),
        blind=(),
    )


def lost(number: int, tokens: int, firings: int) -> Dropped:
    return Dropped(1, tokens, firings, {number: (tokens, firings)})


def test_a_place_is_the_base_and_what_was_given_since() -> None:
    account, one = Account(), identity(1)
    account.give(lost(1, 9, 9))
    assert account.places == {}, "nothing is known of a stream before its engine's first beat"
    account.learn(standing((one, (100, 40))))
    account.give(lost(1, 5, 2))
    account.learn(standing((one, (100, 40))))
    assert account.places == {name_of(one): Place(105, 42)}
    assert account.base(name_of(one)) == (one, Place(100, 40))


def test_a_stream_that_has_ended_or_was_forgotten_is_in_no_token() -> None:
    account, one = Account(), identity(1)
    account.learn(standing((one, (100, 40))))
    account.learn(standing((one, (100, 40)), ended="shutdown"))
    assert account.places == {}
    assert account.base(name_of(one))[1] == Place(100, 40), "one that comes from an earlier run can still be told"
    account.learn(standing())
    assert not account.names


def test_a_name_is_the_same_in_every_run_and_another_one_after_a_restart_of_the_engine() -> None:
    assert name_of(identity(1)) == name_of(identity(2))
    names = {name_of(identity(1, **changes)) for changes in ({}, {"epoch": 5}, {"stream": 3}, {"engine": "b"})}
    assert len(names) == 4


def settled(owed: Owed, account: Account, now_s: float = 0.0) -> list[firing_pb2.Gap]:
    return owed.settle(account, account.places, now_s)


def test_the_difference_is_what_nobody_gave() -> None:
    account, one = Account(), identity(4)
    owed = Owed({name_of(one): Place(70, 30)}, until_s=60)
    assert settled(owed, account) == []
    account.learn(standing((one, (100, 45))))
    assert owed.settle(account, NOBODY, 0.0) == [], "the subscriber has not got that far"
    (gap,) = settled(owed, account)
    assert (gap.reason, gap.tokens, gap.firings, gap.repeated_tokens, gap.unknown) == (
        firing_pb2.GAP_REASON_RESTARTED,
        30,
        15,
        0,
        False,
    )
    assert (gap.stream.number, gap.stream.hook_point) == (4, "resid_post.3")
    assert settled(owed, account) == []
    assert not owed.places


def test_more_than_the_engine_knows_of_will_be_said_again() -> None:
    account, one = Account(), identity(1)
    owed = Owed({name_of(one): Place(130, 60)}, until_s=60)
    account.learn(standing((one, (100, 45))))
    (gap,) = settled(owed, account)
    assert (gap.tokens, gap.firings, gap.repeated_tokens) == (0, 0, 30)


def test_an_engine_that_does_not_come_back_leaves_a_gap_of_unknown_size() -> None:
    account = Account()
    owed = Owed({"a" * 12: Place(1, 1), "b" * 12: Place(2, 2)}, until_s=60)
    assert settled(owed, account, 59.9) == []
    assert [gap.unknown for gap in settled(owed, account, 60.0)] == [True, True]
    assert (owed.places, owed.until_s) == ({}, 0)


def test_a_stream_that_the_subscriber_never_met_is_told_of_unless_it_is_new() -> None:
    account, old, new = Account(), identity(1), identity(2, stream=2)
    owed = Owed(until_s=60)
    account.learn(standing((old, (100, 45)), (new, (0, 0))))
    (gap,) = settled(owed, account)
    assert (gap.stream.number, gap.unknown, gap.tokens) == (1, True, 0)
    assert settled(Owed(known=[name_of(old)], until_s=60), account) == []
