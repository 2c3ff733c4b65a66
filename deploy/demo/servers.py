"""Starts and stops the sidecar and a real vLLM server, and leaves no process behind.

Each is a process group of its own, and no session: Linux shares the processors out between sessions (`sched(7)`, the
autogroup), and on two cores a sidecar waited seconds for its turn beside an engine of another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saewatch.core import limits
from saewatch.core.tapconfig import DictionaryUse, TapConfig, additional_config

LOOPBACK = "127.0.0.1:0"
STOP_S = 20.0
"""A server that has not ended by then after SIGTERM is killed."""


_CAUSE = re.compile(r"\] saewatch|\w+(Error|Failed|Version|Mode): ")


class ServerError(Exception):
    """A server did not start; the message ends with the last lines of its log."""


@dataclass(slots=True)
class Server:
    """A child process, the process group that it leads and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises `ServerError` if the process has ended."""
        if self.process.poll() is not None:
            raise ServerError(f"{self.name} ended with {self.process.returncode}; {self.log} says:\n{causes(self.log)}")

    def stop(self) -> int:
        """SIGTERM, then SIGKILL for what is left of the group. Returns how many processes had to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        deadline = time.monotonic() + 5.0
        while group_members(self.process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = group_members(self.process.pid)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.wait(STOP_S)
        return len(left)


def start(name: str, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None) -> Server:
    """Starts ``command`` in a process group of its own, its output in ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            env={**os.environ, **(env or {})},
        )
    return Server(name, process, log)


def start_sidecar(
    *,
    socket_path: Path,
    bundles: Sequence[Path],
    folder: Path,
    record: Path | None = None,
    grpc: str = LOOPBACK,
    store: Path | None = None,
    sections: Mapping[str, object] | None = None,
) -> Server:
    """``saewatch serve`` on free loopback ports; `addresses` tells which. ``record``: what it receives goes there.

    ``store``: of bundles that may be applied; without it none is read. ``sections``: more of its configuration.
    """
    config = folder / "saewatch.yaml"
    config.write_text(
        json.dumps(  # JSON is YAML
            {
                "socket": str(socket_path),
                "dictionaries": [str(bundle) for bundle in bundles],
                "grpc": {"listen": grpc},
                "web": {"listen": LOOPBACK},
                "history": {"path": "history.db"},
                "store": str(store) if store else "",
                **(sections or {}),
            }
        )
    )
    found = folder / "addresses.json"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "saewatch", "serve", "-c", str(config), "--addresses", str(found)]
    if record is not None:
        command += ["--record", str(record)]
    return start("the sidecar", command, folder / "sidecar.log")


def addresses(sidecar: Server, folder: Path, *, timeout_s: float = 30.0) -> dict[str, str]:
    """Where the sidecar listens, once it does."""
    path = folder / "addresses.json"
    wait_for("the sidecar", lambda: path.exists() and bool(path.read_text()), [sidecar], timeout_s=timeout_s)
    found: dict[str, str] = json.loads(path.read_text())
    return found


def tap_arguments(
    *,
    socket_path: Path,
    bundles: Sequence[Path],
    census: float = 0.0,
    on_failure: str = "stop",
    queue_bytes: int = limits.QUEUE_BYTES,
    worker: str = "saewatch.engine.vllm.TapWorker",
    instance: str = "",
) -> list[str]:
    """vLLM's arguments that switch the tap on."""
    uses = tuple(DictionaryUse(path=str(bundle), census=census) for bundle in bundles)
    tap = TapConfig(
        socket=str(socket_path), dictionaries=uses, on_failure=on_failure, queue_bytes=queue_bytes, instance=instance
    )
    return [
        *("--worker-cls", worker, "--additional-config", additional_config(tap)),
        *("--middleware", "saewatch.engine.middleware.LabelMiddleware"),
    ]


def start_engine(
    *,
    model: Path,
    name: str,
    port: int,
    tap: Sequence[str],
    socket_path: Path,
    log: Path,
    extra: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    python: Path = Path(sys.executable),
) -> Server:
    """vLLM's OpenAI server on the CPU, compilation on. ``python``: of another environment than this one."""
    command = [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", "1024", "--shutdown-timeout", "5", *tap, *extra),
    ]
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default takes nearly all memory
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "SAEWATCH_SOCKET": str(socket_path),
        "SAEWATCH_TRUST_HEADERS": "1",  # nobody but this program can reach the server: it is the trusted hop
    }
    return start("vLLM", command, log, env={**settings, **(env or {})})


def wait_healthy(
    port: int, servers: Sequence[Server], *, timeout_s: float, tick: Callable[[], None] | None = None
) -> None:
    """Until the engine answers; ``tick`` is called some times a second meanwhile."""
    wait_for("vLLM", lambda: _answers(port), servers, timeout_s=timeout_s, tick=tick)


def wait_for(
    what: str,
    ready: Callable[[], bool],
    servers: Sequence[Server],
    *,
    timeout_s: float,
    tick: Callable[[], None] | None = None,
) -> None:
    """Until ``ready``. Raises `ServerError` when a server ends meanwhile or time runs out."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        for server in servers:
            server.check()
        if time.monotonic() > deadline:
            logs = "; ".join(f"{server.log} ends:\n{tail(server.log)}" for server in servers)
            raise ServerError(f"{what} is not ready after {timeout_s:.0f} s; {logs}")
        if tick is not None:
            tick()
        time.sleep(0.2)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def group_members(leader: int) -> list[int]:
    """Living processes of the group that ``leader`` leads, itself left out if it is a zombie."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            state, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(rest[1]) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def causes(path: Path) -> str:
    """The lines of a log that say why: ours, and the first errors; else its end. vLLM's own end says only that."""
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").splitlines()
        found = [line for line in lines if _CAUSE.search(line)]
        if found:
            return "\n".join(found[:12])
    return tail(path)


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return "(no log)"
