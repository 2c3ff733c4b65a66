"""docs/clients.md and docs/examples: what they show is run, but for what needs npm's packages or Go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from saewatch.client.fake import FakeServer
from tests import sidecar
from tests.edge.rpc.served import serving

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "clients.md").read_text()
BUF = ROOT / ".tools" / "node_modules" / ".bin" / "buf"


def blocks(language: str = "") -> list[str]:
    """The page's code blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [text for of, text in found if of == language]


@pytest.mark.parametrize("block", blocks("python"))
def test_what_the_page_shows_is_in_an_example(block: str) -> None:
    shown = block.strip("\n").replace('"127.0.0.1:50071"', "sys.argv[1]")
    parts = [part for part in re.split(r"\n\n+", shown) if not part.startswith("from saewatch")]
    texts = [path.read_text() for path in EXAMPLES.glob("*.py")]
    assert any(all(part in text for part in parts) for text in texts), block


def talk(server: FakeServer) -> None:
    """Enough for every example."""
    for number in range(8):
        firings = [(1, "violence.p1", 2.5), (2, "medical.p1", 1.5), (3, "greeting.g1", 3.0)]
        server.tokens(4, request=f"r{number}", firings=firings)
        server.ends(f"r{number}")


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        (
            "react.py",
            ["1.5"],
            ["r7: Threats of violence (unreviewed) at 1, 2.50", "r7 has ended: seen as a whole"],
        ),
        ("watch_async.py", [], ["r0 prompt 1 violence.p1 2.50", "32 tokens seen"]),
        (
            "query.py",
            [],
            [
                "r0: Threats of violence (unreviewed) at 1, 2.50",
                "vcr: 8 feature firings on 32 tokens",
                "x.hesitation: 8 feature",
            ],
        ),
        ("columns.py", [], ["3 of 4 feature firings are above 2", "violence.p1      0.25"]),
    ],
)
def test_python(saewatch_server: FakeServer, name: str, more: list[str], says: list[str]) -> None:
    talk(saewatch_server)
    words = [sys.executable, str(EXAMPLES / name), saewatch_server.address, *more]
    done = subprocess.run(words, capture_output=True, text=True, env=sidecar.ENVIRONMENT, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert all(one in done.stdout for one in says), done.stdout


def test_the_shortest_one(saewatch_server: FakeServer) -> None:
    talk(saewatch_server)
    words = [sys.executable, str(EXAMPLES / "watch.py"), saewatch_server.address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=sidecar.ENVIRONMENT) as process:
        assert process.stdout is not None
        assert "r0 prompt 1 violence.p1 2.50" in process.stdout.readline()
        process.kill()


def test_tests_of_ones_own() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "test_my_client.py")]
    done = subprocess.run(words, capture_output=True, text=True, env=sidecar.ENVIRONMENT, timeout=300, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def buf_curl(address: str, *more: str) -> str:
    """What the page's command prints first, with another address; it runs until its output is closed."""
    (command,) = [one.partition("grpcurl")[0] for one in blocks() if one.startswith("buf curl")]
    words = shlex.split(command.replace("127.0.0.1:50071", address).replace("\\\n", " "))
    words = [str(BUF), "curl", *more, *words[2:]]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(words, **pipes, text=True, cwd=ROOT, start_new_session=True) as process:
        assert process.stdout is not None

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # npm's buf is a script that starts the real one

        timer = threading.Timer(20.0, kill)
        timer.start()
        text = ""
        while '"value"' not in text and (line := process.stdout.readline()):
            text += line
        timer.cancel()
        kill()
    return text


def test_buf_curl_with_the_protos(saewatch_server: FakeServer) -> None:
    if BUF.exists():  # where there is no npm, there is none
        talk(saewatch_server)
        text = buf_curl(saewatch_server.address, "--schema", "protos")
        assert '"heartbeat"' in text
        assert "violence.p1" in text


async def test_buf_curl_with_reflection() -> None:
    async with serving() as served:
        if BUF.exists():  # where there is no npm, there is none
            text_of = asyncio.create_task(served.in_thread(lambda: buf_curl(served.address)))
            while not served.firing.subscribers:
                await served.feed.bell.wait(0.05)
                assert not text_of.done(), await text_of
            served.batch([(7, 0, 1)], [(0, 2, 1.0)])
            served.pump()
            text = await text_of
            assert "threat.l1" in text


def test_the_go_and_typescript_clients_obey_the_same_rules() -> None:
    for text in ((EXAMPLES / "go" / "main.go").read_text(), (EXAMPLES / "typescript" / "src" / "watch.ts").read_text()):
        for name in ("Table", "Batch", "Coverage", "Gap", "Ended", "Floor", "ResumeToken", "MissedTokens"):
            assert name.lower() in text.lower(), name
