"""A store for the verbs on it: two bundles, added by the verb itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from saewatch import cli
from tests.cli.dictionary.shop import Shop
from tests.dictionary.crashing import bundle


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """Verbs set it up for their process: on a stream that is another one in the next test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def shop(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The store is the one that the environment names."""
    monkeypatch.setenv("SAEWATCH_STORE", str(tmp_path / "store"))

    def ask(*words: str) -> tuple[int, Any]:
        code = cli.main(["dictionary", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    digests = []
    for seed, name in enumerate(("old", "new")):
        code, said = ask("add", str(bundle(tmp_path / name, seed=seed)))
        assert code == cli.GOOD
        digests.append(said["bundle"])
    return Shop(tmp_path / "store", digests[0], digests[1], ask)
