"""Replays of a panel, as a monitor tells of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from saewatch.core.batch import Origin, Reason
from saewatch.core.records import Record, RequestEnd, RequestLabel, RequestStart
from saewatch.monitor.drift.panel import Replay
from saewatch.monitor.drift.replays import OPEN_FACTOR, Replays, client_id, prompt_name, rounds
from saewatch.monitor.events import Observed, RequestEnded
from saewatch.monitor.monitor import Monitor
from saewatch.monitor.tables import WatchTable
from tests import fakes
from tests.deployed import FEATURES, KNOWN

NAMES = (prompt_name("I will find out where you live."), prompt_name("The kettle boils."))
TOKENS = 6


class Reading:
    """A monitor and what follows a panel in it."""

    def __init__(self, **changes: object) -> None:
        self.monitor = Monitor(dictionaries={KNOWN.weights_digest: KNOWN})
        self.replays = Replays(NAMES, self.place)
        self.monitor.connect(1)
        for record in (fakes.stream_open(KNOWN, **changes), fakes.watch_set(KNOWN)):
            self.tell(record)
        self.number = 0

    def place(self, table: WatchTable) -> np.ndarray[tuple[int], np.dtype[np.intp]] | None:
        return np.arange(len(table.features)) if len(table.features) == FEATURES else None

    def tell(self, record: Record, now_ns: int = 10**9) -> tuple[int, Sequence[Replay]] | None:
        found = None
        for event in self.monitor.receive(1, record, now_ns):
            if isinstance(event, Observed | RequestEnded):
                found = self.replays.follow(event, now_ns) or found
        return found

    def read(
        self,
        name: str,
        *,
        label: str = "canary",
        value: float = 2.0,
        origin: Origin = Origin.COMPUTED,
        now_ns: int = 10**9,
        missed: int = 0,
    ) -> tuple[int, Sequence[Replay]] | None:
        """A prompt in two batches; feature 3 fires on its second token, feature 5 on its fifth."""
        self.number += 1
        number = self.number
        self.tell(RequestLabel(key=fakes.key(number), client_id=client_id(name, str(number)), traffic_class=label))
        self.tell(RequestStart(request=number, engine_id=fakes.engine_id(number), prompt_len=TOKENS))
        gone = [(number, Reason.NO_SLOT, missed)] if missed else []
        first = fakes.batch([(number, 0, 4, int(origin))], [(1, 3, value)], seq=2 * number, missed=gone)
        self.tell(first)
        self.tell(fakes.batch([(number, 4, 2)], [(0, 5, 1.5)], seq=2 * number + 1))
        return self.tell(RequestEnd(request=number, fed=TOKENS + missed, emitted=1), now_ns)


def test_a_round_is_complete_when_each_prompt_was_read() -> None:
    one = Reading()
    assert one.read(NAMES[1], now_ns=5) is None
    assert one.read(NAMES[1], now_ns=7, value=9.0) is None, "again, and the other one is still missing"
    found = one.read(NAMES[0], now_ns=11)
    assert found is not None
    began, (first, second) = found
    assert began == 7
    assert (first.position.tolist(), first.feature.tolist(), first.tokens) == ([1, 4], [3, 5], TOKENS)
    assert first.value.tolist() == [2.0, 1.5]
    assert second.value.tolist() == [9.0, 1.5]
    assert one.read(NAMES[0]) is None, "the next round begins at nothing"


@pytest.mark.parametrize(
    "how", [{"origin": Origin.REUSED}, {"origin": Origin.RECOMPUTED}, {"missed": 1}, {"label": "live"}]
)
def test_what_was_not_computed_now_or_is_no_canary_is_no_replay(how: dict[str, object]) -> None:
    one = Reading()
    one.read(NAMES[0], **how)  # type: ignore[arg-type]  # one of its words
    assert one.read(NAMES[1]) is None
    assert one.read(NAMES[0]) is not None


def test_a_shadow_and_a_table_that_is_not_the_baselines_say_nothing() -> None:
    shadow, other = Reading(role="shadow"), Reading()
    other.replays = Replays(NAMES, lambda _: None)
    for one in (shadow, other):
        assert (one.read(NAMES[0]), one.read(NAMES[1])) == (None, None)


def test_a_prompt_is_known_by_its_text_and_only_as_a_canary() -> None:
    assert prompt_name("a") != prompt_name("a ")
    one = Reading()
    one.read("0123456789abcdef")
    assert not one.replays._open, "another panel's"  # noqa: SLF001 - nothing else shows it


def test_replays_of_which_nothing_more_comes_are_forgotten() -> None:
    one = Reading()
    for number in range(1, 40):
        one.tell(RequestLabel(key=fakes.key(number), client_id=client_id(NAMES[0], "x"), traffic_class="canary"))
        one.tell(RequestStart(request=number, engine_id=fakes.engine_id(number), prompt_len=TOKENS))
        one.tell(fakes.batch([(number, 0, 4)], [(1, 3, 1.0)], seq=number))
    assert len(one.replays._open) == OPEN_FACTOR * len(NAMES)  # noqa: SLF001 - nothing else shows it


def test_the_last_rounds_of_what_was_kept() -> None:
    def replay(tokens: int) -> Replay:
        return Replay.of(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), tokens)

    kept = {"a": [replay(1), replay(2), replay(3)], "b": [replay(4), replay(5)]}
    assert [[one.tokens for one in run] for run in rounds(kept, ["a", "b"], 20)] == [[2, 4], [3, 5]]
    assert [[one.tokens for one in run] for run in rounds(kept, ["a", "b"], 1)] == [[3, 5]]
    assert rounds(kept, ["a", "c"], 20) == []
