"""Messages as a sidecar sends them, from readable parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saewatch.client.fake.made import MadeDictionary
from saewatch.edge.pb import common_pb2, firing_pb2

Response = firing_pb2.WatchFiringsResponse
NOT_KNOWN = 0xFFFFFFFF


def response(token: str = "", **event: Any) -> Response:
    """One event with its resume token."""
    return Response(resume_token=token, **event)


def heartbeat(token: str = "") -> Response:
    return response(token, heartbeat=firing_pb2.Heartbeat(head_event=1))


def table(number: int = 1) -> Response:
    """The default dictionary's. Slot 0 is latent 12 of greeting.g1, above 0.5, and of hesitation.l1, above 1.0."""
    return response(table=MadeDictionary().table(number, number))


def requests(*names: str, prompt_len: int = 4) -> list[common_pb2.Request]:
    return [common_pb2.Request(client_id=name, prompt_len=prompt_len) for name in names]


def batch(
    spans: Sequence[tuple[int, int, int]],
    firings: Sequence[tuple[int, int, float]] = (),
    *,
    names: Sequence[str] = ("r1",),
    missed: Sequence[tuple[int, int, int]] = (),
    origins: Sequence[Any] = (),
    **fields: Any,
) -> firing_pb2.FiringBatch:
    """Spans are (request, position, tokens), firings (row, slot, value), missed ones (request, reason, tokens)."""
    known: dict[str, Any] = {"table": 1, "stream": 1, "requests": requests(*names), "last_time_unix_nano": 10**18}
    return firing_pb2.FiringBatch(
        **{**known, **fields},
        span_request=[one[0] for one in spans],
        span_position=[one[1] for one in spans],
        span_tokens=[one[2] for one in spans],
        span_origin=list(origins) or [common_pb2.ORIGIN_COMPUTED for _ in spans],
        missed_request=[one[0] for one in missed],
        missed_reason=[one[1] for one in missed],  # type: ignore[misc]  # a newer sidecar may send any number
        missed_tokens=[one[2] for one in missed],
        row=[one[0] for one in firings],
        slot=[one[1] for one in firings],
        value=[one[2] for one in firings],
    )


class Failed(Exception):
    """A call that has failed, as gRPC hands it over."""

    def __init__(self, code: Any, said: str = "", *, details: bytes | None = None) -> None:
        super().__init__(said)
        self._code, self._said, self._details = code, said, details

    def code(self) -> Any:
        return self._code

    def details(self) -> str:
        return self._said

    def trailing_metadata(self) -> Any:
        return None if self._details is None else (("grpc-status-details-bin", self._details),)
