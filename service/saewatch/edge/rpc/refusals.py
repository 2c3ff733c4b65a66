"""How calls are refused: a status, a message for people, and google.rpc details for programs (AIP-193).

The detail messages are written by hand, field by field: they are three small ones, and a dependency less.
"""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as Packed

from saewatch.core.errors import SaewatchError
from saewatch.edge.rpc.wire import delimited, integer

DOMAIN = "saewatch"
_DETAILS = "grpc-status-details-bin"


class Refusal(Exception):
    """A call cannot be served."""

    def __init__(self, code: grpc.StatusCode, error: SaewatchError, *, reason: str, retry_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.code = code
        self.error = error
        self.reason = reason
        self.retry_s = retry_s


def invalid(field: str, *, found: object, expected: object, hint: str = "") -> Refusal:
    """An argument that makes no sense."""
    error = SaewatchError(field, found=found, expected=expected, hint=hint)
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, error, reason="INVALID_ARGUMENT")


def missing(what: str, *, found: object, expected: object, hint: str = "") -> Refusal:
    """Something that is not there."""
    error = SaewatchError(what, found=found, expected=expected, hint=hint)
    return Refusal(grpc.StatusCode.NOT_FOUND, error, reason="NOT_FOUND")


async def refuse(context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> NoReturn:
    """Ends the call."""
    trailer = ((_DETAILS, status(refusal)),)
    await context.abort(refusal.code, str(refusal), trailer)
    raise AssertionError("abort() raises")


def status(refusal: Refusal) -> bytes:
    """A google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where they say something."""
    details = [_packed("ErrorInfo", delimited(1, refusal.reason.encode()) + delimited(2, DOMAIN.encode()))]
    if refusal.code is grpc.StatusCode.INVALID_ARGUMENT:
        violation = delimited(1, refusal.error.subject.encode()) + delimited(2, str(refusal).encode())
        details.append(_packed("BadRequest", delimited(1, violation)))
    if refusal.retry_s:
        duration = integer(1, int(refusal.retry_s)) + integer(2, round(refusal.retry_s % 1 * 1e9))
        details.append(_packed("RetryInfo", delimited(1, duration)))
    head = integer(1, refusal.code.value[0]) + delimited(2, str(refusal).encode())
    return head + b"".join(delimited(3, one) for one in details)


def _packed(name: str, payload: bytes) -> bytes:
    return Packed(type_url=f"type.googleapis.com/google.rpc.{name}", value=payload).SerializeToString()
