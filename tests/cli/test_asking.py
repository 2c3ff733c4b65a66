"""One call over a channel of its own; what its failure says is tests/client/test_failures.py's."""

from __future__ import annotations

import grpc
import pytest

from saewatch.cli.asking import ask
from saewatch.client.fake import FakeServer
from saewatch.core.errors import SaewatchError, UnreachableError
from saewatch.edge.pb import firing_pb2, firing_pb2_grpc, status_pb2, status_pb2_grpc


def status(channel: grpc.Channel) -> status_pb2.GetStatusResponse:
    return status_pb2_grpc.StatusServiceStub(channel).GetStatus(status_pb2.GetStatusRequest(), timeout=5)


def test_an_answer() -> None:
    with FakeServer() as server:
        assert "fake" in ask(server.address, status).version


def test_a_refusal() -> None:
    request = firing_pb2.GetRequestRecordRequest(request_id="nobody")
    with FakeServer() as server, pytest.raises(SaewatchError) as caught:
        ask(server.address, lambda channel: firing_pb2_grpc.FiringServiceStub(channel).GetRequestRecord(request))
    assert (caught.value.subject, caught.value.found) == ("request_id", "nobody")


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError, match="no answer"):
        ask("127.0.0.1:1", status)
