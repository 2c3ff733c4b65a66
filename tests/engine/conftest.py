"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.changing import Running, running_tap
from tests.engine.labelled import Listener
from tests.engine.shipping import (
    Bench,
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(path=tmp_path / "socket", runs=[])
    yield made
    for run in made.runs:
        run.shipper.stop()


@pytest.fixture
def sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setenv("SAEWATCH_SOCKET", str(tmp_path / "socket"))
    for name in ("SAEWATCH_TRUST_HEADERS", "SAEWATCH_RECOMPUTE_TENANTS"):
        monkeypatch.delenv(name, raising=False)
    listener = Listener(tmp_path / "socket")
    yield listener
    listener.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with running_tap(tmp_path, slots=4) as found:
        yield found
