"""The kernels' own tests, in a process that loads Triton as an interpreter; and the room without Triton."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

FOLDER = Path(__file__).with_name("kernels")
ROOT = FOLDER.parents[2]
NAMES = sorted(path.name for path in FOLDER.glob("test_*.py"))
IMPORTS = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import saewatch.engine.encoder, saewatch.engine.kernels.variant, saewatch.engine.staging
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What the process said, and of each file its tests: whether each passed."""

    said: str
    passed: Mapping[str, Mapping[str, bool]]


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One process for all files that are asked for: to load torch and Triton takes longer than most of them."""
    report = tmp_path_factory.mktemp("kernels") / "report.xml"
    names = [one.callspec.params.get("name") for one in request.session.items if hasattr(one, "callspec")]
    paths = [str(FOLDER / name) for name in NAMES if name in names]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", f"--junitxml={report}", *paths]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")}
    run = subprocess.run(
        command, cwd=ROOT, env=env | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert report.is_file(), run.stdout + run.stderr
    passed: dict[str, dict[str, bool]] = {}
    for case in ET.parse(report).iter("testcase"):  # of a file that cannot be imported, one that failed
        module = f"{case.get('classname') or case.get('name')}".rpartition(".")[2]
        passed.setdefault(f"{module}.py", {})[f"{case.get('name')}"] = len(case) == 0
    return Ran(run.stdout + run.stderr, passed)


@pytest.mark.timeout(1200)  # the first of them waits for all
@pytest.mark.parametrize("name", NAMES)
def test_in_the_interpreter(name: str, ran: Ran) -> None:
    assert ran.passed.get(name), ran.said
    assert all(ran.passed[name].values()), ran.said


def test_the_room_can_be_imported_where_there_is_no_triton() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("wanted", "answer"), [("1", "True"), ("0", "False")])
def test_without_a_gpu_kernels_run_in_the_interpreter_alone(wanted: str, answer: str) -> None:
    code = "import torch; torch.cuda.is_available = lambda: False\nfrom saewatch.engine import kernels\n"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}print(kernels.available())"],
        env=os.environ | {"TRITON_INTERPRET": wanted},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == answer, run.stderr
