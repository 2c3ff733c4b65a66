"""What the folder of a model says of it: read without torch, so that a dictionary can be compared before serving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saewatch.core import limits
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.fit import ModelFacts
from saewatch.engine.modelfacts import model_facts

CONFIG = "config.json"


def facts_at(path: Path, *, digests: bool) -> ModelFacts:
    """Facts of the model in the folder ``path``, or of the ``config.json`` that it names.

    Args:
        path: a folder in transformers' form, or its configuration.
        digests: also read the weights, tokenizer and chat template beside it, as an engine does when it starts.

    Raises:
        UnreachableError: there is no such file.
        ConfigError: it is no model's configuration.
    """
    file = path / CONFIG if path.is_dir() else path
    config = _read(file)
    text = config.get("text_config", config)  # of a model that also sees pictures
    try:
        architecture = str(config["architectures"][0])
        d_model = int(text["n_embd" if "n_embd" in text else "hidden_size"])  # GPT-2 has names of its own
        layers = int(text["n_layer" if "n_layer" in text else "num_hidden_layers"])
    except (LookupError, TypeError, ValueError) as error:
        expected = "architectures, hidden_size and num_hidden_layers"
        raise ConfigError(str(file), found=f"no {error}", expected=expected, hint="Name the model's folder.") from error
    if not digests:
        return ModelFacts(architecture=architecture, d_model=d_model, layers=layers)
    return model_facts(file.parent, architecture=architecture, d_model=d_model, layers=layers)


def _read(file: Path) -> Any:
    try:
        with file.open("rb") as opened:
            data = opened.read(limits.MIB + 1)
    except OSError as error:
        hint = "Name the model's folder or its config.json. A name on a hub is not fetched."
        raise UnreachableError(
            str(file), found=error.strerror, expected="a file that can be read", hint=hint
        ) from error
    try:
        found = json.loads(data) if len(data) <= limits.MIB else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("text_config", {}), dict):
        raise ConfigError(str(file), found="something else", expected="a model's config.json", hint="Name its folder.")
    return found
