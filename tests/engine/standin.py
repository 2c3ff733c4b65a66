"""A stand-in engine for tests of the tap: four blocks of the fixture's width, and its dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from saewatch.core.fit import ModelFacts
from saewatch.core.hookpoint import HookPoint
from saewatch.core.tapconfig import DictionaryUse, TapConfig
from saewatch.engine.ledger import NewRequest
from saewatch.engine.modelfacts import model_facts
from saewatch.engine.staging import Rows
from saewatch.engine.watched import Engine

FIXTURE = Path(__file__).resolve().parents[1] / "fixture"
BUNDLE, MODEL = FIXTURE / "bundle", FIXTURE / "model"
WIDTH, ROWS = 128, 64


class Block(nn.Module):
    """Returns a pair that is not yet added, as vLLM's blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, 2.0 * x


class Blocks:
    """Finds blocks by hook point, and runs them."""

    def __init__(self) -> None:
        self.blocks = [Block() for _ in range(4)]

    def __call__(self, point: HookPoint) -> nn.Module:
        return self.blocks[point.layer]

    def run(self, x: torch.Tensor) -> None:
        for block in self.blocks:
            block(x)


def an_engine(**changes: Any) -> Engine:
    facts = model_facts(MODEL, architecture="LlamaForCausalLM", d_model=WIDTH, layers=4)
    known: dict[str, Any] = {"instance": "i", "epoch": 7, "model_name": "m", "facts": facts, "rows": ROWS}
    return Engine(**{**known, **changes})


def other_facts(width: int) -> ModelFacts:
    return ModelFacts(architecture="LlamaForCausalLM", d_model=width, layers=4)


def a_config(folder: Path, **changes: Any) -> TapConfig:
    use = DictionaryUse(path=str(BUNDLE), census=changes.pop("census", 0.0))
    return TapConfig(**{"socket": str(folder / "s"), "dictionaries": (use,), **changes})


def hidden(rows: int, seed: int = 0) -> torch.Tensor:
    """A third of what the hook point will hold."""
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)) * 0.5


def rows_of(**requests: tuple[int, int]) -> Rows:
    """Requests by name: first position and rows."""
    counts = [count for _, count in requests.values()]
    positions = [torch.arange(first, first + count) for first, count in requests.values()]
    return Rows(
        order=list(requests),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        positions=torch.cat(positions),
        tokens=torch.full((sum(counts),), 500),
    )


def a_step(rows: Rows, *, new: bool = True) -> dict[str, Any]:
    """Arguments of `Tap.step` for prompts that are computed at once."""
    counts = np.diff(rows.starts).tolist()
    return {
        "time_ns": 1,
        "new": [NewRequest(engine_id=n, prompt_len=c, computed=0) for n, c in zip(rows.order, counts, strict=True)]
        if new
        else [],
        "finished": (),
        "computed": dict(zip(rows.order, counts, strict=True)),
        "emitted": {name: [7] for name in rows.order},
    }
