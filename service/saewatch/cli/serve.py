"""Receive from engines, and serve gRPC and metrics, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
from functools import partial
from pathlib import Path

from saewatch import logs
from saewatch.app import serve
from saewatch.cli import sidecar
from saewatch.config import Config
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.recorder import RecordedSource


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which configuration, where to write the addresses, and what is received."""
    sidecar.config_arguments(parser)
    parser.add_argument("--addresses", type=Path, metavar="FILE", help="write the bound addresses, as JSON")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what is received into a new file")
    sidecar.size_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Serves."""
    config = sidecar.configured(options)
    sidecar.return_memory()
    logs.set_up(config.log.level)
    source = partial(_recording, options, config) if options.record else None
    asyncio.run(serve(config, on_start=partial(sidecar.announce, options=options), source=source))
    return 0


def _recording(options: argparse.Namespace, config: Config, pipeline: Pipeline) -> RecordedSource:
    recorder = sidecar.recorder(options, config, file=options.record, consumer=pipeline)
    return RecordedSource(path=config.socket, allowed_users=config.allowed_users, recorder=recorder)
