"""One way into every method of every service: who asks is settled first, and refusals leave as proper statuses.

Methods take the request and the `Principal` and give a message (or, streaming, encoded messages). Cancellation passes
through: a handler that swallowed it would leak the call.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from saewatch.core.errors import AccessError, SaewatchError
from saewatch.edge.access import LocalAccess, Principal
from saewatch.edge.rpc.refusals import Refusal, invalid, refuse

logger = structlog.get_logger(__name__)

INTERNAL_ERROR = "internal_error"
"""Counted: calls that met a bug of ours."""
Asked = TypeVar("Asked", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Unary:
    """A method that gives one message."""

    request: type[Message]
    call: Callable[[Any, Principal], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method that gives many, encoded already."""

    request: type[Message]
    call: Callable[[Any, Principal], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A method that reads many messages and gives many, encoded already."""

    request: type[Message]
    call: Callable[[AsyncIterator[Any], Principal], AsyncGenerator[bytes, None]]


Method = Unary | Streaming | Exchange


@dataclass(frozen=True, slots=True)
class Door:
    """What every call passes: who may come in, and where faults of ours are counted."""

    access: LocalAccess
    counters: Counter[str]

    def principal(self, context: Context) -> Principal:
        """Who asks. Raises `Refusal` for nobody."""
        try:
            return self.access.principal(dict(context.invocation_metadata() or ()))
        except AccessError as error:
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, error, reason="UNAUTHENTICATED") from error

    async def fault(self, context: Context, error: Exception) -> NoReturn:
        """Ends a call that met a bug of ours: the log has it, the caller gets none of it."""
        self.counters[INTERNAL_ERROR] += 1
        logger.error("call failed", exc_info=error)
        told = SaewatchError("call", found="a fault of the sidecar", expected="an answer", hint="Its log has more.")
        await refuse(context, Refusal(grpc.StatusCode.INTERNAL, told, reason="INTERNAL"))


def handlers(service: str, methods: Mapping[str, Method], door: Door) -> grpc.GenericRpcHandler:
    """The handlers of a service, for a server."""
    return grpc.method_handlers_generic_handler(
        service, {name: _handler(method, door) for name, method in methods.items()}
    )


def _handler(method: Method, door: Door) -> grpc.RpcMethodHandler[Any, Any]:
    # One request is read in the call itself: what grpcio could not read it would answer with UNKNOWN.
    if isinstance(method, Unary):
        return grpc.unary_unary_rpc_method_handler(
            _answering(method, door), request_deserializer=_as_it_is, response_serializer=_serialised
        )
    if isinstance(method, Exchange):
        return grpc.stream_stream_rpc_method_handler(
            _streaming(method, door), request_deserializer=method.request.FromString, response_serializer=_as_it_is
        )
    return grpc.unary_stream_rpc_method_handler(
        _streaming(method, door), request_deserializer=_as_it_is, response_serializer=_as_it_is
    )


def _answering(method: Unary, door: Door) -> Any:
    async def call(request: bytes, context: Context) -> Message:
        try:
            principal = door.principal(context)
            return await method.call(_read(method, request), principal)
        except Refusal as refusal:
            await refuse(context, refusal)
        except Exception as error:  # the whole call: what a method meets ends in one status, log line and count
            await door.fault(context, error)

    return call


def _streaming(method: Streaming | Exchange, door: Door) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[bytes]:
        try:
            principal = door.principal(context)
            asked: Any = request if isinstance(method, Exchange) else _read(method, request)
            async with contextlib.aclosing(method.call(asked, principal)) as messages:
                async for message in messages:
                    yield message
        except Refusal as refusal:
            await refuse(context, refusal)
        except Exception as error:  # the whole call: what a method meets ends in one status, log line and count
            await door.fault(context, error)

    return call


def _read(method: Unary | Streaming, request: bytes) -> Message:
    """The one request of a call. Raises `Refusal` for what is none."""
    try:
        return method.request.FromString(request)
    except DecodeError as error:
        expected = f"a {method.request.DESCRIPTOR.name}"
        raise invalid("request", found="bytes that cannot be read", expected=expected) from error


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()


def _as_it_is(message: bytes) -> bytes:
    return message
