"""Events as plain data: what `saewatch watch --json` prints, one object a line."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from saewatch.client.events import Coverage, Event
from saewatch.client.firings import Firing, Firings

_KINDS = {"RequestEnded": "request_ended"}


def plain(event: Event) -> dict[str, Any]:
    """The event as JSON takes it. ``event`` says which one; a time is RFC 3339; a firing names its request."""
    kind = {"event": _KINDS.get(type(event).__name__, type(event).__name__.lower())}
    if isinstance(event, Firings):
        return kind | _firings(event)
    more = {"coverage": event.overall} if isinstance(event, Coverage) else {}
    return {**kind, **more, **_timed(asdict(event))}


def _firings(event: Firings) -> dict[str, Any]:
    stream = event.table.stream
    return {
        "time": _time(event.last_time_ns),
        "stream": stream.number,
        "engine": stream.engine,
        "model": stream.model_name,
        "hook_point": stream.hook_point,
        "tokens": event.tokens,
        "recomputed": event.recomputed,
        "missed": event.missed,
        "requests": [asdict(one) for one in event.requests],
        "firings": [_firing(one) for one in event],
        "resume_token": event.resume_token,
    }


def _firing(one: Firing) -> dict[str, Any]:
    return {
        "request": one.request.name if one.request else None,
        "position": one.position,
        "prompt": one.prompt,
        "feature": one.feature,
        "label": one.label,
        "category": one.category,
        "severity": one.severity,
        "value": one.value,
        "unit": one.unit,
    }


def _timed(value: Any) -> Any:
    """The same with each ``…_ns``, nanoseconds since 1970, as a time."""
    if isinstance(value, dict):
        return {
            (name.removesuffix("_ns") if name.endswith("_ns") else name): (
                _time(item) if name.endswith("_ns") else _timed(item)
            )
            for name, item in value.items()
        }
    return [_timed(item) for item in value] if isinstance(value, list | tuple) else value


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
