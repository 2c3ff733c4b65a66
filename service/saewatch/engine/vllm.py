"""The tap in a vLLM worker. The only file that imports vllm; every private seam of it that we use is named here.

Switched on by ``--worker-cls saewatch.engine.vllm.TapWorker`` and the section ``saewatch`` of ``--additional-config``.
The worker class is built on the platform's own, so that an import error stops the engine instead of being logged and
forgotten; the configuration is part of vLLM's compile-cache key, so that no graph without the sink is loaded.

======================================  =======================================================================
seam                                    used for
======================================  =======================================================================
``Worker.load_model``                   attach the sinks: after the weights, before the first forward
``Worker.compile_or_warm_up_model``     the proof; from here on steps are real (warm-up passes do not count)
``Worker.execute_model``                requests' lifecycle before, the step's rows after
``Worker.sample_tokens``                which tokens were emitted
``Worker.shutdown``                     the last books
`RunnerView`                            the runner's row order and its device positions; one subclass a runner
======================================  =======================================================================

At start everything that is not known is refused, unless ``on_failure: serve``: then the engine serves and is *blind*.
After start nothing here raises into the engine.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vllm
from torch import nn
from vllm.platforms import current_platform

from saewatch import __version__
from saewatch.core import tapconfig
from saewatch.core.errors import ConfigError, HookPointError, SaewatchError, UnsupportedMode, UnsupportedVersion
from saewatch.core.hookpoint import HookPoint
from saewatch.engine.ledger import NewRequest
from saewatch.engine.modelfacts import model_facts
from saewatch.engine.staging import Rows
from saewatch.engine.tap import Tap
from saewatch.engine.watched import Engine

logger = logging.getLogger("vllm.saewatch")  # below vLLM's own logger, so that its handlers and levels apply

VERSIONS = ("0.32.0",)
"""Versions of vLLM whose seams were tested."""

WORKERS: Mapping[str, str] = {
    "cpu": "vllm.v1.worker.cpu_worker:CPUWorker",
    "cuda": "vllm.v1.worker.gpu_worker:Worker",
}
"""The platform's own worker class, by device type."""

BLOCKS: Mapping[str, str] = {"LlamaForCausalLM": "model.layers"}
"""Architectures whose blocks return ``(hidden_states, residual)``, not yet added, and where the blocks are."""

_CHILD = re.compile(r"(\d{1,9})_")
"""How vLLM names the answers of a request for several; a client without our middleware may choose such a name too."""


class RunnerView:
    """What the tap reads of a model runner after a forward pass."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner

    @staticmethod
    def fits(runner: Any) -> bool:
        """Whether ``runner`` has what this view reads."""
        raise NotImplementedError

    def rows(self) -> Rows:
        """The step's requests, in the order of their rows."""
        raise NotImplementedError


class V1View(RunnerView):
    """Model Runner V1 and its CPU subclass."""

    @staticmethod
    def fits(runner: Any) -> bool:
        """Whether ``runner`` is a V1 runner."""
        return all(hasattr(runner, name) for name in ("input_batch", "query_start_loc", "positions", "input_ids"))

    def rows(self) -> Rows:
        """The step's requests: V1 condenses and reorders its batch, so the scheduler's order is of no use."""
        batch = self.runner.input_batch
        starts = self.runner.query_start_loc.np[: batch.num_reqs + 1].copy()
        count = int(starts[-1])
        return Rows(
            order=list(batch.req_ids[: batch.num_reqs]),
            starts=starts.astype(np.int32),
            positions=self.runner.positions[:count],
            tokens=self.runner.input_ids.gpu[:count],
        )


VIEWS: Sequence[type[RunnerView]] = (V1View,)
"""One row a runner."""


def view_of(runner: Any) -> RunnerView:
    """The view of a model runner; UnsupportedMode for one that is not known."""
    for view in VIEWS:
        if view.fits(runner):
            return view(runner)
    raise UnsupportedMode("model runner", found=type(runner).__name__, expected="a known runner")


def _platform_worker() -> Any:
    name = WORKERS.get(current_platform.device_type)
    if name is None:
        found, expected = current_platform.device_type, f"one of {', '.join(WORKERS)}"
        raise UnsupportedMode("vllm platform", found=found, expected=expected)
    return pkgutil.resolve_name(name)


