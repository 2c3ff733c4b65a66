"""How a fake sidecar refuses a call: with the status, the text and the trailer of a real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration

from saewatch.core.errors import SaewatchError


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status, and what it says."""

    code: grpc.StatusCode
    error: SaewatchError
    retry_s: float = 0.0
    """When to ask again, as google.rpc.RetryInfo; 0: it does not say."""

    def abort(self, context: grpc.ServicerContext) -> NoReturn:
        """Ends a call."""
        context.set_trailing_metadata((("grpc-status-details-bin", self.details()),))
        context.abort(self.code, str(self.error))

    def details(self) -> bytes:
        """A google.rpc.Status: code, message, details."""
        packed = [Packed(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=_field(1, b"FAKE"))]
        if self.retry_s:
            delay = Duration()
            delay.FromNanoseconds(round(self.retry_s * 1e9))
            value = _field(1, delay.SerializeToString())
            packed.append(Packed(type_url="type.googleapis.com/google.rpc.RetryInfo", value=value))
        head = bytes([1 << 3, self.code.value[0]]) + _field(2, str(self.error).encode())
        return head + b"".join(_field(3, one.SerializeToString()) for one in packed)


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field of the wire format; ``value`` is shorter than 16 KiB."""
    length = len(value)
    size = bytes([length]) if length < 0x80 else bytes([length & 0x7F | 0x80, length >> 7])
    return bytes([number << 3 | 2]) + size + value


def invalid(field: str, *, found: object, expected: object) -> Refusal:
    """An argument that makes no sense."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, SaewatchError(field, found=found, expected=expected))
