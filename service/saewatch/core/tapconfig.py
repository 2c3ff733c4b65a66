"""The tap's configuration: the section ``saewatch`` of vLLM's ``--additional-config``.

It stands there because vLLM hands that option to its workers, and hashes it into its compile-cache key: the worker
leaves in it what the tap adds to the graph. Unknown keys are refused: a misspelt one cannot switch anything off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.core.records import Role

SECTION = "saewatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryUse:
    """One dictionary and what is watched of it."""

    path: str
    """Folder of the bundle."""
    watch: tuple[str, ...] = ()
    """Feature ids; none: every feature of the catalogue."""
    role: str = Role.STABLE
    mode: str = "exact"
    """exact | thresholded (for dictionaries whose latents compete)."""
    census: float = 0.0
    """Share of tokens on which the whole dictionary is encoded."""
    screen: str = "stored"
    """stored | int8: how a GPU reads a whole dictionary for few tokens; int8 is half as much, and half more memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapConfig:
    """Everything that the tap in the engine is told."""

    socket: str
    """Unix socket on which the sidecar listens."""
    dictionaries: tuple[DictionaryUse, ...]
    instance: str = ""
    """Name of this engine in the deployment; empty: host name and process id, mostly another at each start."""
    on_failure: str = "stop"
    """stop: an engine that cannot be watched does not start; serve: it serves, blind and loudly."""
    slots: int = limits.STAGING_SLOTS
    firings_per_token: int = 64
    """The slab's mean capacity; what exceeds it is counted as overflow."""
    device_budget_mib: int = 2048
    """Device memory that the tap may take."""
    placement: str = "side"
    """side | graph: where a GPU multiplies watched rows, on a stream beside the model's or inside the model's graph."""
    queue_bytes: int = limits.QUEUE_BYTES
    reuse_bytes: int = limits.REUSE_BYTES
    """Host memory for firings of prompts that come again: replayed where vLLM's prefix cache skips them; 0: none."""


def read(section: Any) -> TapConfig:
    """The checked configuration. Raises `ConfigError` naming the key, what was found and what was expected."""
    found = _known_keys(SECTION, section, TapConfig)
    uses = found.get("dictionaries")
    if not isinstance(uses, list | tuple) or not uses:
        raise ConfigError(f"{SECTION}.dictionaries", found=_named(uses), expected="a list of at least one dictionary")
    read_uses = tuple(_dictionary(index, use) for index, use in enumerate(uses))
    config: TapConfig = _typed(SECTION, TapConfig, {**found, "dictionaries": read_uses})
    _one_of(f"{SECTION}.on_failure", config.on_failure, ("stop", "serve"))
    _one_of(f"{SECTION}.placement", config.placement, ("side", "graph"))
    for name, low, high in (
        ("slots", 1, 64),
        ("firings_per_token", 1, limits.WATCH_SLOTS),
        ("device_budget_mib", 1, 2**20),
        ("queue_bytes", limits.FRAME_BYTES, 2**32),
        ("reuse_bytes", 0, limits.REUSE_BYTES_MAX),
    ):
        _in_range(f"{SECTION}.{name}", getattr(config, name), low, high)
    _in_range(f"{SECTION}.instance (bytes)", len(config.instance.encode()), 0, limits.LABEL_BYTES)
    size = len(os.fsencode(_path(f"{SECTION}.socket", config.socket)))
    if size > 107:  # sun_path holds 108 bytes with its end
        raise ConfigError(f"{SECTION}.socket", found=f"{size} bytes", expected="a path of at most 107")
    return config


def additional_config(config: TapConfig) -> str:
    """The value of vLLM's ``--additional-config`` that switches the tap on."""
    return json.dumps({SECTION: asdict(config)}, separators=(",", ":"))


def _dictionary(index: int, value: Any) -> DictionaryUse:
    name = f"{SECTION}.dictionaries[{index}]"
    found = _known_keys(name, value, DictionaryUse)
    watch = found.get("watch", ())
    if not isinstance(watch, list | tuple) or not all(isinstance(item, str) for item in watch):
        raise ConfigError(f"{name}.watch", found=_named(watch), expected="a list of feature ids")
    use: DictionaryUse = _typed(name, DictionaryUse, {**found, "watch": tuple(watch)})
    _path(f"{name}.path", use.path)
    _one_of(f"{name}.role", use.role, tuple(str(role) for role in Role))
    _one_of(f"{name}.mode", use.mode, ("exact", "thresholded"))
    _one_of(f"{name}.screen", use.screen, ("stored", "int8"))
    if not 0.0 <= use.census <= 1.0:
        raise ConfigError(f"{name}.census", found=use.census, expected="a share from 0 to 1")
    return use


def _known_keys(name: str, value: Any, cls: type[Any]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(name, found=_named(value), expected="a mapping")
    known = [item.name for item in fields(cls)]
    for key in value:
        if key not in known:
            raise ConfigError(f"{name}.{key}", found="an unknown key", expected=f"one of {', '.join(known)}")
    return dict(value)


_TYPES: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}


def _typed(name: str, cls: type[Any], values: dict[str, Any]) -> Any:
    for item in fields(cls):
        accepted = _TYPES.get(str(item.type))
        if item.name not in values:
            if item.name in {"socket", "path"}:
                raise ConfigError(f"{name}.{item.name}", found="nothing", expected="a path")
        elif accepted and (not isinstance(values[item.name], accepted) or isinstance(values[item.name], bool)):
            raise ConfigError(
                f"{name}.{item.name}", found=_named(values[item.name]), expected=f"a value of type {item.type}"
            )
    return cls(**values)


def _path(name: str, value: str) -> str:
    try:
        written = os.fsencode(value)
    except UnicodeEncodeError:  # JSON can spell lone surrogates
        written = b""
    if not written or b"\0" in written:
        raise ConfigError(name, found=_named(value), expected="a path")
    return value


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(name, found=repr(value), expected=f"one of {', '.join(known)}")


def _in_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(name, found=value, expected=f"{low} to {high}")


def _named(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.80} ({type(value).__name__})"
