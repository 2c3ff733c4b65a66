"""What `cells` tells the process of a `cell`: read by both, and loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One dictionary: its bundle and source, and where transformers has its hook point."""

    bundle: str
    source: str
    module: str
    side: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One cell."""

    model: str
    mode: str = "default"
    watch: tuple[Watch, ...] = ()  # none: no tap
    socket: str = ""
    requests: int = 16
    tokens_max: int = 12
    mutant: str = ""  # of benchmarks/mutants.py
    scenarios: tuple[str, ...] = ()  # of benchmarks/scenarios.py, in place of the usual load
    adapters: Mapping[str, str] = field(default_factory=dict)  # name and folder of LoRA adapters, for them
    ahead: bool = False  # schedules asynchronously
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of vLLM, further ones
