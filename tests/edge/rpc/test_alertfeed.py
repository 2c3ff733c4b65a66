"""The ring of alert changes: numbers, tokens, and what the pipeline's queue dropped."""

from __future__ import annotations

import asyncio

import pytest

from saewatch.edge.pipeline import Dropped
from saewatch.edge.rpc.alertfeed import ALERT_BYTES, AlertFeed
from saewatch.edge.rpc.refusals import Refusal
from saewatch.monitor.alert import AlertChanged
from tests.monitor.test_alerts import Watching, begun

RUN = 3


def changes(count: int) -> list[AlertChanged]:
    stage = Watching()
    return [AlertChanged(begun(stage, number).fire(number, 0)[0]) for number in range(1, count + 1)]


def feed(count: int = 0, *, bound: int = 2**20) -> AlertFeed:
    made = AlertFeed(run=RUN, bound=bound)
    made.take(changes(count))
    return made


async def test_a_token_leads_back_to_its_place() -> None:
    one = feed(2)
    cursor, same = one.begin(one.token(one.ring.head))
    assert (cursor.event, cursor.tokens, same) == (3, 2, True)
    assert one.ring.next(cursor) is None


async def test_of_another_run_everything_that_is_kept() -> None:
    cursor, same = feed(2).begin(AlertFeed(run=RUN + 1).token(feed(2).ring.head))
    assert (cursor.event, same) == (1, False)


@pytest.mark.parametrize("text", ["a1.3.4.0", "a1.3", "b1.3.1.0", "a1.3.1.0 ", "a1.3." + "f" * 17 + ".0"])
async def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(Refusal):
        feed(2).begin(text)


async def test_what_falls_out_is_counted_and_what_was_dropped_with_it() -> None:
    one = feed(bound=4 * ALERT_BYTES)
    start = one.ring.head
    one.take([*changes(3), Dropped(5, 0, 0), *changes(1)])
    missing = one.ring.missing(start)
    assert missing is not None
    assert missing.tokens == 3, "the dropped ones are still in the ring, and will be told"


async def test_who_waits_is_woken() -> None:
    one = feed()
    waiting = asyncio.create_task(one.bell.wait(60.0))
    await asyncio.sleep(0)
    one.take(changes(1))
    await asyncio.wait_for(waiting, 5.0)
