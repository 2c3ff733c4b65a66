"""How clients connect."""

from __future__ import annotations

from saewatch.client.channel import ADDRESS, OPTIONS
from saewatch.config import Grpc
from saewatch.core import limits
from saewatch.edge.rpc.server import OPTIONS as SERVER


def test_it_asks_where_the_sidecar_listens() -> None:
    assert Grpc().listen == ADDRESS


def test_it_takes_what_the_sidecar_sends() -> None:
    ours, theirs = dict(OPTIONS), dict(SERVER)
    assert ours["grpc.max_receive_message_length"] == limits.MESSAGE_BYTES >= theirs["grpc.max_send_message_length"]
    assert ours["grpc.keepalive_time_ms"] >= theirs["grpc.http2.min_recv_ping_interval_without_data_ms"]
