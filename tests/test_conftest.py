"""The rules of tests/conftest.py, shown on small suites in a process of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")


def suite(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs some test files under our conftest."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"import pytest\n{text}\n")
    shutil.copy(CONFTEST, folder / "tests" / "conftest.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "tests"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_skipped_but_run_passed(tmp_path: Path) -> None:
    ways = {
        "tests/core/test_mark.py": "@pytest.mark.skip(reason='later')\ndef test_a(): pass\ndef test_b(): pass",
        "tests/core/test_call.py": "def test_a(): pytest.skip('later')",
        "tests/core/test_file.py": "pytest.importorskip('no_such_module')\ndef test_a(): pass",
        "tests/core/test_fixture.py": "@pytest.fixture\ndef gone(): pytest.skip('later')\ndef test_a(gone): pass",
    }
    run = suite(tmp_path, ways)
    assert run.returncode == 1, run.stdout
    for name in ways:
        assert f"fails the run outside tests/gpu/: {name}" in run.stdout


def test_run_of_skipped_tests_only_passed(tmp_path: Path) -> None:
    run = suite(tmp_path, {"tests/test_file.py": "pytest.importorskip('no_such_module')"})
    assert run.returncode == 1, run.stdout


def test_what_may_be_left_out(tmp_path: Path) -> None:
    run = suite(
        tmp_path,
        {
            "tests/gpu/test_a.py": "def test_a(): pytest.skip('no GPU')\ndef test_b(): pass",
            "tests/core/test_b.py": "@pytest.mark.xfail(strict=True)\ndef test_a(): assert False",
        },
    )
    assert run.returncode == 0, run.stdout