class TapWorker(_platform_worker()):  # type: ignore[misc]  # the base is chosen at run time
    """The platform's worker, watched."""

    saewatch: Watch | None = None

    def load_model(self, **kwargs: Any) -> None:
        """Loads the model, then attaches the tap."""
        super().load_model(**kwargs)
        self.saewatch = open_watch(self)

    def compile_or_warm_up_model(self) -> Any:
        """Compiles and warms up, then proves the tap; what ran until here is not reported."""
        result = super().compile_or_warm_up_model()
        if self.saewatch is not None:
            self.saewatch.prove()
        return result

    def execute_model(self, scheduler_output: Any) -> Any:
        """One forward pass."""
        output = super().execute_model(scheduler_output)
        if self.saewatch is not None:
            self.saewatch.after_forward(scheduler_output, sampling=output is None)
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Samples the step's tokens."""
        output = super().sample_tokens(grammar_output)
        if self.saewatch is not None:
            self.saewatch.after_sampling(output)
        return output

    def shutdown(self) -> None:
        """Sends the last books."""
        if self.saewatch is not None:
            self.saewatch.tap.close()
        super().shutdown()


def open_watch(worker: Any) -> Watch | None:
    """The watch of ``worker``; None where a broken configuration was to be served all the same, unwatched.

    Raises:
        SaewatchError: something is unknown or does not fit, and ``on_failure`` is ``stop``.
    """
    section = (worker.vllm_config.additional_config or {}).get(tapconfig.SECTION)
    try:
        config = tapconfig.read(section)
    except ConfigError as error:
        if not (isinstance(section, Mapping) and section.get("on_failure") == "serve"):
            raise
        logger.critical("saewatch: NOT WATCHING, this engine serves unwatched: %s", error)
        return None
    engine = describe(worker, config)
    try:
        check_supported(worker)
        view = view_of(worker.model_runner)
        tap = Tap.open(config, engine, Blocks(worker))
        return Watch(worker, tap, view)
    except Exception as error:  # on_failure: serve means whatever it was
        return Watch(worker, Tap.blind(config, engine, _to_serve_blind(config, error)), None)


def _to_serve_blind(config: tapconfig.TapConfig, error: Exception) -> str:
    """Why an engine that was told to serve serves blind, in a word; raises ``error`` in another one."""
    if config.on_failure != "serve":
        raise error
    logger.critical("saewatch: BLIND, this engine serves unwatched: %s", error, exc_info=error)
    return error.code if isinstance(error, SaewatchError) else "start_fault"


class Watch:
    """Carries one worker's steps to the tap. Its methods never raise into the engine after `prove`."""

    def __init__(self, worker: Any, tap: Tap, view: RunnerView | None) -> None:
        self._worker = worker
        self._view = view
        self._serving = False
        self._facts: dict[str, Any] | None = None
        self.tap = tap

    def prove(self) -> None:
        """Shows that the tap sees what it should, and starts reporting. Raises `SelfTestFailed`."""
        try:
            if not self.tap.fired:  # an eager engine does not warm up
                self._worker.execute_dummy_batch()
            self.tap.prove()
        except Exception as error:  # on_failure: serve means whatever it was
            self.tap.disable(_to_serve_blind(self.tap.config, error))
        self.tap.start()
        self._serving = True

    def after_forward(self, scheduled: Any, *, sampling: bool) -> None:
        """The rows of the forward pass that has just been enqueued; ``sampling``: `after_sampling` will follow."""
        if not self._serving:
            return
        try:
            self._facts = facts_of(scheduled)
            if scheduled.total_num_scheduled_tokens and self._view is not None:
                self.tap.snapshot(self._view.rows)
            if not sampling:
                self._finish({})
        except Exception as error:  # fail open: whatever goes wrong in here, the engine serves on
            self._fault(error)

    def after_sampling(self, output: Any) -> None:
        """What the step emitted."""
        if not self._serving or self._facts is None:
            return
        try:
            sampled = output.sampled_token_ids
            self._finish({name: sampled[index] for name, index in output.req_id_to_index.items() if sampled})
        except Exception as error:  # fail open: whatever goes wrong in here, the engine serves on
            self._fault(error)

    def _finish(self, emitted: Mapping[str, Sequence[int]]) -> None:
        facts, self._facts = self._facts, None
        if facts is not None:
            self.tap.step(emitted=emitted, **facts)

    def _fault(self, error: Exception) -> None:
        logger.error("saewatch: the tap failed and is off; this engine serves on, BLIND", exc_info=error)
        self.tap.disable("fault")


