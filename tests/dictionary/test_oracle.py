"""Oracles: the libraries themselves, in float64, on the stored weights."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.dictionary.oracle import ORACLES
from tests import made
from tests.dictionary import libraries


def test_they_are_named_with_their_versions() -> None:
    assert {name: oracle.name for name, oracle in ORACLES.items()} == {
        "saelens": f"sae-lens {version('sae-lens')}",
        "sparsify": f"eai-sparsify {version('eai-sparsify')}",
        "dictionary_learning": f"dictionary-learning {version('dictionary-learning')}",
    }


def test_it_encodes_in_float64(tmp_path: Path) -> None:
    sae = made.saelens("gated", apply_b_dec_to_input=True)
    folder, x = made.source(tmp_path / "source", sae), made.rows(20)
    found = made.ORACLE.encode(folder, x)
    assert found.dtype == torch.float64
    with torch.no_grad():
        assert torch.allclose(found.float(), sae.encode(x), atol=1e-5)
        assert torch.equal(found, sae.to(dtype=torch.float64).encode(x.double()))


def test_it_reads_half_precision_as_stored(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("standard"), half=True)
    assert not torch.equal(
        made.ORACLE.encode(folder, made.rows(5)), made.saelens("standard").double().encode(made.rows(5).double())
    )


@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify_says_what_its_layout_says(tmp_path: Path, transcode: bool) -> None:
    tensors = libraries.sparsify(tmp_path / "source", transcode=transcode)
    x = made.rows(30).double()
    found = ORACLES["sparsify"].encode(tmp_path / "source", x.float())
    W, b, b_dec = (tensors[name].double() for name in ("encoder.weight", "encoder.bias", "b_dec"))
    pre = torch.relu((x if transcode else x - b_dec) @ W.t() + b)
    least = pre.topk(libraries.K, dim=1).values[:, -1:]
    assert torch.allclose(found, torch.where(pre >= least, pre, 0.0))


@pytest.mark.parametrize("name", libraries.CLASSES)
def test_dictionary_learning_says_what_its_layout_says(tmp_path: Path, name: str) -> None:
    """Seven classes, by the equations of its source."""
    of = {key: tensor.double() for key, tensor in libraries.learned(tmp_path / "source", name).items()}
    x = made.rows(30)
    found = ORACLES["dictionary_learning"].library(tmp_path / "source", x)
    W = of["encoder.weight"].t() if "encoder.weight" in of else of["W_enc"]
    b = of.get("encoder.bias", of.get("b_enc", torch.zeros(1)))
    before = {"AutoEncoder": "bias", "GatedAutoEncoder": "decoder_bias"}.get(name, "b_dec")
    pre = (x.double() - (0 if name in {"AutoEncoderNew", "JumpReluAutoEncoder"} else of[before])) @ W + b
    least = pre.topk(libraries.K, dim=1).values[:, -1:] if name == "AutoEncoderTopK" else pre.amin()
    floor = torch.zeros(1) if name == "AutoEncoderTopK" else of.get("threshold", torch.zeros(1))
    expected = torch.relu(pre) * (pre > floor) * (pre >= least)
    if name == "GatedAutoEncoder":
        expected = (pre + of["gate_bias"] > 0) * torch.relu(of["r_mag"].exp() * pre + of["mag_bias"])
    assert torch.allclose(found, expected)
    assert found.count_nonzero() > 100


def test_pickles_are_read_in_a_process_of_their_own(tmp_path: Path) -> None:
    libraries.learned(tmp_path / "source", "AutoEncoder")
    expected = ORACLES["dictionary_learning"].library(tmp_path / "source", made.rows(9))
    assert torch.equal(ORACLES["dictionary_learning"].encode(tmp_path / "source", made.rows(9)), expected)


def test_what_a_library_does_not_read_is_its_own_word(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("standard"))
    with pytest.raises(ConfigError, match=r"source: found .*, expected a dictionary that sparsify reads"):
        ORACLES["sparsify"].encode(folder, made.rows(2))
    libraries.learned(tmp_path / "learned", "AutoEncoder")
    (tmp_path / "learned" / "config.json").write_text('{"trainer": {"dict_class": "IdentityDict"}}')
    with pytest.raises(ConfigError, match="dict_class: found 'IdentityDict'"):
        ORACLES["dictionary_learning"].encode(tmp_path / "learned", made.rows(2))


class Opens:
    """Pickled, it would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_runs_none(tmp_path: Path) -> None:
    libraries.learned(tmp_path / "source", "AutoEncoder")
    torch.save({"encoder.weight": Opens(tmp_path / "opened")}, tmp_path / "source" / "ae.pt")
    with pytest.raises(ConfigError, match="expected a dictionary that dictionary_learning reads"):
        ORACLES["dictionary_learning"].encode(tmp_path / "source", made.rows(2))
    assert not (tmp_path / "opened").exists()


def test_a_library_that_is_not_there_or_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"not installed, expected it, to compare with. .*: pip install eai-sparsify"):
        replace(ORACLES["sparsify"], module="sparsify_of_nobody").check()
    monkeypatch.setattr(limits, "ORACLE_S", 0.05)
    with pytest.raises(ConfigError, match=r"found no answer for 0.05 s"):
        ORACLES["dictionary_learning"].encode(tmp_path, made.rows(1))
