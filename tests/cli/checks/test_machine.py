"""The machine's checks, each in good and bad states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from saewatch.cli.checks import machine
from saewatch.cli.checks.finding import Finding, Setup, State
from saewatch.cli.checks.machine import Cache, Machine, cache_root
from saewatch.core import limits

CACHE = Cache(folder="/cache", writable=True, graphs=3, size=10 * limits.MIB)
SEEN = Machine(memory=2**33, shm=2**33, disk=2**40, disk_at="/var/lib", cache=CACHE, cache_off=False, setup=Setup())


def only(check: Callable[[Machine], Iterator[Finding]], seen: Machine) -> Finding:
    (found,) = check(seen)
    return found


def test_all_is_well() -> None:
    found = [one for check in machine.CHECKS for one in check(SEEN)]
    assert [one.state for one in found] == [State.GOOD] * 4
    assert found[3].found == "3 graphs, 10.0 MiB, in /cache"


def test_memory_for_what_the_sidecar_may_hold() -> None:
    assert only(machine.memory, replace(SEEN, memory=2**28)).state is State.WARNING
    larger = Setup(replay_bytes=2**33)
    assert only(machine.memory, replace(SEEN, setup=larger)).state is State.WARNING
    assert only(machine.memory, replace(SEEN, memory=None)).state is State.UNVERIFIED


def test_a_containers_shared_memory_and_a_full_disk() -> None:
    assert only(machine.shared_memory, replace(SEEN, shm=64 * limits.MIB)).state is State.WARNING
    assert only(machine.shared_memory, replace(SEEN, shm=None)).state is State.UNVERIFIED
    assert only(machine.disk, replace(SEEN, disk=2**20)).state is State.WARNING


def test_a_cache_that_cannot_be_used() -> None:
    assert only(machine.compile_cache, replace(SEEN, cache_off=True)).state is State.WARNING
    found = only(machine.compile_cache, replace(SEEN, cache=replace(CACHE, writable=False)))
    assert (found.state, "VLLM_CACHE_ROOT" in found.hint) == (State.WARNING, True)


@pytest.mark.parametrize(
    ("environment", "root"),
    [
        ({"VLLM_CACHE_ROOT": "/a/b"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/vllm"),
        ({}, str(Path("~/.cache/vllm").expanduser())),
    ],
)
def test_the_cache_is_where_vllm_has_it(environment: dict[str, str], root: str) -> None:
    assert str(cache_root(environment)) == root


def test_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tmp_path / "torch_compile_cache" / "0a1b" / "rank_0_0"
    graph.mkdir(parents=True)
    (graph / "artifact").write_bytes(bytes(5000))
    (tmp_path / "torch_compile_cache" / "torch_aot_compile" / "77ff").mkdir(parents=True)
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    seen = machine.look(Setup(history=str(tmp_path / "not" / "yet" / "there.db")))
    assert (seen.cache.graphs, seen.cache.size, seen.cache.writable) == (2, 5000, True)
    assert (seen.disk_at, bool(seen.disk), bool(seen.memory)) == (str(tmp_path), True, True)
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "none"))
    assert machine.look(Setup()).cache.graphs == 0
    assert len(list(machine.examine(Setup()))) == 4
