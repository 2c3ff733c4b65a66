"""How both clients connect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saewatch.core import limits

ADDRESS = "127.0.0.1:50071"
"""Where `saewatch serve` listens unless it is configured otherwise."""
TIMEOUT_S = 5.0
"""For a call with one answer."""
OPTIONS: Sequence[tuple[str, Any]] = (
    # Without its bandwidth probe gRPC takes about 100 KiB ahead of a slow reader, with it 4 to 6 MB: the sidecar then
    # knows within a moment that events are about to be lost, and says so as a gap.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.keepalive_time_ms", 30_000),  # with the timeout: a dead peer goes in 40 s, behind a proxy too
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
    # A watch has a backoff of its own; gRPC's, which goes up to two minutes, would come on top of it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # how long one attempt to connect may take
    ("grpc.use_local_subchannel_pool", 1),  # a client that is closed leaves no connection to the next one
)
