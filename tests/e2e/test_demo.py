"""The demo as a newcomer runs it, on the small model: the script with its facts, then live, and Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.form import ROOT
from deploy.demo.servers import group_members

pytestmark = pytest.mark.engine

SCRIPT = ["--prompts", "8", "--max-tokens", "16"]


def test_the_script_adds_up_then_it_shows_the_users_own_request_and_ends_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    command = [sys.executable, "-m", "deploy.demo.run", "--fixture", "--plain", *SCRIPT, "--json", str(facts)]
    with (tmp_path / "out").open("wb") as out:
        demo = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
    text = (tmp_path / "out").read_text
    try:
        until(demo, lambda: text().count("coverage ") > 8, text)
        port = re.search(r"OpenAI +http://127\.0\.0\.1:(\d+)/v1", text())
        assert port
        body = json.dumps({"model": "saewatch-fixture", "prompt": "Hello there!", "max_tokens": 4}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port[1]}/v1/completions", body)
        request.add_header("Content-Type", "application/json")
        request.add_header("X-Request-Id", "my-own-request")
        urllib.request.urlopen(request, timeout=60).read()
        until(demo, lambda: "a request of yours: my-own-request" in text(), text)
        children = [int(pid) for pid in subprocess.check_output(["pgrep", "-P", str(demo.pid)]).split()]
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0, text()
    finally:
        demo.kill()
        demo.wait()
    assert len(children) == 2, "the sidecar and the engine"
    assert [pid for leader in children for pid in group_members(leader)] == []
    script = [line for line in text().splitlines() if re.match(rf"── demo-{demo.pid}-[1-8]\b", line)]
    assert (len(script), text().count("coverage ") > 8) == (8, True), text()
    assert "correlational" in text()
    add_up(json.loads(facts.read_text())["facts"])


def add_up(facts: Mapping[str, float]) -> None:
    """At the end of the script, and after all: nothing of the user's own request."""
    assert facts["firings"] > 0
    assert facts["fed"] == facts["encoded"] + facts["reused"] + facts["missed"]
    assert (facts["imbalance"], facts["orphans"]) == (0, 0)
    assert {"setup_s", "engine_healthy_s", "first_firing_s", "total_s"} <= facts.keys()


def until(demo: subprocess.Popen[bytes], done: Callable[[], bool], text: Callable[[], str]) -> None:
    deadline = time.monotonic() + 500.0
    while not done():
        assert demo.poll() is None, text()
        assert time.monotonic() < deadline, text()
        time.sleep(0.2)
