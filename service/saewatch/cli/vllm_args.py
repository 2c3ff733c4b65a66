"""Print the arguments of `vllm serve` that switch the tap on, the middleware's environment, and the device memory."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saewatch import config as settings
from saewatch.core import tapconfig
from saewatch.core.errors import ConfigError
from saewatch.core.footprint import Footprint, check_budget, footprint, mib
from saewatch.core.records import Role
from saewatch.core.tapconfig import DictionaryUse, TapConfig
from saewatch.edge import dictionaries
from saewatch.monitor.tables import KnownDictionary

WORKER = "saewatch.engine.vllm.TapWorker"
MIDDLEWARE = "saewatch.engine.middleware.LabelMiddleware"
WATCH_HELP = "a feature of one of the dictionaries, or of several; none: all; repeatable"
NO_MIDDLEWARE_HELP = "costs the client's own request id, tenant, class and conversation, which firings then lack"

SCREEN_HELP = "how a GPU reads the whole dictionary, for a census or TopK; int8: half as much, and half more memory"
CANARIES_HELP = "also what canaries need: priorities, and headers that are trusted"
TRUSTED = "headers are trusted: every request has to come through a gateway that replaces or removes X-Saewatch-*"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is to be watched, and where it goes."""
    parser.add_argument("--dictionary", type=Path, required=True, action="append", help="a bundle's folder; repeatable")
    beside = "a bundle's folder that runs beside them to be compared, and raises no alerts; repeatable"
    parser.add_argument("--shadow", type=Path, action="append", default=[], metavar="BUNDLE", help=beside)
    parser.add_argument("--watch", action="append", default=[], metavar="ID", help=WATCH_HELP)
    parser.add_argument("--socket", default=settings.default_socket(), help="the sidecar's socket (%(default)s)")
    parser.add_argument("--on-failure", choices=["stop", "serve"], default="stop", help="when the tap cannot start")
    parser.add_argument("--role", choices=list(map(str, Role)), default=str(Role.STABLE), help="of each --dictionary")
    parser.add_argument("--mode", choices=["exact", "thresholded"], default="exact", help="for latents that compete")
    parser.add_argument("--census", type=float, default=0.0, help="share of tokens to encode with the whole dictionary")
    parser.add_argument("--screen", choices=["stored", "int8"], default="stored", help=SCREEN_HELP)
    parser.add_argument("--instance", default="", help="the engine's name in the deployment")
    parser.add_argument("--placement", choices=["side", "graph"], default="side", help="where a GPU multiplies rows")
    parser.add_argument("--rows", type=int, default=8192, help="vLLM's max-num-batched-tokens (%(default)s)")
    parser.add_argument("--canaries", action="store_true", help=CANARIES_HELP)
    parser.add_argument("--no-middleware", action="store_true", help=NO_MIDDLEWARE_HELP)


def run(options: argparse.Namespace) -> int:
    """Prints them, checked."""
    if options.rows < 1:
        raise ConfigError("rows", found=options.rows, expected="rows of the largest step, at least 1")
    socket = settings.read({"socket": options.socket}, folder=Path()).socket  # as the sidecar would take it
    folders = [folder.absolute() for folder in (*options.dictionary, *options.shadow)]
    roles = [options.role] * len(options.dictionary) + [str(Role.SHADOW)] * len(options.shadow)
    known = list(dictionaries.load(folders).values())
    _check_ids(options.watch, known)
    uses = tuple(_use(*one, options) for one in zip(folders, known, roles, strict=True))
    config = TapConfig(
        socket=socket,
        dictionaries=uses,
        instance=options.instance,
        on_failure=options.on_failure,
        placement=options.placement,
    )
    text = tapconfig.additional_config(config)
    tapconfig.read(json.loads(text)[tapconfig.SECTION])
    words = ["--worker-cls", WORKER, "--additional-config", text]
    environment = {}
    if not options.no_middleware:
        words += ["--middleware", MIDDLEWARE]
        environment["SAEWATCH_SOCKET"] = socket
    if options.canaries:
        if options.no_middleware:
            raise ConfigError("--canaries", found="--no-middleware", expected="the middleware, which labels them")
        words += ["--scheduling-policy", "priority"]
        environment["SAEWATCH_TRUST_HEADERS"] = "1"
    memory: list[Footprint] = []
    for index, (one, use) in enumerate(zip(known, uses, strict=True)):
        shared = one.manifest.hook_point in {before.manifest.hook_point for before in known[:index]}
        taken = sum(before.total for before in memory)
        memory.append(_memory(one, use, config, options.rows, taken=taken, shared=shared))
    if options.json:
        found: dict[str, Any] = {"arguments": words, "environment": environment}
        found |= {"device_bytes": sum(one.total for one in memory), "host_bytes": config.reuse_bytes}
        print(json.dumps(found))
        return 0
    for use, needed in zip(uses, memory, strict=True):
        print(f"# device memory at {options.rows} rows a step, {Path(use.path).name}: {needed}")
    print(f"# host memory: at most {mib(config.reuse_bytes)} for firings of prompts that come again (reuse_bytes)")
    if options.canaries:
        print(f"# {TRUSTED}")
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"vllm serve MODEL {shlex.join(words)}")
    return 0


def _memory(
    known: KnownDictionary, use: DictionaryUse, config: TapConfig, rows: int, *, taken: int, shared: bool
) -> Footprint:
    """What it takes on a GPU. ManifestError for a feature that the catalogue lacks, ConfigError over budget."""
    slots = len(known.catalogue.watch_list(known.manifest, use.watch).rows)
    needed = footprint(known.manifest, use, config, rows=rows, slots=slots, shared=shared)
    check_budget(needed, config, rows=rows, slots=slots, taken=taken)
    return needed


def _check_ids(ids: Sequence[str], known: Sequence[KnownDictionary]) -> None:
    """ConfigError for an id that no dictionary has."""
    every = {feature.id for one in known for feature in one.catalogue.features}
    for name in ids:
        if name not in every:
            hint = f"There are {', '.join(sorted(every)[:8])} …" if every else "There are no features."
            raise ConfigError("watch", found=repr(name), expected="a feature id of a dictionary", hint=hint)


def _use(folder: Path, known: KnownDictionary, role: str, options: argparse.Namespace) -> DictionaryUse:
    """With those of the ids that this dictionary has. ConfigError for one that has none, or not the mode."""
    modes = known.manifest.encoder.modes
    if options.mode not in modes:
        raise ConfigError("mode", found=f"{options.mode} for {folder}", expected=" or ".join(modes))
    here = {feature.id for feature in known.catalogue.features}
    watch = tuple(name for name in dict.fromkeys(options.watch) if name in here)
    if options.watch and not watch:  # an empty list would be all of them
        hint = "Leave the dictionary out, or name a feature of it."
        raise ConfigError("watch", found=f"no feature of {folder}", expected="at least one", hint=hint)
    return DictionaryUse(
        path=str(folder), watch=watch, role=role, mode=options.mode, census=options.census, screen=options.screen
    )
