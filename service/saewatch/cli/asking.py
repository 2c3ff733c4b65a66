"""One call to a running sidecar, and what went wrong with it in our words."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc

from saewatch.client import AlertWatch, Watch
from saewatch.client.channel import ADDRESS
from saewatch.client.failures import told
from saewatch.core.errors import UnreachableError

T = TypeVar("T")
VARIABLE = "SAEWATCH_ADDRESS"


def address_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--address``; without it the address in the environment, and else the default one."""
    says = f"of the sidecar's gRPC service; without it {VARIABLE} in the environment, and else %(default)s"
    parser.add_argument("--address", default=default_address(), help=says)


def default_address() -> str:
    """Where nothing is said."""
    return os.environ.get(VARIABLE) or ADDRESS


def ask(address: str, call: Callable[[grpc.Channel], T]) -> T:
    """What ``call`` gets over a channel to ``address``.

    Raises `UnreachableError` for nobody there or nobody behind it, another `SaewatchError` for what was refused.
    """
    with grpc.insecure_channel(address) as channel:
        try:
            return call(channel)
        except grpc.RpcError as error:
            raise told(address, error) from None  # gRPC's own text is long and says nothing more


@contextlib.contextmanager
def until_ended(watch: Watch | AlertWatch, options: argparse.Namespace) -> Iterator[None]:
    """Ends a watch when the seconds of ``--for`` are over, or by Ctrl-C.

    Raises `UnreachableError` where its time is over while there is no connection: nothing was heard, which is not the
    same as silence.
    """
    timer = threading.Timer(options.seconds or 0.0, watch.close)
    if options.seconds is not None:
        timer.start()
    try:
        yield
    except KeyboardInterrupt:
        return  # how a person ends it
    finally:
        timer.cancel()
    if not watch.connected:
        found, hint = "no connection when the time was over", "Is `saewatch serve` running, and is this its address?"
        raise UnreachableError(options.address, found=found, expected="a sidecar", hint=hint)
