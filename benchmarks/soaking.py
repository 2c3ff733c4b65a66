"""An engine of `bench_soak`, in a process of its own: many requests, some at a time, through a cache that is too small.

    python -m benchmarks.soaking LOAD OUT

``LOAD`` is a `Load` as JSON; ``OUT`` gets what vLLM counted and how the process's memory grew; the answers go to a file
of their own. vLLM runs in this process, and a request is added when another one has ended, so that two engines do the
same steps in the same order whatever the time does. Requests need more blocks than there are: some are preempted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from vllm import LLM, SamplingParams

from benchmarks import ahead
from benchmarks.soakload import Answer, Ask, Load, asks, write_answer

AT_ONCE, BLOCKS, ROWS_A_STEP = 16, 40, 256
"""Requests at a time, blocks of 128 tokens for all of them, and tokens of one step: prompts come in chunks."""
SAMPLES = 200
"""Of the memory, evenly over the requests."""
COUNTED = {
    "vllm:prefix_cache_queries": "queries",
    "vllm:prefix_cache_hits": "hits",
    "vllm:num_preemptions": "preemptions",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the load."""
    load_path, out = argv or sys.argv[1:]
    load = Load(**json.loads(Path(load_path).read_text()))
    if load.asynchronous:
        ahead.allow()
    engine = _engine(load).llm_engine
    with Path(load.answers).open("w") as answers:
        soak = Soak(engine, asks(load.requests, load.seed), answers)
        started = time.monotonic()
        soak.run(every=max(1, load.requests // SAMPLES))
        took = time.monotonic() - started
    counted = {COUNTED[metric.name]: metric.value for metric in engine.get_metrics() if metric.name in COUNTED}
    engine.engine_core.shutdown()
    found = {"aborted": soak.aborted, "steps": soak.steps, "served_s": took, "rss_mb": soak.rss_mb}
    ran = bool(engine.vllm_config.scheduler_config.async_scheduling)
    Path(out).write_text(json.dumps({**counted, **found, "asynchronous": ran}))
    return 0


@dataclass(slots=True)
class Soak:
    """The requests that are open, and what became of the others."""

    engine: Any
    asked: Iterator[Ask]
    answers: TextIO
    open: dict[str, Ask] = field(default_factory=dict)
    ended: int = 0
    aborted: int = 0
    steps: int = 0
    rss_mb: list[tuple[int, float]] = field(default_factory=list)

    def run(self, *, every: int) -> None:
        """Until all are answered. ``every``: requests between two looks at the memory."""
        while self._fill():
            before = self.ended // every
            for output in self.engine.step():
                if output.request_id in self.open:
                    self._output(output)
            self.steps += 1
            if self.ended // every > before:
                self.rss_mb.append((self.ended, _rss_mb()))
        self.engine.step()  # tells the worker, and the tap, which requests have ended

    def _fill(self) -> bool:
        """Adds requests while there is room; whether one is open."""
        while len(self.open) < AT_ONCE and (ask := next(self.asked, None)):
            name = str(self.ended + len(self.open))
            sampling = SamplingParams(temperature=0.0, max_tokens=ask.tokens, detokenize=False)
            self.open[name] = ask
            self.engine.add_request(name, {"prompt_token_ids": list(ask.prompt)}, sampling)
        return bool(self.open)

    def _output(self, output: Any) -> None:
        """One request has gone on: it may have ended, or its client may have left."""
        name, tokens = output.request_id, output.outputs[0].token_ids
        ask = self.open[name]
        left = bool(ask.leaves_after) and len(tokens) >= ask.leaves_after and not output.finished
        if left:
            self.engine.abort_request([name])
        if left or output.finished:
            self.answers.write(write_answer(name, Answer(len(ask.prompt), tokens, left)))
            del self.open[name]
            self.ended += 1
            self.aborted += left


def _engine(load: Load) -> LLM:
    arguments: dict[str, Any] = {}
    if load.socket:
        tap = {"socket": load.socket, "dictionaries": [{"path": load.bundle, "census": 0.01}]}
        arguments = {"worker_cls": "saewatch.engine.vllm.TapWorker", "additional_config": {"saewatch": tap}}
    return LLM(
        model=load.model,
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=768,
        max_num_batched_tokens=ROWS_A_STEP,
        max_num_seqs=AT_ONCE,
        num_gpu_blocks_override=BLOCKS,
        enable_prefix_caching=True,
        async_scheduling=load.asynchronous,
        enforce_eager=load.eager,
        disable_log_stats=False,
        **arguments,
    )


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
