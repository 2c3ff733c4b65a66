"""Makes .venv: everything that the demo or the tests need, from python3 with pip and venv alone.

    python3 deploy/setup_env.py [--level demo|test]

``demo`` is the engine (vLLM on the CPU) and this package; ``test`` adds requirements/test.txt. A stamp in .venv holds a
hash over the requirement files and the Python version; while it is current, a run returns at once. Everything is pinned
by requirements/constraints.txt, which ``--lock`` makes anew.

uv does the installing, because only uv can leave packages out: vLLM's CPU wheel asks for torchvision, torchaudio and
torchcodec, whose default builds are for CUDA and do not load beside a CPU torch (requirements/excludes.txt; text models
do not need them).

PyTorch's CPU build has two routes, chosen by ``torch_source``: a folder of wheels (UV_FIND_LINKS, else PIP_FIND_LINKS,
else pip's global.find-links) that holds a matching ``torch-X+cpu`` wheel, else PyTorch's own package index
(``--torch-backend cpu``).

Exit codes: 0 good, 2 refused or failed, 3 the package index could not be reached.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import select
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "deploy" / "requirements"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"

UV_PIN = "uv==0.13.8"
TORCH = "2.13.0"
EXTRAS = ("engine", "serve", "client")
PYTHON_OLDEST, PYTHON_NEWEST = (3, 11), (3, 14)  # vLLM 0.32 says Python < 3.15
QUIET_S = 5.0  # a step that prints nothing for so long prints how far it is

MIB = 1024 * 1024
GIB = 1024 * MIB


class Level(NamedTuple):  # not a slotted dataclass: an old Python must get as far as our message
    """What one level installs, and the free disk that it wants: the environment, and the downloads unpacked once."""

    files: tuple[str, ...]
    disk_bytes: int
    extras: tuple[str, ...]  # of this package
    alone: tuple[str, ...] = ()
    """Installed after the rest, without what they ask for, and though requirements/excludes.txt names them."""


LEVELS = {
    "demo": Level(("demo.txt",), 5 * GIB, extras=EXTRAS),
    "test": Level(("demo.txt", "test.txt"), 7 * GIB, (*EXTRAS, "score", "tables"), ("triton.txt", "oracles.txt")),
}


class SetupError(Exception):
    """What is wrong and what to do about it; ``code`` is the exit code."""

    def __init__(self, problem: str, hint: str, code: int = 2) -> None:
        super().__init__(problem)
        self.hint = hint
        self.code = code


def main(arguments: list[str] | None = None) -> int:
    """Brings .venv to the wanted level and says what it does."""
    parser = argparse.ArgumentParser(description="Make or update .venv.")
    parser.add_argument("--level", choices=LEVELS, default="demo", help="demo: to run it; test: to work on it too")
    parser.add_argument("--lock", action="store_true", help="resolve anew and write requirements/constraints.txt")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        if stamped(options.level) and not options.lock:
            return 0
        check_machine(LEVELS[options.level])
        with one_at_a_time():
            if options.lock:
                lock()
            elif not stamped(options.level):  # another run may have done it meanwhile
                install(options.level)
                say(f"ready in {time.monotonic() - started:.0f} s: .venv, {size_on_disk(VENV) / MIB:,.0f} MB")
    except SetupError as error:
        print(f"\nset-up stopped: {error}\n  to do: {error.hint}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("\nset-up stopped by Ctrl-C; the next run goes on from here", file=sys.stderr)
        return 130
    return 0


def install(level: str) -> None:
    """Makes the environment, installs into it, imports what matters, and stamps it."""
    make_venv()
    if not UV.exists():
        step("the installer, uv")
        run([PYTHON, "-m", "pip", "install", "-qq", UV_PIN], because="uv could not be installed by pip")
    source = torch_source()
    step(f"packages for `make {level}`; torch from {source[1] if '--find-links' in source else 'its own index'}")
    run([UV, "pip", "install", *uv_arguments(level), *source], because="the packages could not be installed")
    for name in LEVELS[level].alone:
        step(f"packages of requirements/{name}")
        arguments: list[str | Path] = ["--python", PYTHON, "--no-deps", "-r", REQUIREMENTS / name, *index_arguments()]
        run([UV, "pip", "install", *arguments], because=f"the packages of {name} could not be installed")
    step("first import, which compiles what the engine needs")
    run([PYTHON, "-c", FIRST_IMPORT], because="the engine does not import")
    if level == "test":
        run([PYTHON, "-c", "import sae_lens, hypothesis, pytest"], because="the tests' tools do not import")
    for name, other in LEVELS.items():
        if set(other.files) <= set(LEVELS[level].files):
            stamp_path(name).write_text(stamp(name))


FIRST_IMPORT = """
import logging; logging.disable(logging.WARNING)
import saewatch, torch, torch._dynamo, torch._inductor.compile_fx, vllm
from vllm.platforms import current_platform
assert current_platform.is_cpu(), f"vLLM found {current_platform.device_name}, expected its CPU build"
import vllm.entrypoints.openai.api_server, vllm.v1.engine.core, vllm.v1.worker.cpu_worker
import vllm.v1.worker.cpu_model_runner, vllm.model_executor.models.llama
print(f"saewatch {saewatch.__version__}, vllm {vllm.__version__}, torch {torch.__version__}")
"""
"""All that a server's processes import: compiled here once, in one process, instead of in each of them at the first
start. uv could compile everything; that is three times the work."""


def uv_arguments(level: str) -> list[str]:
    """What is installed at a level: requirement files, this package, and the pins for all they pull in."""
    return [
        *("--python", str(PYTHON)),
        *[part for name in LEVELS[level].files for part in ("-r", str(REQUIREMENTS / name))],
        *("-e", f"{ROOT}[{','.join(LEVELS[level].extras)}]"),
        *("--constraints", str(REQUIREMENTS / "constraints.txt")),
        *("--build-constraints", str(REQUIREMENTS / "constraints.txt")),
        *("--excludes", str(REQUIREMENTS / "excludes.txt")),
        *index_arguments(),
    ]


# --- what the machine must have -------------------------------------------------------------------------------------
def check_machine(level: Level) -> None:
    """Refuses before anything is downloaded.

    Raises:
        SetupError: Python is too old or too new, another platform, no C++ compiler, or too little disk.
    """
    if not PYTHON_OLDEST <= sys.version_info[:2] <= PYTHON_NEWEST:
        found = platform.python_version()
        raise SetupError(
            f"Python {found} found, {dotted(PYTHON_OLDEST)} to {dotted(PYTHON_NEWEST)} expected",
            "run make with PYTHON=python3.11, or any of those that is installed",
        )
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError(
            f"{sys.platform} on {platform.machine()} found, Linux on x86_64 expected",
            "the serving engine's CPU build is tried there only; see docs/limits.md",
        )
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not compiler or not headers.exists():
        raise SetupError(
            f"{'no C++ compiler' if not compiler else f'no {headers}'} found; the engine compiles the model with it",
            "install a compiler and Python's headers, on Debian or Ubuntu: apt install g++ python3-dev",
        )
    free = shutil.disk_usage(ROOT).free
    if free < level.disk_bytes:
        raise SetupError(
            f"{free / GIB:.1f} GB of free disk found at {ROOT}, {level.disk_bytes / GIB:.0f} GB expected",
            "make room, or clone to another disk (uv's downloads lie in UV_CACHE_DIR, by default ~/.cache/uv)",
        )


def make_venv() -> None:
    """Makes .venv unless one of this very Python is there.

    Raises:
        SetupError: Python came without venv or pip.
    """
    version = platform.python_version()
    marker = VENV / "pyvenv.cfg"
    if marker.exists() and re.search(rf"^version = {re.escape(version)}$", marker.read_text(), re.MULTILINE):
        return
    step(f"environment .venv, Python {version}")
    shutil.rmtree(VENV, ignore_errors=True)
    try:
        run([sys.executable, "-m", "venv", VENV], because="venv could not be made")
    except SetupError as error:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetupError(
            f"{sys.executable} has no working venv and pip",
            "install them, on Debian or Ubuntu: apt install python3-venv python3-pip",
        ) from error


# --- where packages come from ---------------------------------------------------------------------------------------
def torch_source() -> list[str]:
    """The arguments that make uv take PyTorch's CPU build: a local wheel if one fits, else PyTorch's own index."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for folder in find_links():
        if any(folder.glob(f"torch-{TORCH}+cpu-{tag}-{tag}-*{platform.machine()}.whl")):
            return ["--find-links", str(folder)]
    return ["--torch-backend", "cpu"]


