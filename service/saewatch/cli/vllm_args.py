"""Print the arguments of `vllm serve` that switch the tap on, and the environment that the middleware needs."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from saewatch.config import default_socket
from saewatch.core import tapconfig
from saewatch.core.records import Role
from saewatch.core.tapconfig import DictionaryUse, TapConfig
from saewatch.edge import dictionaries

WORKER = "saewatch.engine.vllm.TapWorker"
MIDDLEWARE = "saewatch.engine.middleware.LabelMiddleware"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is to be watched, and where it goes."""
    parser.add_argument("--dictionary", type=Path, required=True, action="append", help="a bundle's folder; repeatable")
    parser.add_argument("--watch", action="append", default=[], metavar="ID", help="a feature; none: all; repeatable")
    parser.add_argument("--socket", default=default_socket(), help="the sidecar's socket (%(default)s)")
    parser.add_argument("--on-failure", choices=["stop", "serve"], default="stop", help="when the tap cannot start")
    parser.add_argument("--role", choices=list(map(str, Role)), default=str(Role.STABLE), help="of the dictionary")
    parser.add_argument("--mode", choices=["exact", "thresholded"], default="exact", help="for latents that compete")
    parser.add_argument("--census", type=float, default=0.0, help="share of tokens to encode with the whole dictionary")
    parser.add_argument("--instance", default="", help="the engine's name in the deployment")
    parser.add_argument("--no-middleware", action="store_true", help="requests stay unlabelled")


def run(options: argparse.Namespace) -> int:
    """Prints them, checked."""
    uses = tuple(_use(folder.resolve(), options) for folder in options.dictionary)
    config = TapConfig(
        socket=options.socket, dictionaries=uses, instance=options.instance, on_failure=options.on_failure
    )
    text = tapconfig.additional_config(config)
    tapconfig.read(json.loads(text)[tapconfig.SECTION])
    words = ["--worker-cls", WORKER, "--additional-config", text]
    environment = {}
    if not options.no_middleware:
        words += ["--middleware", MIDDLEWARE]
        environment["SAEWATCH_SOCKET"] = options.socket
    if options.json:
        print(json.dumps({"arguments": words, "environment": environment}))
        return 0
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"vllm serve MODEL {shlex.join(words)}")
    return 0


def _use(folder: Path, options: argparse.Namespace) -> DictionaryUse:
    dictionaries.load_one(folder).catalogue.chosen(options.watch)
    return DictionaryUse(
        path=str(folder), watch=tuple(options.watch), role=options.role, mode=options.mode, census=options.census
    )
