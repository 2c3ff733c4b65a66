"""The running sidecar, asked over gRPC: does it answer, which version, its health, its streams and their self-test.

Its metrics page is asked for what it leaves out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc

from saewatch import __version__
from saewatch.cli.asking import ask
from saewatch.cli.checks import pages, streams
from saewatch.cli.checks.finding import Finding, Setup, State, failed, good, refused, unverified, warning
from saewatch.cli.checks.streams import Seen
from saewatch.core import limits
from saewatch.core.errors import SaewatchError, UnreachableError
from saewatch.edge.pb import status_pb2, status_pb2_grpc, tap_pb2, tap_pb2_grpc

TIMEOUT_S = 5.0
HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""HealthCheckResponse with status SERVING, as it is on the wire: the package that spells it out may not be there."""
STATES = {
    tap_pb2.CHECK_STATE_GOOD: State.GOOD,
    tap_pb2.CHECK_STATE_FAILED: State.FAILED,
    tap_pb2.CHECK_STATE_UNVERIFIED: State.UNVERIFIED,
}


def examine(setup: Setup) -> Iterator[Finding]:
    """Every check of this group; one finding where there is no sidecar."""
    if not setup.address:
        hint = "Name it with --address; the sidecar prints it when it starts."
        yield unverified("sidecar", "no address", expected="that of its gRPC service", hint=hint)
        return
    try:
        seen = look(setup.address)
    except SaewatchError as error:
        yield _not_there(error, named=setup.named)
        return
    yield good("sidecar", f"{setup.address} answers")
    yield from version(seen)
    yield from health(setup.address)
    for check in streams.CHECKS:
        yield from check(seen)
    yield from pages.series(setup)
    yield from self_test(setup.address)


def look(address: str) -> Seen:
    """The sidecar's state. Raises `UnreachableError` for nobody there."""
    service, request = status_pb2_grpc.StatusServiceStub, status_pb2.GetStatusRequest()
    began = time.time_ns()
    status = ask(address, lambda channel: service(channel).GetStatus(request, timeout=TIMEOUT_S))
    return Seen(status=status, now_ns=(began + time.time_ns()) // 2)


def version(seen: Seen) -> Iterator[Finding]:
    """Whether it is the version of this command, and its engines too."""
    told = {"sidecar": seen.status.version}
    told |= {one.stream.engine: one.stream.versions["saewatch"] for one in seen.status.streams if _tells(one)}
    others = {name: found for name, found in told.items() if found != __version__}
    for name, found in others.items():
        hint = "Install one version everywhere: vLLM's environment, the sidecar's and this one."
        yield warning("version", f"{name} {found}", expected=f"{__version__}, as this command", hint=hint)
    if not others:
        yield good("version", __version__)


def health(address: str) -> Iterator[Finding]:
    """What it tells probes and load balancers."""
    try:
        said = ask(address, _health)
    except SaewatchError as error:
        yield refused(error)
        return
    if said == SERVING:
        yield good("health", "SERVING")
    else:
        hint = "It is shutting down, or another program serves that port."
        yield failed("health", "not SERVING", expected="SERVING", hint=hint)


def self_test(address: str) -> Iterator[Finding]:
    """The self-test of every connected engine."""
    service, request = tap_pb2_grpc.TapServiceStub, tap_pb2.RunSelfTestRequest()
    timeout_s = limits.SELF_TEST_S + TIMEOUT_S
    try:
        answer = ask(address, lambda channel: service(channel).RunSelfTest(request, timeout=timeout_s))
    except UnreachableError as error:
        yield unverified("self-test", error.found, expected=error.expected, hint=error.hint)
        return
    except SaewatchError as error:
        yield refused(error)
        return
    for test in answer.self_tests:
        name = f"self-test of {test.engine} {test.stream.hook_point}".rstrip()
        found = [_checked(name, check) for check in test.checks if check.state != tap_pb2.CHECK_STATE_GOOD]
        yield from found or [good(name, "sink, rows and encoder")]


def _checked(name: str, check: tap_pb2.Check) -> Finding:
    subject, state = f"{name}: {check.name}", STATES.get(check.state, State.UNVERIFIED)
    return Finding(subject=subject, state=state, found=check.found, expected=check.expected, hint=check.hint)


def _tells(status: status_pb2.StreamStatus) -> bool:
    return not status.ended and "saewatch" in status.stream.versions


def _health(channel: grpc.Channel) -> bytes:
    call: Any = channel.unary_unary(HEALTH)  # bytes in, bytes out
    said: bytes = call(b"", timeout=TIMEOUT_S)
    return said


def _not_there(error: SaewatchError, *, named: bool) -> Finding:
    found, unreached = f"{error.subject}: {error.found}", isinstance(error, UnreachableError)
    if not named:
        return unverified("sidecar", found, expected=error.expected, hint=error.hint)
    return replace(failed("sidecar", found, expected=error.expected, hint=error.hint), unreached=unreached)
