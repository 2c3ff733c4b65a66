"""The program that reads a checkpoint: what it takes, and what it may do once it has begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from saewatch.dictionary import unpickle


def test_it_gives_up_what_it_does_not_need(tmp_path: Path) -> None:
    """No file and no socket can be opened any more, and little memory be taken."""
    code = f"""
import socket, sys
sys.path.insert(0, {str(Path(unpickle.__file__).parent)!r})
import torch, unpickle
unpickle.load_what_is_loaded_late()
unpickle.restrict(0, seconds=60, spare=64 * 2**20)
def fails(act):
    try:
        act()
    except (OSError, MemoryError, RuntimeError) as error:
        return type(error).__name__
    return "done"
print(fails(lambda: open("/etc/hostname")), fails(lambda: open({str(tmp_path / "new")!r}, "w")),
      fails(socket.socket), fails(lambda: torch.zeros(2**28)), fails(lambda: bytearray(2**28)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["OSError", "OSError", "OSError", "RuntimeError", "MemoryError"]
    assert not (tmp_path / "new").exists()


def test_members_are_named_by_the_way_to_them() -> None:
    W = torch.ones(2)
    found = dict(unpickle.flat({"sae": {"encoder": {"weight": W}}, "k": 3, 4: None}))
    assert found.pop("sae.encoder.weight") is W
    assert found == {"k": 3, "4": None}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "the checkpoint is a list"),
        ({"x": {"y": {1, 2}}}, "x.y is a set"),
        ({"x": torch.nn.Linear(1, 1)}, "x is a Linear"),
        (torch.ones(2), "no name at all"),
        ({"x": "a" * 5000}, "too long"),
        ({"a": {"b": {"c": {"d": {"e": 1}}}}}, "nested too deeply"),
        ({str(at): at for at in range(300)}, "has 300 members"),
    ],
)
def test_only_tensors_and_plain_values_are_taken(value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        list(unpickle.flat(value))
