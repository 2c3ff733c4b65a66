"""Looking at weights before they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saewatch.core.errors import DictionaryError
from saewatch.dictionary.formats import Asked
from saewatch.dictionary.formats.forms import Form, Opened, close, flag, number, skip, where
from tests import layouts

SHAPES = {"W": (3, 2), "b": (3,)}
TENSORS = {"W": torch.ones(3, 2), "b": torch.zeros(3)}


def test_nothing_is_loaded_before_everything_fits() -> None:
    def load() -> Any:
        raise AssertionError("loaded")

    forms = {"W": Form("F32", (3, 2)), "b": Form("F32", (4,))}
    looked = Opened(folder=Path(), weights="x", forms=forms, load=load)
    with pytest.raises(DictionaryError, match=r"x: b: found \[4\], expected \[3\]"):
        looked.tensors(SHAPES)


def test_a_narrower_type_is_widened_exactly_and_a_wider_one_refused() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        looked = layouts.opened({name: tensor.to(dtype) for name, tensor in TENSORS.items()})
        assert looked.tensors(SHAPES)["W"].dtype == dtype
    wide = layouts.opened({name: tensor.double() for name, tensor in TENSORS.items()})
    with pytest.raises(DictionaryError, match="W: found F64, expected F32 or narrower"):
        wide.tensors(SHAPES)
    half = layouts.opened({name: tensor.half() for name, tensor in TENSORS.items()})
    with pytest.raises(DictionaryError, match="found F16, expected BF16"):
        half.tensors(SHAPES, dtype="BF16")


def test_integers_are_integers() -> None:
    assert layouts.opened({"k": torch.tensor(3)}).tensors({"k": ()}, integers=["k"])["k"] == 3
    with pytest.raises(DictionaryError, match="k: found F32, expected I32"):
        layouts.opened({"k": torch.tensor(3.0)}).tensors({"k": ()}, integers=["k"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_are_finite(value: float) -> None:
    with pytest.raises(DictionaryError, match="b: found NaN or infinity"):
        layouts.opened({**TENSORS, "b": torch.tensor([0.0, value, 1.0])}).tensors(SHAPES)


@pytest.mark.parametrize("shape", [(3,), (0, 2), (3, 0), (2, 3, 4), (2**22 + 1, 2), (2, 2**16 + 1)])
def test_sizes_are_those_of_a_dictionary(shape: tuple[int, ...]) -> None:
    looked = Opened(folder=Path(), weights="x", forms={"W": Form("F32", shape)}, load=dict)
    with pytest.raises(DictionaryError, match="x: W: found"):
        looked.sizes("W")
    with pytest.raises(DictionaryError, match="x: V: found nothing, expected a matrix"):
        looked.sizes("V")


def test_members_that_decide_something_are_all_read() -> None:
    config = {"on": True, "off": 1, "x": 0.5, "bad": "0.5", "rest": 1}
    cfg = layouts.opened({}, config).fields(Asked(ignore=frozenset({"rest"})))
    assert flag(cfg, "on")
    assert number(cfg, "x") == 0.5
    with pytest.raises(DictionaryError, match=r"config.json: off: found 1, expected true or false"):
        flag(cfg, "off")
    with pytest.raises(DictionaryError, match=r"config.json: bad: found '0.5', expected a number above 0"):
        number(cfg, "bad")
    skip(cfg, ["nothing"])
    close(cfg)


def test_a_member_that_nobody_reads_is_refused_by_its_path() -> None:
    cfg = layouts.opened({}, {"a": {"b": 1}}).fields(Asked())
    with pytest.raises(DictionaryError, match=r"config.json: a: found an unknown member.*--ignore"):
        close(cfg)
    assert where(cfg.section("a"), "b") == "config.json: a.b"


@pytest.mark.parametrize("config", [[1], "text", 3])
def test_a_configuration_that_is_no_object(config: Any) -> None:
    with pytest.raises(DictionaryError, match="expected an object"):
        layouts.opened({}, config).fields(Asked())
