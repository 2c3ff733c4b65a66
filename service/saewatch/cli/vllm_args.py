"""Print the arguments of `vllm serve` that switch the tap on, the middleware's environment, and the device memory."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from saewatch.config import default_socket
from saewatch.core import tapconfig
from saewatch.core.errors import ConfigError
from saewatch.core.footprint import Footprint, check_budget, footprint
from saewatch.core.records import Role
from saewatch.core.tapconfig import DictionaryUse, TapConfig
from saewatch.edge import dictionaries
from saewatch.monitor.tables import KnownDictionary

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
    parser.add_argument("--rows", type=int, default=8192, help="vLLM's max-num-batched-tokens (%(default)s)")
    parser.add_argument("--no-middleware", action="store_true", help="requests stay unlabelled")


def run(options: argparse.Namespace) -> int:
    """Prints them, checked."""
    if options.rows < 1:
        raise ConfigError("rows", found=options.rows, expected="rows of the largest step, at least 1")
    folders = [folder.resolve() for folder in options.dictionary]
    known = [dictionaries.load_one(folder) for folder in folders]
    uses = tuple(_use(folder, options) for folder in folders)
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
    memory = [_memory(one, use, config, options.rows) for one, use in zip(known, uses, strict=True)]
    if options.json:
        found = {"arguments": words, "environment": environment, "device_bytes": sum(one.total for one in memory)}
        print(json.dumps(found))
        return 0
    for use, needed in zip(uses, memory, strict=True):
        print(f"# device memory at {options.rows} rows a step, {Path(use.path).name}: {needed}")
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"vllm serve MODEL {shlex.join(words)}")
    return 0


def _memory(known: KnownDictionary, use: DictionaryUse, config: TapConfig, rows: int) -> Footprint:
    """What it takes on a GPU. ManifestError for a feature that the catalogue lacks, ConfigError over budget."""
    slots = len(known.catalogue.watch_list(known.manifest, use.watch).rows)
    needed = footprint(known.manifest, use, config, rows=rows, slots=slots)
    check_budget(needed, config, rows=rows, slots=slots)
    return needed


def _use(folder: Path, options: argparse.Namespace) -> DictionaryUse:
    return DictionaryUse(
        path=str(folder), watch=tuple(options.watch), role=options.role, mode=options.mode, census=options.census
    )
