"""Alerts in the history, what people said of each rule's, and silences: what the next run of the sidecar begins with.

Alerts are stored as their messages, the last `limits.ALERTS_STORED` of them. Verdicts are stored as sums for each rule
and version, so that they outlive the alerts that they were about. Of silences those are stored that somebody gave, as
their messages, while they are in force.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from saewatch.core import limits
from saewatch.core.errors import RecordError
from saewatch.edge.history.file import transaction
from saewatch.edge.rpc import alerted, silences
from saewatch.monitor.alert import Alert, AlertChanged, Judged
from saewatch.monitor.alerts import Alerts
from saewatch.monitor.silences import SILENCES_GIVEN, Given, SilenceChanged

logger = structlog.get_logger(__name__)

RuleKey = tuple[str, str, int]
"""Policy, rule and its version."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an earlier run left."""

    alerts: tuple[Alert, ...] = ()
    """The latest change last."""
    judged: Mapping[RuleKey, Judged] = field(default_factory=dict)
    silences: tuple[Given, ...] = ()

    def give(self, alerts: Alerts, now_ns: int) -> tuple[None, Sequence[SilenceChanged]]:
        """To this run's alerts, before anything comes; with what became of the silences."""
        alerts.remember(self.alerts, self.judged, now_ns)
        return None, alerts.silences.remember(self.silences, now_ns)


def read(connection: sqlite3.Connection) -> Remembered:
    """What is stored; alerts that cannot be read are left out, and counted in the log. Raises `sqlite3.Error`."""
    found, bad = list[Alert](), 0
    for (data,) in connection.execute("SELECT message FROM alert ORDER BY changed_ns, id"):
        try:
            found.append(alerted.alert(data))
        except RecordError:
            bad += 1
    if bad:
        logger.warning("stored alerts cannot be read", alerts=bad)
    rows = connection.execute("SELECT policy, rule, version, right, wrong FROM judged")
    judged = {(row[0], row[1], row[2]): Judged(true=row[3], false=row[4]) for row in rows}
    return Remembered(tuple(found), judged, _silences(connection))


def _silences(connection: sqlite3.Connection) -> tuple[Given, ...]:
    found = list[Given]()
    for name, data in connection.execute("SELECT id, message FROM silence ORDER BY id LIMIT ?", (SILENCES_GIVEN,)):
        try:
            found.append(silences.given(data))
        except RecordError as error:
            logger.warning("a stored silence cannot be read, and is not in force", id=name, error=str(error))
    return tuple(found)


def write(connection: sqlite3.Connection, changes: Iterable[AlertChanged]) -> int:
    """Stores alerts in the order in which they changed; says how many were too long. Raises `sqlite3.Error`."""
    too_long = 0
    with transaction(connection):
        for change in changes:
            alert = change.alert
            data = alerted.message(alert).SerializeToString()
            if len(data) > limits.ALERT_STORED_BYTES:
                too_long += 1
            else:
                connection.execute("INSERT OR REPLACE INTO alert VALUES (?, ?, ?)", (alert.id, alert.changed_ns, data))
            if change.acknowledged and alert.acknowledged is not None:
                said = (alert.judged.true, alert.judged.false, alert.acknowledged.time_ns)
                row = (alert.policy, alert.rule, alert.version, *said)
                connection.execute("INSERT OR REPLACE INTO judged VALUES (?, ?, ?, ?, ?, ?)", row)
        _bound(connection, "alert", limits.ALERTS_STORED)
        _bound(connection, "judged", limits.RULES_JUDGED)
    return too_long


def write_silences(connection: sqlite3.Connection, changes: Iterable[SilenceChanged]) -> None:
    """Stores those in force, and removes those that are over. Raises `sqlite3.Error`."""
    with transaction(connection):
        for change in changes:
            one = change.silence
            if change.over:
                connection.execute("DELETE FROM silence WHERE id = ?", (one.id,))
            else:
                row = (one.id, silences.message(one).SerializeToString())
                connection.execute("INSERT OR REPLACE INTO silence VALUES (?, ?)", row)


def _bound(connection: sqlite3.Connection, table: str, most: int) -> None:
    (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    if count > most:
        key = "id" if table == "alert" else "policy, rule, version"
        oldest = f"SELECT {key} FROM {table} ORDER BY changed_ns LIMIT {count - most}"
        connection.execute(f"DELETE FROM {table} WHERE ({key}) IN ({oldest})")
