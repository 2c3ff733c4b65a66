"""A sink that writes changes of state into the log.

Streams that open and end, what becomes blind or sees again, and silences: who gave them, why, and how they ended.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import structlog

from saewatch.edge.pipeline import Item
from saewatch.monitor.events import Standing, StreamState
from saewatch.monitor.silences import SilenceChanged

logger = structlog.get_logger(__name__)


class StateLog:
    """Compares each standing with the one before."""

    name = "log"
    wants = (Standing, SilenceChanged)

    def __init__(self) -> None:
        self._open: dict[int, StreamState] = {}
        self._blind: set[tuple[str, str]] = set()

    def take(self, items: Iterable[Item]) -> None:
        """Takes what the pipeline has."""
        for item in items:
            if isinstance(item, Standing):
                self._streams(item)
                self._blindness(item)
            elif isinstance(item, SilenceChanged):
                _silence(item)

    def _streams(self, standing: Standing) -> None:
        now = {state.identity.number: state for state in standing.streams if not state.ended}
        for number in now.keys() - self._open.keys():
            opening = now[number].identity.opening
            logger.info(
                "stream opened",
                engine=opening.engine,
                model=opening.model_name,
                hook_point=opening.hook_point,
                weights=opening.weights_digest,
                mode=opening.mode,
                role=opening.role,
            )
        for number in self._open.keys() - now.keys():
            opening = self._open[number].identity.opening
            logger.info("stream ended", engine=opening.engine, hook_point=opening.hook_point)
        self._open = now

    def _blindness(self, standing: Standing) -> None:
        now = {(state.reason, state.subject): state for state in standing.blind}
        for key in now.keys() - self._blind:
            logger.warning("blind", reason=key[0], subject=key[1], hint=now[key].hint)
        for reason, subject in self._blind - now.keys():
            logger.info("sees again", reason=reason, subject=subject)
        self._blind = set(now)


def _silence(change: SilenceChanged) -> None:
    one = change.silence
    until = dt.datetime.fromtimestamp(one.what.until_ns / 1e9, tz=dt.UTC).isoformat(timespec="seconds")
    about = {"id": one.id, "policy": one.policy, "rules": list(one.what.rules), "tenant": one.what.tenant}
    log = logger.bind(**about, until=until, reason=one.what.reason, principal=one.by or "the policy")
    if change.over:
        log.info("silence over", why=change.over, by=change.by, held_back=one.held_back)
    else:
        log.warning("silence in force")
