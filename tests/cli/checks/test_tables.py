"""Tables of engine/ are read as they are, without importing what they stand beside."""

from __future__ import annotations

import subprocess
import sys

from saewatch.cli.checks.tables import table
from saewatch.engine.families import FAMILIES
from tests import sidecar


def test_it_is_the_table_that_the_engine_has() -> None:
    assert list(table("families", "FAMILIES")) == list(FAMILIES)
    assert table("vllm", "WORKERS")["cpu"] == "vllm.v1.worker.cpu_worker:CPUWorker"
    assert "runner" in table("vllm", "VERSIONS")["0.32.0"]
    assert "sleep mode" in table("modes", "MODES")


def test_neither_vllm_nor_torch_is_imported() -> None:
    program = (
        "import sys; from saewatch.cli.checks import environment; from saewatch.cli.checks.finding import Setup; "
        "assert list(environment.examine(Setup())); print([name for name in ('vllm', 'torch') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=sidecar.ENVIRONMENT, check=True
    )
    assert done.stdout.split() == ["[]"]
