"""Kernels run in Triton's interpreter here, which a process must want before it loads Triton.

Triton asks once, when its own functions and our kernels are defined, and other tests load it too: vLLM does, and the
library of the oracle. So these files are collected only in a process that was told first: tests/engine/test_kernels.py
starts one, and who runs some of them alone sets TRITON_INTERPRET=1. Processes of other tests never are told: engines
that they start would inherit it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

import numpy as np
import pytest


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
    assert os.environ.get("TRITON_INTERPRET") == "1", "run them with TRITON_INTERPRET=1"
    driver = importlib.import_module("benchmarks.interpreted.driver")  # not before Triton was told
    driver.look_up_once(importlib.import_module("triton.runtime.interpreter"))