def find_links() -> Iterator[Path]:
    """The folders of wheels that uv's or pip's configuration names; uv itself does not read pip's."""
    configured = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS") or pip_config("find-links")
    for entry in re.split(r"[\s,]+", configured):
        path = Path(entry.removeprefix("file://"))
        if entry and path.is_dir():
            yield path


def index_arguments() -> list[str]:
    """Hands pip's package index on to uv, for places that have their own mirror."""
    if os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL"):
        return []
    index = os.environ.get("PIP_INDEX_URL") or pip_config("index-url")
    return ["--default-index", index] if index else []


def pip_config(key: str) -> str:
    """One value of pip's configuration, or nothing."""
    command = [str(PYTHON), "-m", "pip", "config", "get", f"global.{key}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def lock() -> None:
    """Resolves both levels together and writes constraints.txt, without PyTorch's ``+cpu``: so it fits both routes."""
    make_venv()
    run([PYTHON, "-m", "pip", "install", "-qq", UV_PIN], because="uv could not be installed by pip")
    step("resolving")
    inputs = [REQUIREMENTS / name for name in LEVELS["test"].files]
    command: list[str | Path] = [
        UV,
        "pip",
        "compile",
        "--python",
        PYTHON,
        *inputs,
        ROOT / "pyproject.toml",
        "--upgrade",
        "--no-header",
    ]
    command += [*(word for extra in LEVELS["test"].extras for word in ("--extra", extra)), "--no-annotate"]
    command += ["--excludes", REQUIREMENTS / "excludes.txt", *index_arguments(), *torch_source(), "--quiet"]
    command += ["--output-file", VENV / "constraints.txt"]
    run(command, because="the requirements have no common solution")
    pins = re.sub(r"\+cpu\b", "", (VENV / "constraints.txt").read_text())
    head = "# Exact versions of everything that `make setup` and `make test` install.\n# Made by: make lock\n"
    (REQUIREMENTS / "constraints.txt").write_text(f"{head}{pins}hatchling==1.33.0  # builds this package\n")


# --- running things, and saying so ----------------------------------------------------------------------------------
STARTED = time.monotonic()


def say(text: str) -> None:
    """One line with the seconds since the start."""
    print(f"[set-up {time.monotonic() - STARTED:4.0f} s] {text}", flush=True)


def step(text: str) -> None:
    """Announces what comes next."""
    say(f"{text} …")


def run(command: Iterable[str | Path], *, because: str) -> None:
    """Runs a command, shows what it prints, and says how far it is when it prints nothing.

    Raises:
        SetupError: it failed; what it printed is looked through for the usual causes.
    """
    printed: list[str] = []
    arguments = [str(part) for part in command]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in lines_of(process):
            printed.append(line)
            if not re.match(r"\s*([+~-] \S+==|Downloaded |Built |Using Python )", line):
                say(f"  {line}")
    if process.returncode:
        raise diagnosed(because, printed)


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """A process's lines as they come; after QUIET_S of silence says how much disk went meanwhile."""
    assert process.stdout is not None
    free = shutil.disk_usage(ROOT).free
    stream = process.stdout.fileno()
    rest = b""
    while True:
        if not select.select([stream], [], [], QUIET_S)[0]:
            written = (free - shutil.disk_usage(ROOT).free) / MIB
            say(f"  … {written:,.0f} MB so far" if written > 10 else "  …")
            continue
        data = os.read(stream, 65536)
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode(errors="replace").rstrip() for line in lines if line.strip())
        if not data:
            if rest.strip():
                yield rest.decode(errors="replace").rstrip()
            return


