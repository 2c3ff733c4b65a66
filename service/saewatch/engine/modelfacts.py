"""What is known of a model from its folder: digests of its weights, tokenizer and chat template.

Both who imports a dictionary and who serves the model compute them here, so that they can be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from saewatch.core.errors import SaewatchError
from saewatch.core.fit import ModelFacts
from saewatch.core.tensorfile import model_digest

WEIGHT_BYTES = 8 * 2**30
"""Larger models are not hashed when an engine starts: it would take longer than some seconds."""


def model_facts(folder: Path, *, architecture: str, d_model: int, layers: int) -> ModelFacts:
    """Facts of the model in ``folder``; what is not there, cannot be read, or is too large to hash is left empty."""
    return ModelFacts(
        architecture=architecture,
        d_model=d_model,
        layers=layers,
        weights=weights_digest(folder),
        tokenizer=_readable(lambda: _file_digest(folder / "tokenizer.json")),
        chat_template=_readable(lambda: _template_digest(folder)),
    )


def weights_digest(folder: Path) -> str:
    """Of the tensors in a model's ``folder``; empty where they cannot be read, or are too many to hash."""
    weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    hashed = 0 < sum(file.stat().st_size for file in weights) <= WEIGHT_BYTES
    return _readable(lambda: model_digest(weights)) if hashed else ""


def _readable(digest: Callable[[], str]) -> str:
    """The digest, or nothing for a file that cannot be read: the engine has an opinion of its own about such files."""
    try:
        return digest()
    except (OSError, ValueError, SaewatchError):
        return ""


def _file_digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else ""


def _template_digest(folder: Path) -> str:
    """Of the template's text, whichever of the two places it stands in."""
    path, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if path.is_file():
        return _file_digest(path)
    found = json.loads(config.read_text()) if config.is_file() else None
    template = found.get("chat_template") if isinstance(found, dict) else None
    return f"sha256:{hashlib.sha256(template.encode()).hexdigest()}" if isinstance(template, str) else ""
