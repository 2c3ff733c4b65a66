"""General English for the dictionary: paragraphs of the Python standard library's own docstrings.

They are read from the running interpreter and never committed (Python Software Foundation licence). Which modules a
Python release has differs a little, so the corpus's digest is stored with what was trained on it.
"""

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

WORDS_MIN, WORDS_MAX = 12, 120
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "encodings", "__pycache__"}


def paragraphs(count: int, *, seed: int) -> list[str]:
    """`count` distinct paragraphs in an order given by `seed`."""
    found = sorted(set(_paragraphs(Path(sysconfig.get_path("stdlib")))))
    random.Random(seed).shuffle(found)
    return found[:count]


def _paragraphs(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(root).parts):
            for docstring in _docstrings(path):
                yield from (text for block in re.split(r"\n\s*\n", docstring) if (text := _prose(block)))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):  # a few files of the library are broken on purpose
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    yield from (text for node in ast.walk(tree) if isinstance(node, documented) and (text := ast.get_docstring(node)))


def _prose(block: str) -> str | None:
    """The block as one line if it is prose of a fair length: no prompts, tables, field lists or bare signatures."""
    text = " ".join(block.split())
    if not WORDS_MIN <= len(text.split()) <= WORDS_MAX or re.search(r">>>|\.\.\. |[|=_-]{3}|^[:@%*]", text):
        return None
    letters = sum(char.isalpha() or char == " " for char in text)
    return text if letters >= 0.85 * len(text) else None
