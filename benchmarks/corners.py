"""Is the tap right in every corner of the engine? Configurations of vLLM, and the plays that run in each.

One engine a configuration, of a tiny model, runs plays of benchmarks/scenarios.py one after the other. Each request's
firings are compared with transformers and SAELens at the positions that its client knows, what was computed again too.
The books are compared with the answers: a request that came to its own end has fed ``prompt + tokens - 1`` positions,
and one that was cut as many as its client knows, or some that no client ever saw: those are counted.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.beside import DRAFTERS, METHODS, NGRAM, make_adapter
from benchmarks.cells import Bench, Judged
from benchmarks.played import judged
from benchmarks.quantised import quantise
from benchmarks.recorder import Recorder
from benchmarks.spec import Spec, Watch
from benchmarks.tiny import make_tokenizer
from saewatch.core.hookpoint import HookPoint

USUAL = ("mixed", "smallest", "cached", "aborted", "stopped", "several", "full", "repeating", "looping", "again")
"""Plays that every engine can run."""
SHORT = ("aborted", "stopped", "looping")
"""Those of them in which drafts and steps that run ahead matter most: V2's interpreter takes its time on the CPU."""
SMALL = 14
"""KV blocks of a cache that the play *crowded* does not fit into: 8 requests of up to 300 tokens need 24."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corner:
    """One configuration of the engine."""

    says: str
    scenarios: tuple[str, ...] = USUAL
    runner: str = "v1"
    mode: str = "eager"
    ahead: bool = False
    drafter: str = ""  # draft | eagle: a second model, as the speculative configuration's own
    adapters: bool = False
    connector: str = ""  # of KV, to a folder on the disk
    quantised: bool = False
    points: tuple[HookPoint, ...] = (HookPoint("resid_post", 0),)
    everyday: bool = False  # in the everyday tests
    arguments: Mapping[str, Any] = field(default_factory=dict)


CORNERS: Mapping[str, Corner] = {
    "sync": Corner(
        says="one step after the other, a small KV cache",
        scenarios=(*USUAL, "crowded", "strings", "session"),
        everyday=True,
        arguments={"num_gpu_blocks_override": SMALL, "skip_tokenizer_init": False},
    ),
    "sync-v2": Corner(
        says="the same on runner V2",
        scenarios=(*USUAL, "crowded", "session"),
        runner="v2",
        arguments={"num_gpu_blocks_override": SMALL},
    ),
    "async": Corner(
        says="each step is scheduled and run before the tokens of the one before it are fetched",
        scenarios=(*USUAL, "crowded", "strings", "session"),
        runner="v2",
        ahead=True,
        everyday=True,
        arguments={"num_gpu_blocks_override": SMALL, "skip_tokenizer_init": False},
    ),
    "ngram": Corner(
        says="drafts from the text itself",
        scenarios=(*USUAL, "crowded"),
        everyday=True,
        arguments={"speculative_config": NGRAM, "num_gpu_blocks_override": SMALL},
    ),
    "ngram-v2": Corner(
        says="the same on runner V2", scenarios=SHORT, runner="v2", arguments={"speculative_config": NGRAM}
    ),
    "ngram-async": Corner(
        says="drafts from the text itself, made on the device, and steps that run ahead",
        scenarios=SHORT,
        runner="v2",
        ahead=True,
        arguments={"speculative_config": {**NGRAM, "method": "ngram_gpu"}},
    ),
    "draft": Corner(
        says="drafts of a second model",
        drafter="draft",
        arguments={"speculative_config": {"num_speculative_tokens": 3}},
    ),
    "draft-async": Corner(
        says="drafts of a second model, and steps that run ahead",
        scenarios=SHORT,
        runner="v2",
        ahead=True,
        drafter="draft",
        everyday=True,
        arguments={"speculative_config": {"num_speculative_tokens": 3}},
    ),
    "draft-async-full": Corner(
        says="the same, with all that can happen",
        scenarios=(*USUAL, "crowded", "session"),
        runner="v2",
        ahead=True,
        drafter="draft",
        arguments={"speculative_config": {"num_speculative_tokens": 3}, "num_gpu_blocks_override": SMALL},
    ),
    "eagle": Corner(
        says="drafts of an EAGLE head", drafter="eagle", arguments={"speculative_config": {"num_speculative_tokens": 2}}
    ),
    "eagle-async": Corner(
        says="drafts of an EAGLE head, and steps that run ahead",
        scenarios=SHORT,
        runner="v2",
        ahead=True,
        drafter="eagle",
        arguments={"speculative_config": {"num_speculative_tokens": 2}},
    ),
    "tensor": Corner(says="two ranks that hold half of each weight", arguments={"tensor_parallel_size": 2}),
    "tensor-async": Corner(
        says="two such ranks, and steps that run ahead",
        scenarios=SHORT,
        runner="v2",
        ahead=True,
        arguments={"tensor_parallel_size": 2},
    ),
    "pipeline": Corner(
        says="two stages, each with a hook point of its own",
        runner="v2",
        points=(HookPoint("resid_post", 0), HookPoint("resid_post", 1)),
        arguments={"pipeline_parallel_size": 2},
    ),
    "pipeline-first": Corner(
        says="two stages, of which the one that samples has no hook point",
        runner="v2",
        arguments={"pipeline_parallel_size": 2},
    ),
    "lora": Corner(
        says="two adapters and none",
        scenarios=("mixed", "cached", "adapted"),
        adapters=True,
        arguments={"enable_lora": True, "max_loras": 2, "max_lora_rank": 8},
    ),
    "external": Corner(
        says="the KV of prompts that were asked before comes from a connector",
        scenarios=("mixed", "cached"),
        connector="ExampleConnector",
        arguments={
            "enable_prefix_caching": False,
            "max_num_batched_tokens": 512,
        },  # it stores a prompt's first step only
    ),
    "external-cached": Corner(
        says="or from the prefix cache, which cannot tell whether it came from there",
        scenarios=("mixed", "cached"),
        connector="ExampleConnector",
        arguments={"max_num_batched_tokens": 512},
    ),
    "quantised": Corner(
        says="weights of four bits, multiplied out as they are used, in half precision: vLLM's kernel knows no other",
        scenarios=("mixed", "cached", "looping"),
        quantised=True,
        arguments={"dtype": "float16"},
    ),
    "compiled": Corner(says="a compiled graph", mode="default", scenarios=("mixed", "cached", "looping")),
}
"""By their names."""


_MINE = threading.Lock()
"""Held but while the engine's process runs: torch's generator and transformers' defaults are of the whole process."""


