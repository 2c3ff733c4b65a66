"""The committed source directories agree with themselves and with the corpus's families."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dictionaries.train import sheet
from dictionaries.train.corpus import families

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / "dictionaries" / "source" / "smollm2-135m-it.resid_post.14",
    ROOT / "tests" / "fixture" / "source",
]


@pytest.fixture(params=SOURCES, ids=["demo", "fixture"])
def source(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_tensors_have_the_shapes_that_the_configuration_states(source: Path) -> None:
    cfg, tensors = read(source / "cfg.json"), load_file(source / "sae_weights.safetensors")
    d, n = cfg["d_in"], cfg["d_sae"]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {"W_enc": (d, n), "W_dec": (n, d), "b_enc": (n,), "b_dec": (d,), "threshold": (n,)}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    assert {tensors[name].dtype for name in ("b_enc", "b_dec", "threshold")} == {torch.float32}


def test_features_name_latents_and_directions_that_exist(source: Path) -> None:
    cfg, features = read(source / "cfg.json"), read(source / "features.json")
    directions = len(load_file(source / "probes.safetensors")["b"])
    assert len({feature["id"] for feature in features}) == len(features) == 48
    for feature in features:
        assert feature["id"].split(".")[0] in families()
        assert feature["severity"] in {"low", "medium", "high", "critical"}
        assert feature["claim"] == "correlational"
        assert feature["floor"] >= 0
        if feature["kind"] == "probe":
            assert 0 <= feature["direction"] < directions
        else:
            assert all(0 <= latent < cfg["d_sae"] for latent in feature["latents"])


def test_sheet_is_rendered_from_its_figures_and_claims_nothing(source: Path) -> None:
    text = (source / "sheet.md").read_text(encoding="utf-8")
    assert text == sheet.render(read(source / "sheet.json"))
    assert "detected" not in text.lower()
    assert "safe" not in text.lower()


def test_no_file_is_large(source: Path) -> None:
    assert sum(path.stat().st_size for path in source.iterdir()) < 8_000_000
