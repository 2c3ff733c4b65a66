"""An engine in a process of its own, which is told what to do by a file and answers with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import form
from benchmarks.cells import ENVIRONMENT, CellError


def run_apart(
    module: str, folder: Path, load: Mapping[str, Any], *, timeout_s: float, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ``python -m module LOAD OUT`` wrote. Raises `CellError` with its last lines when it wrote nothing."""
    given, out, log = (folder / name for name in ("load.json", "out.json", "engine.log"))
    out.unlink(missing_ok=True)
    given.write_text(json.dumps(load))
    command = [sys.executable, "-m", module, str(given), str(out)]
    own = {"VLLM_CACHE_ROOT": str(folder / "cache"), "PYTHONPATH": form.IMPORTS, **ENVIRONMENT, **(env or {})}
    with log.open("wb") as file:
        try:
            subprocess.run(
                command,
                cwd=form.ROOT,
                env={**os.environ, **own},
                stdout=file,
                stderr=file,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CellError(str(error)) from error
    if not out.exists():
        raise CellError("\n".join(log.read_text(errors="replace").splitlines()[-25:]))
    found: dict[str, Any] = json.loads(out.read_text())
    return found
