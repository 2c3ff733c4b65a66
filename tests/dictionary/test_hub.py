"""Names on a hub. What fetches is a stand-in: no hub can be reached from tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.dictionary.hub import fetch


class Hub:
    """A hub with one repository in ``root``; notes what it was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, repo: str, **wanted: Any) -> str:
        self.asked.append((repo, wanted))
        if repo == "org/none":
            raise OSError("404: no such repository")
        return str(self.root)


def test_a_folder_of_a_revision(tmp_path: Path) -> None:
    hub, inside = Hub(tmp_path), "layer_12/width_16k/average_l0_82"
    (tmp_path / inside).mkdir(parents=True)
    assert fetch(f"hub:google/gemma-scope-2b-pt-res@v1.0/{inside}", download=hub) == tmp_path / inside
    [(repo, wanted)] = hub.asked
    assert (repo, wanted["revision"]) == ("google/gemma-scope-2b-pt-res", "v1.0")
    assert f"{inside}/*.npz" in wanted["allow_patterns"]
    assert not any(pattern.endswith((".pt", ".pth")) for pattern in wanted["allow_patterns"])


def test_without_a_folder_only_the_top_is_fetched(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    assert fetch("hub:org/name", pickles=True, download=hub) == tmp_path
    [(_, wanted)] = hub.asked
    assert wanted["ignore_patterns"] == ["*/*"]
    assert {"*.json", "*.safetensors", "*.npz", "*.pt", "*.pth"} == set(wanted["allow_patterns"])


@pytest.mark.parametrize("name", ["hub:", "hub:x", "hub:a/b/../c", "hub:a/b@", "hub:/a/b", "hub:a/b/c d", "hub:a/b//c"])
def test_what_is_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected hub:org/name"):
        fetch(name, download=Hub(tmp_path))


def test_what_the_hub_does_not_give(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="404: no such repository"):
        fetch("hub:org/none", download=Hub(tmp_path))
    with pytest.raises(UnreachableError, match="no such folder or file"):
        fetch("hub:org/name/layer_3", download=Hub(tmp_path))
