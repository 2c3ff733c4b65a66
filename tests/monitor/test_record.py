"""The copy of a request that other threads may read."""

from __future__ import annotations

from tests import fakes
from tests.monitor.stage import Stage


def test_it_does_not_change_with_the_request() -> None:
    stage = Stage().ready()
    stage.label(7)
    stage.start(7)
    stage.batch([(7, 0, 2)], [(0, 0, 1.0)])
    (before,) = stage.monitor.records("client-7")
    stage.batch([(7, 2, 2)], [(0, 0, 1.0)])
    stage.end(7, fed=4, emitted=1)
    (after,) = stage.monitor.records("client-7")
    assert [tally.prompt_tokens for _, tally in before.tallies] == [2]
    assert [tally.prompt_tokens for _, tally in after.tallies] == [4]
    assert (before.end, before.lost) == (None, False)
    assert after.end is not None
    assert (after.engine, after.key, after.traffic_class) == ("engine-0", fakes.key(7), "live")


def test_one_that_waits_for_its_label_has_no_class_yet() -> None:
    stage = Stage().ready()
    stage.start(7)
    (record,) = stage.monitor.records(fakes.key(7))
    assert (record.traffic_class, record.label) == ("", None)
