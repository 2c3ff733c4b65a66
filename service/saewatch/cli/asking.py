"""One call to a running sidecar, and what went wrong with it in our words."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TypeVar

import grpc

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


def unheard(address: str) -> UnreachableError:
    """Of a watch whose time is over while there was no connection."""
    hint = "Is `saewatch serve` running, and is this its gRPC address?"
    return UnreachableError(address, found="no connection when the time was over", expected="a sidecar", hint=hint)
