"""What others use to test their clients, used as they use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from saewatch.client.testing import FEATURES
from tests import sidecar

TEST = """
pytest_plugins = ["saewatch.client.testing"]


def test_threats_are_reported(saewatch_server):
    from saewatch.client import Client

    saewatch_server.fires("violence.p1", value=2.5, request="r1", position=3)
    (firing,) = next(Client(saewatch_server.address).watch("violence.p1"))
    assert firing.value == 2.5


def test_each_test_has_its_own(saewatch_server):
    assert saewatch_server.log.head.event == 1
"""


def test_the_plugin_gives_the_fixture(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TEST)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=sidecar.ENVIRONMENT, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_its_features_are_known() -> None:
    assert [one.id for one in FEATURES] == sorted(one.id for one in FEATURES)
