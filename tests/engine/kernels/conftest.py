"""Kernels run in Triton's interpreter here, which a process must want before it loads Triton.

Triton asks once, when its own functions and our kernels are defined, and other tests load it too: vLLM does, and the
library of the oracle. So these files are collected only in a process that was told first. tests/engine/test_kernels.py
starts one; a run of this folder alone is told here. Processes of other tests never are: engines that they
start would inherit it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent


def _alone(config: pytest.Config) -> bool:
    paths = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    return all(path.is_relative_to(HERE) for path in paths)


def pytest_configure(config: pytest.Config) -> None:
    """Asks for the interpreter where nothing but this folder runs."""
    if _alone(config) and "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_ignore_collect() -> bool | None:
    """Leaves the files to tests/engine/test_kernels.py where Triton was not told."""
    return None if os.environ.get("TRITON_INTERPRET") == "1" else True


@pytest.fixture(autouse=True)
def as_quiet_as_a_gpu() -> Iterator[None]:
    """NumPy, which interprets, warns of arithmetic with rows that are not finite; kernels mask them after it."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(scope="session", autouse=True)
def quicker() -> None:
    """What the interpreter looks up at each call it looks up once. That no integer overflows is still checked here."""
    driver = importlib.import_module("benchmarks.interpreted.driver")  # not before Triton was told
    driver.look_up_once(importlib.import_module("triton.runtime.interpreter"))
