"""Where bundles lie that engines are brought."""

from __future__ import annotations

from pathlib import Path

import pytest

from saewatch.core import served
from saewatch.core.errors import ManifestError

DIGEST = "sha256:" + "ab" * 32


def test_both_are_named_by_digits() -> None:
    assert served.folder_of(Path("/s"), DIGEST) == Path("/s/served") / ("ab" * 32)
    assert served.pointer_of(Path("/s"), DIGEST) == Path("/s/served/by-weights") / ("ab" * 32)


@pytest.mark.parametrize("data", [b"", b"sha256:ab", DIGEST.encode() * 2, b"\xff" * 40, b"../../etc"])
def test_a_pointer_holds_a_digest_and_nothing_else(data: bytes) -> None:
    assert served.read_pointer(served.pointer_data(DIGEST), subject="p") == DIGEST
    with pytest.raises(ManifestError, match="p: found"):
        served.read_pointer(data, subject="p")


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAEWATCH_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert served.default_store() == "/data/saewatch/dictionaries"
    monkeypatch.setenv("SAEWATCH_STORE", "/s")
    assert served.default_store() == "/s"
