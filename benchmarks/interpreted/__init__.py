"""Triton's interpreter as its CPU backend, so that vLLM's Model Runner V2 runs where there is no GPU.

V2 needs Triton for its bookkeeping kernels, and vLLM's CPU build takes a Triton that has a backend called "cpu". Triton
finds backends by the entry points of installed distributions: `environment` writes such a one into a folder and gives
the variables with which a process finds it. A tool for tests; nothing that serves loads it.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.form import IMPORTS


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process that is to run V2 on the CPU. ``folder`` is made.

    vLLM then takes V2 by itself, or V1 without a word: look at the runner's class. The variable that asks for V2 would
    be part of the compile cache's key.
    """
    found = folder / "saewatch_interpreted-0.dist-info"
    found.mkdir(parents=True, exist_ok=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: saewatch-interpreted\nVersion: 0\n")
    (found / "entry_points.txt").write_text("[triton.backends]\ncpu = benchmarks.interpreted\n")
    path = os.pathsep.join([str(folder), IMPORTS, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "TRITON_INTERPRET": "1", "TRITON_DEFAULT_BACKEND": "cpu"}
