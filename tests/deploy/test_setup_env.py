"""The set-up's decisions, without installing anything: CI and every `make` run the rest."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from deploy import setup_env
from deploy.setup_env import SetupError

TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own pip and uv."""
    for name in ("UV_FIND_LINKS", "PIP_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(setup_env, "pip_config", lambda key: "")


def wheel(folder: Path, tag: str) -> Path:
    """A folder that holds a torch wheel for one Python."""
    folder.mkdir()
    (folder / f"torch-{setup_env.TORCH}+cpu-{tag}-{tag}-manylinux_2_28_{platform.machine()}.whl").touch()
    return folder


@pytest.mark.parametrize("variable", ["UV_FIND_LINKS", "PIP_FIND_LINKS"])
def test_torch_comes_from_a_folder_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    folder = wheel(tmp_path / "wheels", TAG)
    monkeypatch.setenv(variable, f"https://example.org/wheels {tmp_path} file://{folder}")
    assert setup_env.torch_source() == ["--find-links", str(folder)]


def test_torch_comes_from_the_folder_in_pips_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = wheel(tmp_path / "wheels", TAG)
    monkeypatch.setattr(setup_env, "pip_config", {"find-links": f"{tmp_path}\n{folder}"}.get)
    assert setup_env.torch_source() == ["--find-links", str(folder)]


def test_wheel_of_another_python_but_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", str(wheel(tmp_path / "wheels", "cp27")))
    assert setup_env.torch_source() == ["--torch-backend", "cpu"]


def test_pips_mirror_is_handed_on_unless_uv_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert setup_env.index_arguments() == []
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example.org/simple")
    assert setup_env.index_arguments() == ["--default-index", "https://mirror.example.org/simple"]
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://other.example.org/simple")
    assert setup_env.index_arguments() == []


@pytest.mark.parametrize(
    ("printed", "code", "says"),
    [
        ("error: failed to write: No space left on device (os error 28)", 2, "the disk is full"),
        ("  cause: dns error", 3, "could not be reached"),
        ("ERROR: Failed to establish a new connection: [Errno 111] Connection refused", 3, "could not be reached"),
        ("WARNING: NewConnectionError\nERROR: No matching distribution found for uv", 3, "could not be reached"),
        ("  x No solution found when resolving dependencies", 2, "does not have what is pinned"),
        ("Segmentation fault", 2, "it broke"),
    ],
)
def test_failure_names_its_cause(printed: str, code: int, says: str) -> None:
    error = setup_env.diagnosed("it broke", printed.splitlines())
    assert (error.code, says in str(error), bool(error.hint)) == (code, True, True)


def test_failing_command_is_told_with_what_it_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SetupError, match="it broke: the disk is full"):
        setup_env.run([sys.executable, "-c", "print('No space left'); raise SystemExit(1)"], because="it broke")
    assert "No space left" in capsys.readouterr().out


def test_silent_command_but_no_sign_of_life(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup_env, "QUIET_S", 0.05)
    setup_env.run([sys.executable, "-c", "import time; time.sleep(0.3); print('done', end='')"], because="it broke")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    assert lines[-1].endswith("  done")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("version_info", (3, 10, 2, "final", 0), "3.11 to 3.14 expected"),
        ("platform", "darwin", "Linux on x86_64 expected"),
    ],
)
def test_unfit_machine_but_set_up(monkeypatch: pytest.MonkeyPatch, name: str, value: object, says: str) -> None:
    monkeypatch.setattr(sys, name, value)
    with pytest.raises(SetupError, match=says):
        setup_env.check_machine(setup_env.LEVELS["demo"])


def test_no_compiler_but_set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"no C\+\+ compiler"):
        setup_env.check_machine(setup_env.LEVELS["demo"])


def test_too_little_disk_but_set_up() -> None:
    with pytest.raises(SetupError, match="of free disk found"):
        setup_env.check_machine(setup_env.Level(("demo.txt",), 2**60, ()))


def test_stamp_follows_every_file_that_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {level: setup_env.stamp(level) for level in setup_env.LEVELS}
    for path in setup_env.REQUIREMENTS.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(setup_env, "REQUIREMENTS", tmp_path)
    assert {level: setup_env.stamp(level) for level in setup_env.LEVELS} == before
    (tmp_path / "test.txt").write_text("another-tool==1\n")
    assert setup_env.stamp("demo") == before["demo"]
    assert setup_env.stamp("test") != before["test"]
    (tmp_path / "constraints.txt").write_text("numpy==1\n")
    assert setup_env.stamp("demo") != before["demo"]
