"""Tables of engine/, read from their source: importing them would import vLLM or torch, which may not be there."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import saewatch

ENGINE = Path(saewatch.__file__).parent / "engine"


def table(module: str, name: str) -> Mapping[str, str]:
    """The table ``name`` of a module of engine/: its keys, and its values where they are text."""
    tree = ast.parse((ENGINE / f"{module}.py").read_text())
    found = next(
        node.value for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name
    )
    assert isinstance(found, ast.Dict), "our tables are written out"
    values = [str(value.value) if isinstance(value, ast.Constant) else "" for value in found.values]
    return dict(zip([ast.literal_eval(key) for key in found.keys if key], values, strict=True))
