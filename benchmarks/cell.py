"""One engine in a process of its own: `cells` starts it, and listens to its tap.

    python -m benchmarks.cell SPEC OUT

``SPEC`` is a `Spec` as JSON; ``OUT`` gets the answers and what the engine was. vLLM runs in this process, on token ids,
greedily. Nothing of transformers may be compared here: vLLM changes its classes for the models that it runs with them.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams

from benchmarks import ahead, forced, scenarios
from benchmarks.interpreted import driver
from benchmarks.spec import Spec, Watch

ROWS_A_STEP = 256
EVERY_FIRING = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cell; 0 when it ran, whatever it found."""
    spec_path, out = argv or sys.argv[1:]
    found = json.loads(Path(spec_path).read_text())
    watch = tuple(Watch(**one) for one in found.pop("watch", ()))
    spec = Spec(**found, watch=watch)
    Path(out).write_text(json.dumps(run(spec)))
    return 0


def run(spec: Spec) -> dict[str, Any]:
    """Boots the engine, sends the load, and closes it."""
    kept = forced.force() if spec.mode == "forced" else None
    if spec.ahead:
        ahead.allow()
    if "TRITON_INTERPRET" in os.environ:
        driver.mend()
    counted = scenarios.count()
    engine = _engine(spec)
    executor = engine.llm_engine.model_executor
    runner = executor.driver_worker.worker.model_runner if hasattr(executor, "driver_worker") else executor
    found: dict[str, Any]
    if spec.scenarios:
        told = scenarios.play(engine, spec.scenarios, spec.adapters, counted)
        found = {"told": {name: {key: asdict(one) for key, one in requests.items()} for name, requests in told.items()}}
    else:
        answers = _serve(engine, spec)
        found = {
            "prompts": {name: prompt for name, (prompt, _) in answers.items()},
            "tokens": {name: tokens for name, (_, tokens) in answers.items()},
        }
    engine.llm_engine.engine_core.shutdown()
    del kept
    return {
        "runner": f"{type(runner).__module__}.{type(runner).__qualname__}",
        "mode": engine.llm_engine.vllm_config.compilation_config.mode.name,
        "counted": counted,
        "ahead": bool(engine.llm_engine.vllm_config.scheduler_config.async_scheduling),
        **found,
    }


def _engine(spec: Spec) -> Any:
    arguments: dict[str, Any] = {
        "model": spec.model,
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "max_model_len": 512,
        "max_num_batched_tokens": ROWS_A_STEP,
        "async_scheduling": spec.ahead,
        "enforce_eager": spec.mode == "eager",
        **spec.arguments,
    }
    if spec.mode == "forced":
        arguments["compilation_config"] = forced.COMPILATION
    if spec.watch:
        uses = [{"path": one.bundle} for one in spec.watch]
        tap = {"socket": spec.socket, "dictionaries": uses, "firings_per_token": EVERY_FIRING}
        worker = "benchmarks.planted.PlantedWorker" if spec.mutant else "saewatch.engine.vllm.TapWorker"
        os.environ["SAEWATCH_MUTANT"] = spec.mutant
        arguments |= {"worker_cls": worker, "additional_config": {"saewatch": tap}}
    return LLM(**arguments)


def _serve(engine: Any, spec: Spec) -> dict[str, tuple[list[int], list[int]]]:
    """Two waves: many requests at once, then prompts that begin as some of them. Prompt and answer by id.

    One of these ends as another one and begins otherwise: a block of tokens says nothing without those before it.
    """
    chance = random.Random(0)
    vocabulary = engine.llm_engine.model_config.get_vocab_size()
    prompts = [_prompt(chance, vocabulary, chance.randint(1, 140)) for _ in range(spec.requests - 1)]
    long = _prompt(chance, vocabulary, 300)
    other = [*_prompt(chance, vocabulary, 128), *long[128:]]
    answers: dict[str, tuple[list[int], list[int]]] = {}
    for wave in ([*prompts, long, other], [long, [*long[:200], *prompts[0]], other]):
        sampling = [
            SamplingParams(temperature=0.0, max_tokens=chance.randint(1, spec.tokens_max), detokenize=False)
            for _ in wave
        ]
        for output in engine.generate([{"prompt_token_ids": ids} for ids in wave], sampling, use_tqdm=False):
            answers[output.request_id] = (list(output.prompt_token_ids), list(output.outputs[0].token_ids))
    return answers


def _prompt(chance: random.Random, vocabulary: int, length: int) -> list[int]:
    return [chance.randrange(8, vocabulary) for _ in range(length)]


if __name__ == "__main__":
    sys.exit(main())