def run(name: str, folder: Path, **changes: Any) -> list[dict[str, Any]]:
    """Each play's row in the configuration ``name``. What ``folder`` has of an earlier one is used again.

    Several may run at once, each in a folder of its own.
    """
    corner = CORNERS[name]
    with _MINE:
        bench, watch, settings = _made(name, corner, folder)
    found = bench.run(corner.mode, watch, judge=_judged_alone, **{**settings, **changes})
    rows: list[dict[str, Any]] = found["streams"]
    shared = {name: found[name] for name in ("counted", "ahead", "runner")}
    return [{"corner": name, **row, **shared} for row in rows]


def _made(name: str, corner: Corner, folder: Path) -> tuple[Bench, list[Watch], dict[str, Any]]:
    """All that the engine needs, and what is told it."""
    bench = Bench(folder, "llama", corner.runner)
    make_tokenizer(bench.model)
    if corner.quantised:
        bench.model = quantise(bench.model, folder / "quantised")
    watch = [bench.watch(point, name=f"{point}-quantised" if corner.quantised else "") for point in corner.points]
    adapters = {one: str(make_adapter(bench.model, folder / one, seed)) for seed, one in enumerate(("one", "two"), 1)}
    arguments = dict(corner.arguments)
    if corner.drafter:
        model = DRAFTERS[corner.drafter](bench.model, folder / corner.drafter)
        arguments["speculative_config"] = {"method": METHODS[corner.drafter], "model": str(model)} | arguments[
            "speculative_config"
        ]
    if corner.connector:
        arguments["kv_transfer_config"] = {
            "kv_connector": corner.connector,
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"shared_storage_path": str(folder / f"kv-{name}")},
        }
    settings: dict[str, Any] = {
        "scenarios": corner.scenarios,
        "ahead": corner.ahead,
        "adapters": adapters if corner.adapters else {},
        "arguments": arguments,
    }
    return bench, watch, settings


def _judged_alone(spec: Spec, recorder: Recorder, found: Mapping[str, Any]) -> Judged:
    with _MINE:
        return judged(spec, recorder, found)
