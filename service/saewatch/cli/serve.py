"""Receive from engines, and serve gRPC and metrics, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
from pathlib import Path

from saewatch import config as settings
from saewatch import logs
from saewatch.app import Addresses, serve, write_addresses
from saewatch.core.errors import UnreachableError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which configuration, and where to write the addresses."""
    parser.add_argument("-c", "--config", type=Path, help="saewatch.yaml; without it: a default on loopback addresses")
    parser.add_argument("--dictionary", type=Path, action="append", default=[], help="one more bundle; repeatable")
    parser.add_argument("--addresses", type=Path, metavar="FILE", help="write the bound addresses, as JSON")


def run(options: argparse.Namespace) -> int:
    """Serves."""
    config = settings.load(options.config)
    more = tuple(str(folder.absolute()) for folder in options.dictionary)
    config = config.model_copy(update={"dictionaries": config.dictionaries + more})
    logs.set_up(config.log.level)

    def started(addresses: Addresses) -> None:
        if options.addresses:
            _write(options.addresses, addresses)
        print(_text(addresses, as_json=options.json), flush=True)

    asyncio.run(serve(config, on_start=started))
    return 0


def _write(path: Path, addresses: Addresses) -> None:
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        write_addresses(path, addresses)
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror, expected="a file that can be written") from error


def _text(addresses: Addresses, *, as_json: bool) -> str:
    named = addresses.named()
    if as_json:
        return json.dumps(named)
    return "\n".join(f"{name:<8} {address}" for name, address in named.items())
