"""What a failed call says, in our words: its error, whether asking again can help, and when.

A sidecar that refuses says so twice: as a text of the form of `SaewatchError`, and as google.rpc details in a trailer
that only it sends. Everything else that fails is gRPC's own: nobody there, a broken connection, an unknown method.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from saewatch.core.errors import AccessError, SaewatchError, UnreachableError, parts

Code = grpc.StatusCode

_UNREACHED = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}
_BROKEN = {Code.ABORTED, Code.CANCELLED, Code.INTERNAL, Code.UNKNOWN}
"""Without the sidecar's details: a connection that broke in the middle shows as one of these, or as UNAVAILABLE."""
_NO_ACCESS = {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED}
_MAY_PASS = {*_UNREACHED, *_BROKEN, Code.RESOURCE_EXHAUSTED}
"""Codes of what the caller did not cause. A watch goes on where it was, so it may ask again after any of them."""
_DETAILS = "grpc-status-details-bin"
"""Only the sidecar itself sends this along."""


def told(address: str, error: Any) -> SaewatchError:
    """What a failed call says."""
    code = error.code()
    if _details(error) is not None and (said := parts(error.details() or "")):
        kind = UnreachableError if code in _UNREACHED else AccessError if code in _NO_ACCESS else SaewatchError
        return kind(said["subject"], found=said["found"], expected=said["expected"], hint=said["hint"])
    if code in _UNREACHED or (code in _BROKEN and _details(error) is None):
        return _unreached(address, code)
    if code is Code.UNIMPLEMENTED:
        hint = "Update the sidecar: it is older than this command."
        return SaewatchError(address, found="an unknown call", expected="a sidecar that has it", hint=hint)
    if _too_large(error):
        return SaewatchError(address, found="a message beyond the bound", expected="a smaller one", hint=_HINT_SMALLER)
    return AccessError(address, found=code.name, expected="an answer")


def _unreached(address: str, code: grpc.StatusCode) -> UnreachableError:
    if code is Code.DEADLINE_EXCEEDED:
        return UnreachableError(address, found="no answer in time", expected="a sidecar", hint=_HINT_SLOW)
    found = f"a connection that broke ({code.name})" if code in _BROKEN else "no answer"
    return UnreachableError(address, found=found, expected="a sidecar", hint=_HINT_NOBODY)


_HINT_NOBODY = "Is `saewatch serve` running, and is this its gRPC address?"
_HINT_SLOW = "It is busy, or not there: ask for less, or see whether `saewatch serve` runs at this address."
_HINT_SMALLER = "Ask for less: a filter makes messages smaller."


def may_pass(error: Any) -> bool:
    """Whether the same call may succeed later."""
    return error.code() in _MAY_PASS and not _too_large(error)


def retry_after_s(error: Any) -> float:
    """When the sidecar wants to be asked again, by its google.rpc.RetryInfo; 0 where it did not say."""
    try:
        return sum(map(_delay_s, _delimited(_details(error) or b"")))
    except DecodeError:  # it did not say it in any form that is known
        return 0.0


def _delay_s(detail: tuple[int, bytes]) -> float:
    """The delay in a field of google.rpc.Status."""
    number, value = detail
    packed = Packed.FromString(value) if number == 3 else Packed()
    if not packed.type_url.endswith("/google.rpc.RetryInfo"):
        return 0.0
    delays = [Duration.FromString(delay) for field, delay in _delimited(packed.value) if field == 1]
    return sum(delay.seconds + delay.nanos / 1e9 for delay in delays)


def _details(error: Any) -> bytes | None:
    found: bytes | None = dict(error.trailing_metadata() or ()).get(_DETAILS)
    return found


def _too_large(error: Any) -> bool:
    """Either side's bound on a message: gRPC tells it with the code of a busy server, and it will not pass."""
    return error.code() is Code.RESOURCE_EXHAUSTED and "larger than max" in (error.details() or "")


def _delimited(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of an encoded message, with their numbers; varints are passed over.

    google.rpc's messages are not among those that protobuf brings, and all that is read of them is one field.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        length, at = _varint(data, at)
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + length]
            at += length
        elif tag & 7 != 0:
            return


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at
