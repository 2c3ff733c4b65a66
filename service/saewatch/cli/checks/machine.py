"""The machine: memory for the sidecar, shared memory for vLLM, disk, and vLLM's compile cache."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from saewatch.cli.checks.finding import Finding, Setup, good, unverified, warning
from saewatch.core import limits
from saewatch.core.footprint import mib

CACHE = "torch_compile_cache"
SHM = "/dev/shm"  # noqa: S108 - where vLLM's processes share memory; only looked at
CACHE_FILES = 100_000
"""Files of the cache that are counted; a year's worth of graphs has some thousand."""
BARE_BYTES = 128 * limits.MIB
"""Of a sidecar that has received nothing yet: Python, gRPC and numpy."""
SHM_BYTES = 64 * limits.MIB
"""What a container has unless it is told otherwise, and too little for vLLM's workers."""
DISK_BYTES = 1024 * limits.MIB
"""A day of history at 10,000 firings a second is ten times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """A folder of compiled graphs."""

    folder: str
    writable: bool
    graphs: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was looked at. Sizes in bytes; None: could not be looked at."""

    memory: int | None
    shm: int | None
    disk: int | None
    disk_at: str
    cache: Cache
    cache_off: bool
    setup: Setup


def look(setup: Setup) -> Machine:
    """This machine, as far as this process may see it."""
    root = cache_root(os.environ)
    at = _there(Path(setup.history) if setup.history else Path.cwd())
    return Machine(
        memory=_available(Path("/proc/meminfo")),
        shm=shutil.disk_usage(SHM).total if Path(SHM).is_dir() else None,
        disk=shutil.disk_usage(at).free,
        disk_at=str(at),
        cache=_cache(root),
        cache_off=os.environ.get("VLLM_DISABLE_COMPILE_CACHE") == "1",
        setup=setup,
    )


def examine(setup: Setup) -> Iterator[Finding]:
    """Every check of this group."""
    seen = look(setup)
    for check in CHECKS:
        yield from check(seen)


def cache_root(environment: os._Environ[str] | dict[str, str]) -> Path:
    """Where vLLM keeps what it compiled: as its ``VLLM_CACHE_ROOT`` has it."""
    home = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(environment.get("VLLM_CACHE_ROOT") or f"{home}/vllm").expanduser()


# --- checks -----------------------------------------------------------------------------------------------------------
def memory(seen: Machine) -> Iterator[Finding]:
    """Whether the sidecar's bounds fit into what is free."""
    needed = BARE_BYTES + seen.setup.replay_bytes + limits.RECORD_BYTES + limits.RECORD_FIRINGS_BYTES
    needed += limits.HELD_BYTES + limits.ENCODINGS_BYTES
    if seen.memory is None:
        yield unverified("memory", "no /proc/meminfo", expected=f"{mib(needed)} for a sidecar")
    elif seen.memory < needed:
        hint = "Free some, or lower `limits.replay_mib`."
        yield warning(
            "memory", f"{mib(seen.memory)} available", expected=f"{mib(needed)} for a full sidecar", hint=hint
        )
    else:
        yield good("memory", f"{mib(seen.memory)} available, a full sidecar takes {mib(needed)}")


def shared_memory(seen: Machine) -> Iterator[Finding]:
    """Whether vLLM's workers have room to talk."""
    if seen.shm is None:
        yield unverified(SHM, "not there", expected="shared memory for vLLM's workers")
    elif seen.shm <= SHM_BYTES:
        hint = "In a container: `--shm-size 1g`, or a memory volume on /dev/shm."
        yield warning(SHM, mib(seen.shm), expected="more than a container's 64 MiB", hint=hint)
    else:
        yield good(SHM, mib(seen.shm))


def disk(seen: Machine) -> Iterator[Finding]:
    """Whether there is room where the history is, or would be."""
    found = f"{mib(seen.disk or 0)} free at {seen.disk_at}"
    if (seen.disk or 0) < DISK_BYTES:
        hint = "Free some, or keep less: `saewatch plan` says what a day takes."
        yield warning("disk", found, expected=f"{mib(DISK_BYTES)} or more", hint=hint)
    else:
        yield good("disk", found)


def compile_cache(seen: Machine) -> Iterator[Finding]:
    """Whether vLLM can keep its compiled graphs. What the tap adds is in a graph's key: none has to be removed."""
    cache = seen.cache
    if seen.cache_off:
        hint = "Unset VLLM_DISABLE_COMPILE_CACHE. The tap needs no cache to be off: its graphs have keys of their own."
        yield warning("compile cache", "switched off", expected="one, or each start compiles anew", hint=hint)
    elif not cache.writable:
        hint = "Give it to vLLM's user, or set VLLM_CACHE_ROOT to another folder."
        yield warning("compile cache", f"{cache.folder}, not ours to write", expected="one that is", hint=hint)
    else:
        yield good("compile cache", f"{cache.graphs} graphs, {mib(cache.size)}, in {cache.folder}")


CHECKS: tuple[Callable[[Machine], Iterator[Finding]], ...] = (memory, shared_memory, disk, compile_cache)


# --- looking ----------------------------------------------------------------------------------------------------------
def _available(file: Path) -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * limits.KIB if found else None


def _cache(root: Path) -> Cache:
    folder, size = root / CACHE, 0
    for count, (at, _, files) in enumerate(os.walk(folder)):
        size += sum(Path(at, name).lstat().st_size for name in files)
        if count > CACHE_FILES:
            break
    graphs = len([*folder.glob("[0-9a-f]*/"), *folder.glob("torch_aot_compile/*/")])
    return Cache(folder=str(folder), writable=os.access(_there(folder), os.W_OK | os.X_OK), graphs=graphs, size=size)


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())