def facts_of(scheduled: Any) -> dict[str, Any]:
    """What a `SchedulerOutput` says of a step, as arguments of `Tap.step`."""
    now = time.time_ns()
    cached = scheduled.scheduled_cached_reqs
    before = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    before |= {request.req_id: request.num_computed_tokens for request in scheduled.scheduled_new_reqs}
    resumed = [
        NewRequest(engine_id=name, prompt_len=0, computed=before[name])  # known already: only `computed` counts
        for name in cached.req_ids
        if name in cached.resumed_req_ids
    ]
    return {
        "time_ns": now,
        "new": [*(new_request(request, now) for request in scheduled.scheduled_new_reqs), *resumed],
        "finished": tuple(scheduled.finished_req_ids),
        "computed": {name: before[name] + tokens for name, tokens in scheduled.num_scheduled_tokens.items()},
    }


def new_request(request: Any, now_ns: int) -> NewRequest:
    """A `NewRequestData` in the ledger's words."""
    sampling = request.sampling_params
    stops = {*(sampling.stop_token_ids or ()), sampling.eos_token_id} - {None} if sampling else set()
    child = _CHILD.match(request.req_id)
    return NewRequest(
        engine_id=request.req_id,
        prompt_len=request.prompt_len,
        computed=request.num_computed_tokens,
        stop_tokens=frozenset(stops),
        max_tokens=(sampling.max_tokens if sampling else None) or 2**31 - 1,
        adapter=request.lora_request.lora_name if request.lora_request else "",
        child=int(child[1]) if child else 0,
        time_ns=now_ns,
    )


class Blocks:
    """Finds a model's blocks by its architecture."""

    def __init__(self, worker: Any) -> None:
        name = worker.model_config.architectures[0]
        if name not in BLOCKS:
            raise UnsupportedMode("model architecture", found=name, expected=f"one of {', '.join(sorted(BLOCKS))}")
        self._blocks = worker.get_model().get_submodule(BLOCKS[name])

    def __call__(self, point: HookPoint) -> nn.Module:
        """The block whose output is ``point``. Raises `HookPointError`."""
        if point.point != "resid_post":
            raise HookPointError("hook point", found=str(point), expected="resid_post.<layer>")
        if point.layer >= len(self._blocks):
            expected = f"a layer from 0 to {len(self._blocks) - 1}"
            raise HookPointError("hook point", found=str(point), expected=expected, hint="Layers count from 0.")
        block: nn.Module = self._blocks[point.layer]
        return block


def check_supported(worker: Any) -> None:
    """Refuses versions and modes that were not tested, by name."""
    if vllm.__version__.split("+")[0] not in VERSIONS:
        hint = "Install a tested version, or set on_failure: serve to run unwatched."
        raise UnsupportedVersion("vllm version", found=vllm.__version__, expected=" or ".join(VERSIONS), hint=hint)
    config = worker.vllm_config
    parallel = config.parallel_config
    for name, refused in (
        ("tensor parallelism", parallel.tensor_parallel_size > 1),
        ("pipeline parallelism", parallel.pipeline_parallel_size > 1),
        ("data parallelism", parallel.data_parallel_size > 1),
        ("micro-batching (DBO)", parallel.enable_dbo),
        ("speculative decoding", config.speculative_config is not None),
        ("asynchronous scheduling", bool(config.scheduler_config.async_scheduling)),
        ("a pooling model", config.model_config.runner_type == "pooling"),
        ("an encoder-decoder model", config.model_config.is_encoder_decoder),
        ("multimodal inputs", config.model_config.is_multimodal_model),
        ("prompt embeddings", config.model_config.enable_prompt_embeds),
    ):
        if refused:
            hint = "Switch it off, or set on_failure: serve to run unwatched."
            raise UnsupportedMode("vllm mode", found=name, expected="a mode that was tested", hint=hint)


def describe(worker: Any, config: tapconfig.TapConfig) -> Engine:
    """What is known of the engine and its model."""
    model = worker.model_config
    served = model.served_model_name
    scheduler = worker.vllm_config.scheduler_config
    return Engine(
        instance=config.instance or f"{socket.gethostname()}:{os.getpid()}",
        epoch=time.time_ns(),
        model_name=served if isinstance(served, str) else served[0],
        facts=model_facts(
            Path(model.model),
            architecture=model.architectures[0],
            d_model=model.get_hidden_size(),
            layers=model.hf_text_config.num_hidden_layers,
        ),
        rows=max(scheduler.max_num_batched_tokens, scheduler.max_num_seqs),
        quantisation=str(model.quantization or ""),
        versions={"saewatch": __version__, "vllm": vllm.__version__, "torch": torch.__version__},
    )
