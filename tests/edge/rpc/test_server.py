"""Health, reflection and the port."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from saewatch.core.errors import ConfigError
from saewatch.edge.access import LocalAccess
from saewatch.edge.pb import status_pb2, status_pb2_grpc
from saewatch.edge.rpc.server import RpcServer
from tests.edge.rpc.served import serving

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_of_the_whole_and_of_each_service() -> None:
    async with serving() as served:
        stub = health_pb2_grpc.HealthStub(served.channel)
        for name in ("", *(f"saewatch.v1.{one}Service" for one in ("Firing", "Status", "Dictionary", "Tap"))):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == SERVING, name
        await served.server.leave()
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING


async def test_reflection_knows_our_protos() -> None:
    async with serving() as served:
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        call = stub.ServerReflectionInfo(
            iter(
                [
                    reflection_pb2.ServerReflectionRequest(list_services=""),
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol="saewatch.v1.FiringService"),
                ]
            )
        )
        listed, file = [answer async for answer in call]
        names = {one.name for one in listed.list_services_response.service}
        assert {"saewatch.v1.FiringService", "grpc.health.v1.Health"} <= names
        assert b"saewatch/v1/firing.proto" in file.file_descriptor_response.file_descriptor_proto[0]


async def test_a_port_that_is_taken_is_refused() -> None:
    async with serving() as served:
        other = RpcServer(services=[], access=LocalAccess())
        with pytest.raises(ConfigError, match=r"grpc\.listen"):
            await other.start("127.0.0.1", int(served.address.rpartition(":")[2]))
        await other.stop(0)


async def test_a_synchronous_client() -> None:
    async with serving() as served:
        address = served.address

        def ask() -> str:
            with grpc.insecure_channel(address) as channel:
                stub = status_pb2_grpc.StatusServiceStub(channel)
                return str(stub.GetStatus(status_pb2.GetStatusRequest(), timeout=5).version)

        assert await served.in_thread(ask)
