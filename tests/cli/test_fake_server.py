"""saewatch fake-server, as a process of its own."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from saewatch import cli
from saewatch.client import Client, Coverage, Disconnected, Firings
from tests import sidecar


@contextmanager
def serving(*more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    words = sidecar.command("fake-server", "--listen", "127.0.0.1:0", "--json", *more)
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=sidecar.ENVIRONMENT
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["grpc"], process
    finally:
        process.kill()
        process.communicate()


def test_a_client_sees_made_up_requests() -> None:
    with serving("--rate", "300") as (address, process), Client(address) as client:
        assert [one.category for one in client.features()] == ["x.greeting", "x.hesitation", "spc_hlt", "vcr"]
        events = list(itertools.islice(client.watch(), 200))
        assert sum(len(event) for event in events if isinstance(event, Firings)) > 10
        assert any(isinstance(event, Coverage) for event in events)
        watch = client.watch()
        next(watch)
        process.send_signal(signal.SIGINT)
        assert any(isinstance(event, Disconnected) for event in watch)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (cli.GOOD, "")


def test_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with serving("--rate", "100") as (address, _):
        assert cli.main(["watch", "--address", address, "--for", "4", "--json"]) == cli.GOOD
        totals = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert 200 <= totals["tokens"] <= 500


def test_it_ends_when_it_was_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fake-server", "--listen", "127.0.0.1:0", "--for", "0.3"]) == cli.GOOD
    assert capsys.readouterr().out.startswith("grpc     127.0.0.1:")


def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["fake-server", "--rate", "-1"])
    assert caught.value.code == cli.USAGE
    assert "-1" in capsys.readouterr().err
