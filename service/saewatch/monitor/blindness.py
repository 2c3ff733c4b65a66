"""What does not see, since when, and what to do about it. No firings never mean that nothing fired."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from saewatch.monitor.events import BlindState
from saewatch.monitor.roster import EngineKey
from saewatch.monitor.streams import NO_BEAT, SELF_TEST_FAILED, UNKNOWN_DICTIONARY, StreamRecord

NO_ENGINE = "no_engine"
NO_STREAM = "no_stream"
REPLACED = "replaced"
OFF = "off"
HINTS: Mapping[str, str] = {
    NO_ENGINE: "No engine is connected. Is it started with the tap and this socket? See `saewatch vllm-args`.",
    NO_STREAM: "An engine is connected, but it has opened no stream or has ended all. See its log.",
    REPLACED: "Another engine of the same name has connected, and this one is not heard. Give each its own `instance`.",
    NO_BEAT: "The engine has not been heard of for 3 seconds. Is it running, and does it reach this socket?",
    SELF_TEST_FAILED: "It is attached, but delivers what is wrong. See `saewatch tap selftest` and the engine's log.",
    UNKNOWN_DICTIONARY: "Add the dictionary's bundle to `dictionaries` in the sidecar's configuration and restart it.",
    OFF: "Somebody switched it off: `saewatch tap on` switches it on again, and the sidecar's log says who did what.",
    "sleep": "The engine was put to sleep. It is watched again, in new streams, when it has woken up altogether.",
    "reload": "The model's weights are read anew. It is watched again, in new streams, once they prove to be the same.",
    "weights_changed": (
        "The model has other weights than at its start: reload those, or start the engine anew. Its log says more."
    ),
}
"""The sidecar's own reasons, and an engine's that are no fault of it; the others are explained in the engine's log."""
_ENGINE_HINT = "The engine says so itself; its log has the reason."


class Blindness:
    """The present blind states of taps."""

    def __init__(self) -> None:
        self.states: tuple[BlindState, ...] = ()

    def look(
        self,
        streams: Iterable[StreamRecord],
        connected: Collection[EngineKey],
        replaced: Collection[EngineKey],
        now_ns: int,
    ) -> bool:
        """Looks anew; True when something changed. ``replaced`` are connected too, but another has their place."""
        found = {(state.reason, state.subject): state for state in self.states}
        told = _states(list(streams), connected, now_ns)
        told += [_without_stream(REPLACED, f"{engine} of {epoch}", now_ns) for engine, epoch in replaced]
        states = tuple(found.get((state.reason, state.subject), state) for state in told)
        changed = states != self.states
        self.states = states
        return changed


def _states(streams: list[StreamRecord], connected: Collection[EngineKey], now_ns: int) -> list[BlindState]:
    states = [
        BlindState(
            scope="tap",
            reason=reason,
            subject=f"{stream.opening.engine} {stream.opening.hook_point} {stream.opening.weights_digest[:19]}",
            hint=HINTS.get(reason, _ENGINE_HINT),
            since_ns=now_ns,
            model_name=stream.opening.model_name,
            rank=str(stream.opening.dp_rank),
        )
        for stream in streams
        if (reason := stream.blind(now_ns))
    ]
    if not connected:
        states.append(_without_stream(NO_ENGINE, "", now_ns))
    seen = {(stream.opening.engine, stream.opening.epoch) for stream in streams if not stream.ended}
    return states + [_without_stream(NO_STREAM, engine[0], now_ns) for engine in connected if engine not in seen]


def _without_stream(reason: str, subject: str, now_ns: int) -> BlindState:
    return BlindState(scope="tap", reason=reason, subject=subject, hint=HINTS[reason], since_ns=now_ns)
