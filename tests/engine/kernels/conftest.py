"""Kernels run in Triton's interpreter here, which a process must want before it loads Triton.

Triton asks once, when its own functions and our kernels are defined, and other tests load it too: vLLM does, and the
library of the oracle. So these files are collected only in a process that was told first. tests/engine/test_kernels.py
starts one; a run of this folder alone is told here. Processes of other tests never are: engines that they
start would inherit it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from functools import cache
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
def names_are_looked_up_once() -> Iterator[None]:
    """At each call of a function the interpreter lists Triton's language to find what it replaces, for 5 ms.

    What can be replaced is what it found at first; what of it is replaced already is left alone, as it does.
    """
    interpreter = importlib.import_module("triton.runtime.interpreter")
    is_builtin = importlib.import_module("triton.language.core").is_builtin

    @cache
    def names(package: object) -> list[str]:
        return [name for name, member in inspect.getmembers(package) if is_builtin(member)]

    def patched(package: object, builder: object, scope: object) -> None:
        for name in names(package):
            if is_builtin(member := getattr(package, name)):
                interpreter._patch_attr(package, name, member, builder, scope)  # noqa: SLF001 - it has no public door

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_builtin", patched)
        yield
