"""A model's digests do not depend on its shards or on where its chat template stands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from saewatch.core.fit import ModelFacts
from saewatch.engine import modelfacts
from saewatch.engine.modelfacts import model_facts
from tests.engine.standin import MODEL


def facts(folder: Path) -> ModelFacts:
    return model_facts(folder, architecture="LlamaForCausalLM", d_model=128, layers=4)


def test_shards_do_not_matter(tmp_path: Path) -> None:
    tensors = load_file(MODEL / "model.safetensors")
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:5]}, tmp_path / "a.safetensors")
    save_file({name: tensors[name] for name in names[5:]}, tmp_path / "b.safetensors")
    assert facts(tmp_path).weights == facts(MODEL).weights != ""


def test_one_changed_weight_does(tmp_path: Path) -> None:
    tensors = load_file(MODEL / "model.safetensors")
    first = tensors[min(tensors)]
    first.view(-1)[0] += 1
    save_file(tensors, tmp_path / "a.safetensors")
    assert facts(tmp_path).weights != facts(MODEL).weights


@pytest.mark.parametrize("content", ["{", "[]", '"text"', '{"chat_template": 7}'])
def test_a_file_that_cannot_be_read_is_not_known(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(content)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    assert (facts(tmp_path).chat_template, facts(tmp_path).weights) == ("", "")


def test_the_template_counts_wherever_it_stands(tmp_path: Path) -> None:
    template = (MODEL / "chat_template.jinja").read_text()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert facts(tmp_path).chat_template == facts(MODEL).chat_template != ""


def test_what_is_not_there_is_left_empty(tmp_path: Path) -> None:
    found = facts(tmp_path / "nothing")
    assert (found.weights, found.tokenizer, found.chat_template) == ("", "", "")


def test_a_model_that_is_too_large_is_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(MODEL / "model.safetensors", tmp_path)
    assert facts(tmp_path).weights
    monkeypatch.setattr(modelfacts, "WEIGHT_BYTES", 1000)
    assert facts(tmp_path).weights == ""