CAUSES = {
    r"No space left|Disk quota": (
        2,
        "the disk is full",
        "make room; uv's downloads lie in UV_CACHE_DIR, by default ~/.cache/uv",
    ),
    r"dns error|sending request|ailed to (connect|fetch)|onnection (refused|reset)|timed? ?out|NewConnectionError|"
    r"Name or service not known|Temporary failure in name resolution|Network is unreachable": (
        3,
        "the package index could not be reached",
        "check the network and any proxy (HTTPS_PROXY) or mirror (PIP_INDEX_URL); then run the same command again",
    ),
    r"No solution found|No matching distribution|not found in the package registry": (
        2,
        "the package index does not have what is pinned for this machine",
        "see the lines above; a mirror may lack a version, and Linux on x86_64 is the tried platform",
    ),
}
"""What a failed command printed, to the exit code, the problem and the hint; the first that fits counts."""


def diagnosed(because: str, printed: list[str]) -> SetupError:
    """Turns a failed command's output into a problem and a hint."""
    text = "\n".join(printed)
    for pattern, (code, problem, hint) in CAUSES.items():
        if re.search(pattern, text):
            return SetupError(f"{because}: {problem}", hint, code)
    return SetupError(because, "see the lines above")


# --- the stamp ------------------------------------------------------------------------------------------------------
def stamped(level: str) -> bool:
    """Is .venv at this level, made from the files as they are now?"""
    path = stamp_path(level)
    return PYTHON.exists() and path.exists() and path.read_text() == stamp(level)


def stamp_path(level: str) -> Path:
    """Where a level's stamp lies."""
    return VENV / f"saewatch-{level}.stamp"


def stamp(level: str) -> str:
    """A hash over all that decides what is installed at a level."""
    digest = hashlib.sha256(f"{sys.version} {ROOT} {level}".encode())
    project = (ROOT / "pyproject.toml").read_bytes().partition(b"\n# --- ruff")[0]  # settings of tools install nothing
    names = [*LEVELS[level].files, *LEVELS[level].alone, "constraints.txt", "excludes.txt"]
    for data in [Path(__file__).read_bytes(), project, *[(REQUIREMENTS / name).read_bytes() for name in names]]:
        digest.update(data)
    return digest.hexdigest()


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two runs at once wait for each other; the lock is on the repository's folder and leaves no file."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another set-up is running; waiting for it …")
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(folder)


def size_on_disk(folder: Path) -> int:
    """Bytes of a folder's files, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def dotted(version: tuple[int, int]) -> str:
    """``(3, 11)`` as ``3.11``."""
    return ".".join(map(str, version))


if __name__ == "__main__":
    sys.exit(main())
