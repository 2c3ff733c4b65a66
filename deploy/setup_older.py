"""Makes .venv-0.31: the oldest vLLM that is supported, for the test of it in `make full`. Needs .venv.

    .venv/bin/python -m deploy.setup_older

Only the engine runs there; the sidecar and the tests run in .venv. Exit codes as in setup_env.py.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from deploy import setup_env as env

OLDER = env.ROOT / ".venv-0.31"
PYTHON = OLDER / "bin" / "python"
REQUIRED = env.REQUIREMENTS / "vllm-0.31.txt"
STAMP = OLDER / "saewatch.stamp"


def main() -> int:
    """Makes it unless it is there."""
    try:
        if not STAMP.exists() or STAMP.read_text() != _stamp():
            _install()
    except env.SetupError as error:
        print(f"\nset-up of {OLDER.name} stopped: {error}\n  to do: {error.hint}", file=sys.stderr)
        return error.code
    return 0


def _install() -> None:
    started = time.monotonic()
    env.step(f"{OLDER.name}, the oldest vLLM that is supported")
    env.run([sys.executable, "-m", "venv", "--clear", "--without-pip", OLDER], because="venv could not be made")
    pins = OLDER / "constraints.txt"
    own = {_name(line) for line in REQUIRED.read_text().splitlines() if "==" in line}
    kept = [
        line
        for line in (env.REQUIREMENTS / "constraints.txt").read_text().splitlines()
        if line.startswith("#") or _name(line) not in own
    ]
    pins.write_text("\n".join(kept) + "\n")
    arguments: list[str | Path] = [
        "--python",
        PYTHON,
        "-r",
        REQUIRED,
        "--constraints",
        pins,
        "--build-constraints",
        pins,
    ]
    arguments += ["--excludes", env.REQUIREMENTS / "excludes.txt", *env.index_arguments(), *env.torch_source()]
    env.run([env.UV, "pip", "install", *arguments], because="the packages could not be installed")
    env.step("first import, which compiles what the engine needs")
    command = f"import sys; sys.path.insert(0, {str(env.ROOT / 'service')!r})\n{env.FIRST_IMPORT}"
    env.run([PYTHON, "-c", command], because="the engine does not import")
    STAMP.write_text(_stamp())
    env.say(f"ready in {time.monotonic() - started:.0f} s: {OLDER.name}")


def _name(line: str) -> str:
    return line.partition("==")[0].strip()


def _stamp() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for name in ("vllm-0.31.txt", "constraints.txt", "excludes.txt"):
        digest.update((env.REQUIREMENTS / name).read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
