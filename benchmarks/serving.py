"""The engine of `bench_serving`, in a process of its own: blocks of the same requests, arm after arm in random order.

    python -m benchmarks.serving LOAD OUT

``LOAD`` is a `Load` as JSON; ``OUT`` gets the blocks, round by round. Each block sends the same prompts, samples
greedily and finds the same beginnings in the prefix cache, or none: the same work with the same answers. Between two
blocks the engine is idle until everything that the tap had to send was acknowledged, and for a while in any case, the
same for every arm.

vLLM runs in this process, on as many threads as it is told: a server leaves one core to its scheduler. On every core
the shipper and the sidecar take their time from the model, and nothing of what they do is hidden.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from vllm import LLM, SamplingParams

from benchmarks.blocks import SEEN, Block, Load
from benchmarks.paired import rounds

PAUSE_S = 0.35
"""Between two blocks: the last acknowledgement takes most of it."""
SETTLED_S = 10.0
"""For what a block left to send; longer, and its books say what is missing."""
WARM_BLOCKS = 1
"""Of each arm, before the first that counts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all rounds."""
    load_path, out = argv or sys.argv[1:]
    load = Load(**json.loads(Path(load_path).read_text()))
    Path(out).write_text(json.dumps(run(load)))
    return 0


def run(load: Load) -> dict[str, Any]:
    """Boots the engine, runs every block, and closes it."""
    serving = Serving(load)
    for arm in [*load.arms] * WARM_BLOCKS:
        serving.forget()
        serving.block(arm)
    serving.answers.clear()  # computed in whole, which rounds otherwise than behind a cached prefix
    gc.collect()
    gc.freeze()  # as vLLM's server does: a collection would walk through all that was imported
    found = [[asdict(serving.block(arm)) for arm in order] for order in rounds(load.arms, load.rounds, seed=load.seed)]
    serving.close()
    return {"rounds": found}


class Serving:
    """One engine with two graphs, and the answers that each block must give."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._engine = _engine(load).llm_engine
        self._worker = self._engine.model_executor.driver_worker.worker
        self._sampling = SamplingParams(temperature=0.0, max_tokens=load.tokens, ignore_eos=True, detokenize=False)
        self.answers: dict[int, list[int]] = {}
        self._sent = 0

    def block(self, arm: str) -> Block:
        """One block of ``arm``."""
        self._worker.choose(arm)
        books, calls, spent = self._worker.books(), self._worker.calls(), self._worker.spent()
        steps, answers = self._serve()
        self._settle(books.fed + (self._load.fed if arm in SEEN else 0))
        self.answers = self.answers or answers
        after, spent_after = self._worker.books(), self._worker.spent()
        return Block(
            arm=arm,
            steps=steps,
            mismatched=sum(answers[index] != tokens for index, tokens in self.answers.items()),
            calls=self._worker.calls() - calls,
            fed=after.fed - books.fed,
            encoded=after.encoded - books.encoded,
            reused=after.reused - books.reused,
            missed=_added(books.missed, after.missed),
            firings=after.firings - books.firings,
            spent={part: spent_after[part] - before for part, before in spent.items()},
        )

    def forget(self) -> None:
        """Empties the prefix cache: what the next block computes of its prompts, a tap that is told of it keeps."""
        self._engine.reset_prefix_cache()

    def close(self) -> None:
        """Ends the engine, and with it the tap."""
        self._engine.engine_core.shutdown()

    def _serve(self) -> tuple[list[float], dict[int, list[int]]]:
        """Seconds of each step, and the answers by the prompt's index."""
        prompts = self._load.prompts
        first, self._sent = self._sent, self._sent + len(prompts)
        for index, ids in enumerate(prompts):
            self._engine.add_request(str(first + index), {"prompt_token_ids": list(ids)}, self._sampling)
        ends, outputs = [time.perf_counter()], []
        while self._engine.has_unfinished_requests():
            outputs += self._engine.step()
            ends.append(time.perf_counter())
        self._engine.step()  # tells the worker, and the tap, which requests have ended
        answers = {int(one.request_id) - first: list(one.outputs[0].token_ids) for one in outputs if one.finished}
        return np.diff(ends).tolist(), answers

    def _settle(self, fed: int) -> None:
        """Until all that was fed is acknowledged or missed."""
        time.sleep(PAUSE_S)
        deadline = time.monotonic() + SETTLED_S
        while (books := self._worker.books()).fed < fed or books.in_flight:
            if time.monotonic() > deadline:
                return
            time.sleep(PAUSE_S / 10)


def _engine(load: Load) -> LLM:
    tap = {"socket": load.socket, "dictionaries": [{"path": load.bundle, "census": 1.0}]}
    arguments: dict[str, Any] = {
        "model": load.model,
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "max_model_len": 512,
        "max_num_batched_tokens": 512,
        "max_num_seqs": len(load.prompts),
        "enable_prefix_caching": load.shared > 0,
        "async_scheduling": False,
        "worker_cls": "benchmarks.two_graphs.TwoGraphs",
        "additional_config": {"saewatch": tap},
    }
    return LLM(**arguments, **load.arguments)


def _added(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {reason: added for reason, tokens in after.items() if (added := tokens - before.get(reason, 0))}


if __name__ == "__main__":
    sys.exit(main())
