"""One watched engine and one that is not, shared by all tests of this folder: a boot costs a minute or more."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.form import ROOT
from benchmarks.oracle import Oracle, Reading
from benchmarks.rig import Rig, bundle_of_all, scaled
from deploy.demo.collect import Collector, Seen
from tests.edge.sinks.receiver import Receiver
from tests.waiting import wait_until

FIXTURE = ROOT / "tests/fixture"
SECRET = b"a secret of the tests of alerts"
POLICY: dict[str, Any] = {
    "policy": "everything",
    "rules": [
        {
            "id": rule,
            "severity": "high",
            "action": "flag",
            "uncalibrated": "a test",
            "runbook": "https://runbooks.example.org/busy",
            "when": {"feature": "everything.g1", **leaf},
        }
        for rule, leaf in {
            "busy": {"statistic": "count", "above": 9},
            "never": {"statistic": "max", "above": 1e6},
        }.items()
    ],
}
"""``busy`` is met by any request in which more than nine tokens were seen."""
FLOAT32 = ("--dtype", "float32", "--max-num-batched-tokens", "512")
ANY_CORE = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
"""For engines beside each other, which vLLM would bind to the same cores; as many threads in each, so equal sums."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The watched engine with its sidecar, which has a policy and posts alerts, and an engine without a tap."""

    watched: Rig
    plain: Rig
    fault: Path
    receiver: Receiver


@pytest.fixture(scope="module", autouse=True)
def alone(one_thread: None) -> None:
    """The oracle computes on one thread: its models are tiny, and engines want the cores."""


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    plain = Rig(_short(tmp_path_factory, "p"), FIXTURE / "model", folder / "bundle")
    fault = folder / "fault"
    fault.write_text("")
    receiver = Receiver()
    servers: list[Rig] = [plain]
    try:
        # First: it starts while the other one's dictionaries are made.
        plain.start_engine(tap=[], extra=FLOAT32, env=ANY_CORE)
        watched = _watched(tmp_path_factory, folder, receiver)
        servers.append(watched)
        watched.start_sidecar()
        # A small queue, so that a test can fill it.
        tap = watched.tap(worker="benchmarks.faulty.FaultyWorker", queue_bytes=512 * 1024)
        watched.start_engine(tap=tap, extra=FLOAT32, env={**ANY_CORE, "SAEWATCH_FAULT_FILE": str(fault)})
        watched.wait()
        plain.wait()
        with receiver:
            yield Pair(watched, plain, fault, receiver)
    finally:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Rig.stop, servers))


def _watched(factory: pytest.TempPathFactory, folder: Path, receiver: Receiver) -> Rig:
    """Not started yet."""
    bundle = bundle_of_all(FIXTURE / "source", FIXTURE / "model", folder / "bundle")
    other = bundle_of_all(scaled(FIXTURE / "source", folder / "scaled"), FIXTURE / "model", folder / "other")
    own = _short(factory, "w")
    (own / "policy.yaml").write_text(json.dumps(POLICY))
    (own / "key").write_text("whsec_" + base64.b64encode(SECRET).decode())
    hook = {"name": "pager", "url": receiver.url, "secret_file": "key"}
    alerts = {"policies": ["policy.yaml"], "webhooks": [hook]}
    return Rig(own, FIXTURE / "model", bundle, [other], store=folder / "store", sections=alerts, records=True)


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return Oracle(FIXTURE / "model", FIXTURE / "source", Reading("model.layers.2"))


@pytest.fixture
def collector(pair: Pair) -> Iterator[Collector]:
    with Collector(pair.watched.addresses["grpc"]) as found:
        yield found


def heard(collector: Collector, names: Iterable[str]) -> None:
    """Until all is told of these requests, which have ended: the stream comes behind the books."""
    for name in names:
        told(collector, name)


def told(collector: Collector, name: str, child: int = 0) -> Seen:
    """All that is told of one request: its end comes last."""
    wait_until(lambda: (name, child) in collector.seen and collector.seen[name, child].fed >= 0)
    return collector.seen[name, child]


def _short(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder whose socket's path stays below the kernel's 108 bytes."""
    return factory.mktemp(name)
