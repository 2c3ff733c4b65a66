"""The gRPC server: our services, health and reflection on one port.

Subscribers are limited by FiringService itself, not by the server's ``maximum_concurrent_rpcs``: that one answers
health checks with RESOURCE_EXHAUSTED too, and an orchestrator would kill a sidecar for being popular.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.edge.access import LocalAccess
from saewatch.edge.rpc.calls import INTERNAL_ERROR, Door, handlers

OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.so_reuseport", 0),  # or a second sidecar would share the port without a word
    ("grpc.keepalive_time_ms", 30_000),  # with the timeout: a dead peer goes in 40 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", limits.MIB),
    ("grpc.max_send_message_length", 4 * limits.MIB),
    ("grpc.max_metadata_size", 16 * limits.KIB),
    ("grpc.max_concurrent_streams", 100),
)


class Service(Protocol):
    """One of our services."""

    SERVICE: str

    def methods(self) -> Any:
        """Its methods by name."""


class RpcServer:
    """Serves ``services`` on ``host:port``."""

    def __init__(self, *, services: Sequence[Service], access: LocalAccess) -> None:
        self._names = [service.SERVICE for service in services]
        self._server = grpc.aio.server(options=OPTIONS)
        self.counters: Counter[str] = Counter({INTERNAL_ERROR: 0})
        """Faults of ours."""
        door = Door(access, self.counters)
        self._server.add_generic_rpc_handlers(
            tuple(handlers(service.SERVICE, service.methods(), door) for service in services)
        )
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [*self._names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME],
            self._server,
        )

    async def start(self, host: str, port: int) -> int:
        """Binds, serves and says SERVING; the port that was bound. Raises `ConfigError` when it cannot be."""
        # One user more than there is: its shutdown, when the last one goes, waits for calls that nobody ends any more.
        grpc.aio.init_grpc_aio()
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError as error:
            hint = "Is another program on it? Port 0 takes any free one."
            raise ConfigError("grpc.listen", found=address, expected="an address that is free", hint=hint) from error
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return int(bound)

    async def leave(self) -> None:
        """Health says NOT_SERVING from here on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, and ends open ones after ``grace_s``."""
        await self._server.stop(grace_s)
