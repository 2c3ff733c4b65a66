"""What a model's folder says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.dictionary.convert import read_model
from saewatch.dictionary.model import facts_at
from tests import sidecar

MODEL = Path(__file__).resolve().parents[1] / "fixture" / "model"


def written(folder: Path, **config: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    return file


def test_a_folder_and_its_configuration_say_the_same_as_at_import() -> None:
    expected, _ = read_model(MODEL)
    assert facts_at(MODEL, digests=True) == facts_at(MODEL / "config.json", digests=True) == expected
    assert expected.weights.startswith("sha256:")
    assert facts_at(MODEL, digests=False).weights == ""


def test_gpt2_and_models_that_see_pictures(tmp_path: Path) -> None:
    file = written(tmp_path, architectures=["GPT2LMHeadModel"], n_embd=48, n_layer=7)
    found = facts_at(file, digests=False)
    assert (found.architecture, found.d_model, found.layers) == ("GPT2LMHeadModel", 48, 7)
    text = {"hidden_size": 96, "num_hidden_layers": 3}
    file = written(tmp_path, architectures=["Gemma3ForConditionalGeneration"], text_config=text)
    assert facts_at(file, digests=False).d_model == 96


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"architectures": []}', '{"text_config": 3}', '{"architectures": ["A"], "hidden_size": "x"}'],
)
def test_what_is_no_models_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        facts_at(tmp_path, digests=True)


def test_a_name_on_a_hub_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="not fetched"):
        facts_at(tmp_path / "owner" / "model", digests=False)


def test_it_needs_no_torch() -> None:
    program = f"import sys; from saewatch.dictionary.model import facts_at; from pathlib import Path; \
facts_at(Path({str(MODEL)!r}), digests=True); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=sidecar.ENVIRONMENT, check=True
    )
    assert done.stdout == "False\n"
