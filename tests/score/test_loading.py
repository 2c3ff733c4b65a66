from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.score import load_model
from saewatch.score.loading import DTYPES, tokenizer_of

MODEL = Path(__file__).resolve().parents[1] / "fixture" / "model"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_folder_in_each_type(dtype: str) -> None:
    model, folder = load_model(str(MODEL), dtype=dtype, progress=False)
    assert {one.dtype for one in model.parameters()} == {getattr(torch, dtype)}
    assert (folder, model.training) == (MODEL, False)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype"):
        load_model(str(MODEL), dtype="int3")
    with pytest.raises(ConfigError, match="device"):
        load_model(str(MODEL), dtype="float32", device="cuda:99")
    with pytest.raises(UnreachableError, match=r"config\.json"):
        load_model(str(tmp_path), dtype="float32")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="a model that can be read"):
        load_model(str(tmp_path), dtype="float32", progress=False)


def test_without_a_tokenizer_it_says_why(tmp_path: Path) -> None:
    tokenizer, why = tokenizer_of(str(tmp_path))
    assert tokenizer is None
    assert why
    assert tokenizer_of(str(MODEL))[0] is not None
