"""Rules of the whole run: a skipped test fails it, and property tests are the same on every machine.

A test that cannot run is not a test that passed. Only tests/gpu may skip, where there is no GPU; everything else that
a test needs is made by `make setup` or by the test itself.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import structlog

MAY_SKIP = "tests/gpu/"

hypothesis.settings.register_profile(
    "saewatch",
    deadline=None,  # two shared cores: a slow example is no finding
    derandomize=True,  # the same examples everywhere; a found counterexample becomes a test of its own
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("saewatch")

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell starts background jobs with SIGINT ignored, and their children inherit that: Ctrl-C would end none."""

skipped: list[str] = []


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A verb that a test calls sets the log up for its own standard error, which is closed when the test ends."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def threads_left() -> Callable[[], list[str]]:
    """Names of the threads that this test started and that live: other tests of the process may have left theirs."""
    before = set(threading.enumerate())
    return lambda: [thread.name for thread in set(threading.enumerate()) - before]


PATIENT = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}
"""torch's threads and numpy's spin while they wait for each other, which takes the cores from the other workers."""


def pytest_configure(config: pytest.Config) -> None:
    """Lets threads of the workers sleep while they wait. Both libraries read it once, when a process loads them."""
    if config.getoption("numprocesses", None):
        os.environ.update(PATIENT)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays until the end: no collection walks through it, then or later."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes every test that was skipped where it may not be."""
    note(report.nodeid, skips=report.skipped and not hasattr(report, "wasxfail"))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Notes a whole file that was skipped, by ``importorskip`` for one."""
    note(report.nodeid, skips=report.skipped)


def note(nodeid: str, *, skips: bool) -> None:
    """Keeps the name of a test or file that was skipped where it may not be."""
    if skips and not nodeid.startswith(MAY_SKIP):
        skipped.append(nodeid)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Fails the run when something was skipped."""
    if skipped and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which tests were skipped and that this failed the run."""
    for nodeid in skipped:
        terminalreporter.write_line(f"SKIPPED, which fails the run outside {MAY_SKIP}: {nodeid}", red=True)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For models and products so small that two threads would only wait for each other, on a busy machine above all."""
    torch = importlib.import_module("torch")  # seconds, and most tests need none
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
