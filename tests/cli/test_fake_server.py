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


def test_it_answers_queries(capsys: pytest.CaptureFixture[str]) -> None:
    with serving("--rate", "300") as (address, _), Client(address) as client:
        while not any(one.firings for page in client.count_firings() for one in page):
            pass
        for what, column in (("firings", "feature_id"), ("buckets", "group"), ("requests", "client_id")):
            assert cli.main(["query", what, "--address", address]) == cli.GOOD
            assert column in capsys.readouterr().out


def test_an_address_that_is_taken_is_said_once() -> None:
    """gRPC would write lines of its own, for each attempt."""
    with serving() as (address, _):
        words = sidecar.command("fake-server", "--listen", address)
        done = subprocess.run(words, capture_output=True, text=True, env=sidecar.ENVIRONMENT, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (cli.UNREACHED, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"saewatch: {address}: found Address already in use, expected an address that is free.")
    assert "Port 0 takes any free one." in line


@pytest.mark.parametrize(
    "words", [["--rate", "-1"], ["--rate", "nan"], ["--for", "-2"], ["--listen", "50071"], ["--listen", "here:99999"]]
)
def test_wrong_words_are_a_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["fake-server", *words])
    assert caught.value.code == cli.USAGE
    assert words[1] in capsys.readouterr().err
