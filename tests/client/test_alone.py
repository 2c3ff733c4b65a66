"""The client works with its own extra alone: in an interpreter in which nothing else can be imported."""

from __future__ import annotations

import subprocess
import sys

from tests import sidecar

ALLOWED = ("numpy", "grpc", "google", "typing_extensions", "saewatch")  # the fourth is grpcio's own
PROGRAM = f"""
import importlib.abc, sys

class Alone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.split(".")[0]
        if top not in {{*sys.stdlib_module_names, *{ALLOWED}}} and not top.startswith(("_", "sitecustomize")):
            raise ModuleNotFoundError(f"not in the client extra: {{name}}", name=name)

sys.meta_path.insert(0, Alone())
for name in ("pydantic", "structlog", "torch", "starlette", "yaml", "grpc_health"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{{name}} is not blocked")

from saewatch import cli
from saewatch.client import AsyncClient, Client
from saewatch.client.fake import FakeServer

with FakeServer() as server:
    server.fires("violence.p1", value=2.5)
    print(next(Client(server.address).watch()))
    assert cli.main(["watch", "--address", server.address, "--count", "1"]) == 0
assert cli.main(["fake-server", "--listen", "127.0.0.1:0", "--for", "0.3"]) == 0
"""


def test_nothing_else_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=sidecar.ENVIRONMENT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("violence.p1") >= 2
