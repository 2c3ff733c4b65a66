"""A real ``saewatch serve`` on ports and a socket of its own; and verbs that end, in this process or in another."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError

from saewatch.cli import main
from saewatch.monitor.tables import KnownDictionary
from tests import fakes

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "service")}


def command(*arguments: object) -> list[str]:
    """``saewatch …``."""
    return [sys.executable, "-m", "saewatch", *map(str, arguments)]


def run(*arguments: object, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Runs ``saewatch …`` to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout_s, env=ENVIRONMENT, check=False
    )


def called(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same here: a process of its own would load everything again, for longer than most verbs take."""
    words = [str(word) for word in arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), said.getvalue())


class Sidecar:
    """Its process. Every file is in ``folder``; the log goes to ``folder/log``."""

    def __init__(self, folder: Path, known: Sequence[KnownDictionary], **sections: Any) -> None:
        self.folder = folder
        self.known = list(known)
        bundles = [fakes.write_bundle(folder / f"bundle{n}", one).name for n, one in enumerate(self.known)]
        self.config = folder / "saewatch.yaml"
        local = {"listen": "127.0.0.1:0"}
        settings = {"socket": str(folder / "s.sock"), "dictionaries": bundles, "grpc": local, "web": local}
        settings |= {"history": {"path": str(folder / "history.db")}, **sections}
        self.config.write_text(json.dumps(settings))  # JSON is YAML
        self.log = folder / "log"
        self.addresses: dict[str, str] = {}
        self.process = self._process()

    def __enter__(self) -> Self:
        self.wait_until_serving()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def _process(self) -> subprocess.Popen[bytes]:
        file = self.folder / "addresses.json"
        file.unlink(missing_ok=True)
        words = command("serve", "-c", self.config, "--addresses", file)
        with self.log.open("ab") as log:
            return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=log, env=ENVIRONMENT)

    def start_again(self) -> None:
        """A new process after the end of the one before."""
        self.process = self._process()
        self.wait_until_serving()

    def wait_until_serving(self, timeout_s: float = 30.0) -> None:
        """Until the addresses are written."""
        file = self.folder / "addresses.json"
        end = time.monotonic() + timeout_s
        while not file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        self.addresses = json.loads(file.read_text())

    def get(self, page: str) -> tuple[int, str]:
        """Status and body of a page."""
        try:
            with urllib.request.urlopen(f"{self.addresses['web']}{page}", timeout=5) as answer:
                assert isinstance(answer, HTTPResponse)
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def blind(self) -> list[str]:
        """Reasons for not being ready."""
        return [one["reason"] for one in json.loads(self.get("/readyz")[1])["blind"]]

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
