"""Serve made-up requests with firings of a small made-up dictionary, until Ctrl-C: to develop a client in any language.

The services, messages, filters, refusals and resume tokens are those of a real sidecar; the tokens are random. Queries
are answered from the last events that were served. It needs the ``client`` extra alone. Reflection is not served: give
your tool the folder protos/.
"""

from __future__ import annotations

import argparse
import json
import time
from random import Random

from saewatch import cli
from saewatch.cli.values import from_zero
from saewatch.client.channel import ADDRESS
from saewatch.client.fake import FakeServer
from saewatch.client.fake.traffic import Traffic

TICK_S = 0.1
BEAT_TICKS = 10
RATE_MAX = 100_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where, how fast, how long."""
    parser.add_argument(
        "--listen", type=_address, default=ADDRESS, help="host:port; port 0 takes any free one (%(default)s)"
    )
    parser.add_argument(
        "--rate", type=from_zero(float, RATE_MAX), default=20.0, metavar="TOKENS", help="tokens a second (%(default)g)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the made-up requests (%(default)s)")
    parser.add_argument("--for", dest="seconds", type=from_zero(float), metavar="SECONDS", help="end after this long")


def run(options: argparse.Namespace) -> int:
    """Serves."""
    with FakeServer(options.listen, replay=False) as server:
        print(json.dumps({"grpc": server.address}) if options.json else f"grpc     {server.address}", flush=True)
        try:
            _traffic(server, rate=options.rate, seed=options.seed, seconds=options.seconds)
        except KeyboardInterrupt:
            server.drain("Ctrl-C")
    return cli.GOOD


def _traffic(server: FakeServer, *, rate: float, seed: int, seconds: float | None) -> None:
    """Tokens at ``rate``, and a beat each second, for ``seconds``."""
    traffic = Traffic(server, Random(seed))  # noqa: S311 - made-up requests, the same ones for the same seed
    begun, sent, ticks = time.monotonic(), 0, 0
    while seconds is None or time.monotonic() - begun < seconds:
        if ticks % BEAT_TICKS == 0:
            server.coverage()
        due = int((time.monotonic() - begun) * rate) - sent
        traffic.step(due)
        sent += due
        ticks += 1
        time.sleep(TICK_S)


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return text
