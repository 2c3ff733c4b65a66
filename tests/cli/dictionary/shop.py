"""A store for the verbs on it, and the questions that tests ask it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLOT = "demo/resid_post.1"


@dataclass(frozen=True)
class Shop:
    """The store's folder, and two stored bundles by digest."""

    root: Path
    old: str
    new: str
    ask: Callable[..., tuple[int, Any]]
    """(words after ``dictionary``) -> exit code, and what was printed as JSON."""

    def promote(self, bundle: str, expect: str, *words: str, ref: str = "stable") -> tuple[int, Any]:
        """By ada, because."""
        told = ["--bundle", bundle, "--ref", ref, "--expect", expect, "--actor", "ada", "--reason", "because"]
        return self.ask("promote", SLOT, *told, *words)
