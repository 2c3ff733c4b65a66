"""Alerts and verdicts in the history: what the next run begins with, bounds, and what cannot be read."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from saewatch.core import limits
from saewatch.edge.history import alerts
from saewatch.edge.history.file import open_to_write
from saewatch.monitor.alert import Acknowledged, Alert, AlertChanged, Judged
from saewatch.monitor.silences import SilenceChanged
from tests.monitor.test_alerts import Watching, begun
from tests.monitor.test_silences import given


@pytest.fixture
def connection(tmp_path: Path) -> sqlite3.Connection:
    return open_to_write(tmp_path / "h.db")


def an_alert(number: int = 1, **fields: object) -> Alert:
    [alert] = begun(Watching(), number).fire(number, 0)
    return replace(alert, changed_ns=number, **fields)  # type: ignore[arg-type]  # a test's fields


def judged(alert: Alert, *, true: int, false: int) -> AlertChanged:
    given = Acknowledged(verdict="true_positive", reason="seen", by="ada", time_ns=alert.changed_ns)
    told = replace(alert, acknowledged=given, judged=Judged(true=true, false=false))
    return AlertChanged(told, acknowledged=True)


def test_they_come_back_in_the_order_of_their_changes(connection: sqlite3.Connection) -> None:
    alerts.write(connection, [AlertChanged(an_alert(number)) for number in (3, 1, 2)])
    assert [one.changed_ns for one in alerts.read(connection).alerts] == [1, 2, 3]


def test_the_last_state_of_an_alert_counts(connection: sqlite3.Connection) -> None:
    one = an_alert()
    alerts.write(connection, [AlertChanged(one), AlertChanged(replace(one, state="resolved"))])
    assert [each.state for each in alerts.read(connection).alerts] == ["resolved"]


def test_verdicts_are_kept_apart_from_later_changes(connection: sqlite3.Connection) -> None:
    one = an_alert()
    early = judged(one, true=1, false=0)
    alerts.write(connection, [early, judged(an_alert(2), true=3, false=1)])
    alerts.write(connection, [AlertChanged(replace(early.alert, state="resolved"))])  # it knows only the first verdict
    assert alerts.read(connection).judged == {("trust", "threat", 1): Judged(true=3, false=1)}


def test_only_the_last_ones_are_kept_and_verdicts_outlive_them(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ALERTS_STORED", 2)
    alerts.write(connection, [judged(an_alert(1), true=1, false=0)])
    alerts.write(connection, [AlertChanged(an_alert(number)) for number in (2, 3, 4)])
    found = alerts.read(connection)
    assert [one.changed_ns for one in found.alerts] == [3, 4]
    assert found.judged[("trust", "threat", 1)].true == 1


def test_rules_judged_longest_ago_go_first(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RULES_JUDGED", 2)
    alerts.write(connection, [judged(an_alert(n, rule=f"rule{n}"), true=n, false=0) for n in (1, 2, 3)])
    assert {rule for _, rule, _ in alerts.read(connection).judged} == {"rule2", "rule3"}


def test_a_longer_one_than_fits_is_counted(connection: sqlite3.Connection) -> None:
    assert alerts.write(connection, [AlertChanged(an_alert(1, why="x" * limits.ALERT_STORED_BYTES))]) == 1
    assert alerts.read(connection).alerts == ()


def test_what_cannot_be_read_is_left_out(connection: sqlite3.Connection) -> None:
    alerts.write(connection, [AlertChanged(an_alert(1))])
    connection.execute("INSERT INTO alert VALUES ('x', 2, ?)", (b"\xff\xff\xff",))
    assert len(alerts.read(connection).alerts) == 1


def test_an_older_history_gets_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with open_to_write(path) as before:
        before.execute("DROP TABLE alert")
        before.execute("DROP TABLE judged")
        before.execute("DROP TABLE silence")
    assert alerts.read(open_to_write(path)) == alerts.Remembered()


def test_silences_come_back_while_they_are_in_force(connection: sqlite3.Connection) -> None:
    kept, over = given("a", tenant="acme"), given("b")
    alerts.write_silences(connection, [SilenceChanged(silence=one) for one in (kept, over)])
    alerts.write_silences(connection, [SilenceChanged(silence=over, over="ended", by="bob")])
    assert alerts.read(connection).silences == (kept,)


def test_a_silence_that_cannot_be_read_is_not_in_force(connection: sqlite3.Connection) -> None:
    alerts.write_silences(connection, [SilenceChanged(silence=given("a"))])
    connection.execute("INSERT INTO silence VALUES ('x', ?)", (b"\xff\xff\xff",))
    assert [one.id for one in alerts.read(connection).silences] == ["a"]


def test_what_is_kept_is_given_to_the_next_run() -> None:
    stage = Watching()
    kept = alerts.Remembered(silences=(given("a", until=stage.now + 1), given("b", until=stage.now)))
    _, changes = kept.give(stage.alerts, stage.now)
    assert [(one.silence.id, one.over) for one in changes] == [("a", ""), ("b", "expired")]
    assert [one.id for one in stage.alerts.silences.all(stage.now)] == ["a"]
