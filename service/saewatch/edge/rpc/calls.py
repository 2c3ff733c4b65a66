"""One way into every method of every service: who asks is settled first, and refusals leave as proper statuses.

Methods take the request and the `Principal` and give a message (or, streaming, encoded messages). Cancellation passes
through: a handler that swallowed it would leak the call.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from saewatch.core.errors import AccessError
from saewatch.edge.access import LocalAccess, Principal
from saewatch.edge.rpc.refusals import Refusal, refuse

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


def handlers(service: str, methods: Mapping[str, Unary | Streaming], access: LocalAccess) -> grpc.GenericRpcHandler:
    """The handlers of a service, for a server."""
    return grpc.method_handlers_generic_handler(
        service, {name: _handler(method, access) for name, method in methods.items()}
    )


def _handler(method: Unary | Streaming, access: LocalAccess) -> grpc.RpcMethodHandler[Any, Any]:
    read = method.request.FromString
    if isinstance(method, Unary):
        return grpc.unary_unary_rpc_method_handler(
            _answering(method, access), request_deserializer=read, response_serializer=_serialised
        )
    return grpc.unary_stream_rpc_method_handler(
        _streaming(method, access), request_deserializer=read, response_serializer=_as_it_is
    )


def _answering(method: Unary, access: LocalAccess) -> Any:
    async def call(request: Message, context: Context) -> Message:
        try:
            return await method.call(request, _principal(access, context))
        except Refusal as refusal:
            await refuse(context, refusal)

    return call


def _streaming(method: Streaming, access: LocalAccess) -> Any:
    async def call(request: Message, context: Context) -> AsyncIterator[bytes]:
        try:
            async with contextlib.aclosing(method.call(request, _principal(access, context))) as messages:
                async for message in messages:
                    yield message
        except Refusal as refusal:
            await refuse(context, refusal)

    return call


def _principal(access: LocalAccess, context: Context) -> Principal:
    try:
        return access.principal(dict(context.invocation_metadata() or ()))
    except AccessError as error:
        raise Refusal(grpc.StatusCode.UNAUTHENTICATED, error, reason="UNAUTHENTICATED") from error


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()


def _as_it_is(message: bytes) -> bytes:
    return message
