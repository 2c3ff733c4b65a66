"""Events as plain data: what `saewatch watch --json` prints, one object a line."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from saewatch.client.events import Coverage, Event
from saewatch.client.firings import Firing, Firings

_KINDS = {"RequestEnded": "request_ended"}


def plain(event: Event) -> dict[str, Any]:
    """The event as JSON takes it. ``event`` says which one; a time is RFC 3339; a feature firing names its request.

    ``slot_firings`` counts those of latents and directions, as totals and gaps do; a latent that serves two features is
    two of the ``feature_firings``.
    """
    kind = {"event": _KINDS.get(type(event).__name__, type(event).__name__.lower())}
    if isinstance(event, Firings):
        return kind | _firings(event)
    more = {"coverage": event.overall} if isinstance(event, Coverage) else {}
    return {**kind, **more, **_timed(asdict(event))}


def _firings(event: Firings) -> dict[str, Any]:
    stream = event.table.stream
    return {
        "time": time_text(event.last_time_ns),
        "stream": stream.number,
        "engine": stream.engine,
        "model": stream.model_name,
        "hook_point": stream.hook_point,
        "tokens": event.tokens,
        "recomputed": event.recomputed,
        "missed": event.missed,
        "requests": [asdict(one) for one in event.requests],
        "slot_firings": event.slot_firings,
        "feature_firings": [_firing(one) for one in event],
        "resume_token": event.resume_token,
    }


def _firing(one: Firing) -> dict[str, Any]:
    return {
        "request": one.request.name if one.request else None,
        "fit": one.request.fit if one.request else None,
        "position": one.position,
        "prompt": one.prompt,
        "feature": one.feature,
        "label": one.label,
        "label_review": one.label_review,
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
                time_text(item) if name.endswith("_ns") else _timed(item)
            )
            for name, item in value.items()
        }
    return [_timed(item) for item in value] if isinstance(value, list | tuple) else value


def time_text(time_ns: int) -> str:
    """RFC 3339 in UTC, to the nanosecond; empty for 0, which stands for no time."""
    if not time_ns:
        return ""
    seconds, rest = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
