"""Probe directions, as a file of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from saewatch.core.errors import TensorFileError
from saewatch.dictionary.formats import read_all, read_probes
from tests import made


def test_probes_lie_beside_latents(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("standard"), directions=3)
    probes = read_probes(folder)
    assert (probes.W.shape, probes.kind, probes.files) == ((3, made.D_IN), "probes", ("probes.safetensors",))
    latents, directions = read_all(folder)
    assert latents is not None
    assert directions is not None
    assert (latents.format, directions.format) == ("saelens", "probes")


def test_they_may_have_another_name(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2, 24), "b": torch.zeros(2)}, tmp_path / "toxicity.safetensors")
    latents, directions = read_all(tmp_path / "toxicity.safetensors")
    assert latents is None
    assert directions is not None
    assert directions.files == ("toxicity.safetensors",)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w": torch.ones(3, 24)}, "probes.safetensors: b: found nothing"),
        ({"w": torch.ones(3, 24), "b": torch.ones(4)}, "probes.safetensors: b: found [4], expected [3]"),
        ({"w": torch.ones(24), "b": torch.ones(4)}, "probes.safetensors: w: found [24]"),
        ({"w": torch.ones(3, 24), "b": torch.ones(3), "scale": torch.ones(1)}, "scale: found present"),
        ({"w": torch.ones(0, 24), "b": torch.ones(0)}, "probes.safetensors: w: found 0 of 24"),
    ],
)
def test_probes_of_another_form_are_refused(tmp_path: Path, tensors: Any, message: str) -> None:
    save_file(tensors, tmp_path / "probes.safetensors")
    with pytest.raises(TensorFileError) as refused:
        read_probes(tmp_path)
    assert message in str(refused.value)
