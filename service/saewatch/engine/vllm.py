"""The tap in a vLLM worker. The only file that imports vllm; every private seam of it that we use is named here.

Switched on by ``--worker-cls saewatch.engine.vllm.TapWorker`` and the section ``saewatch`` of ``--additional-config``.
The worker class is built on the platform's own, so that an import error stops the engine instead of being logged and
forgotten. What the tap adds to the graph is part of vLLM's compile-cache key, and nothing else of its configuration is:
no graph without the sinks, or with others, is ever loaded, and another dictionary on the same hook point compiles
nothing anew.

======================================  =======================================================================
seam                                    used for
======================================  =======================================================================
``Worker.load_model``                   attach the sinks: after the weights, before the first forward
``Worker.compile_or_warm_up_model``     the proof; from here on steps are real (warm-up passes do not count)
``Worker.execute_model``                requests' lifecycle before, the step's rows after
``Worker.sample_tokens``                which tokens were emitted, at once or when the engine fetches them
``Worker.execute_dummy_batch``          a forward pass for the proof, where ranks are compared or nothing warmed up
``Worker.sleep``, ``wake_up``,          the model's weights go, come back or change (life.py)
``reload_weights``, ``reset_weights``
``Worker.shutdown``                     the last books
``VllmConfig.additional_config``        our section, and then our part of the compile cache's key
``SchedulerOutput`` (runners.py)        which requests begin, end and go on
`RunnerView` (runners.py)               the runner's row order and its device positions; one subclass a runner
`Places` (families.py)                  the modules of the model that hold the hook points
``get_tp_group``, ``get_pp_group``      which rank this is, and what the ranks of a stage say to each other at start
======================================  =======================================================================

At start everything that is not known is refused, unless ``on_failure: serve``: then the engine serves and is *blind*.
After start nothing here raises into the engine.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm.distributed.parallel_state import get_pp_group, get_tp_group
from vllm.platforms import current_platform
from vllm.v1.outputs import AsyncModelRunnerOutput

from saewatch import __version__
from saewatch.core import hookpoint, tapconfig
from saewatch.core.errors import ConfigError, UnsupportedMode, UnsupportedVersion, code_of
from saewatch.core.fit import ModelFacts
from saewatch.engine import modes
from saewatch.engine.dictionary_file import load_manifest
from saewatch.engine.families import Places
from saewatch.engine.life import CHANGED, RELOAD, Checkpoint, Life
from saewatch.engine.modelfacts import model_facts
from saewatch.engine.ranks import Echo, Ranks
from saewatch.engine.runners import RunnerView, emitted_in, facts_of, view_of
from saewatch.engine.sink import Sinks, hang
from saewatch.engine.tap import Begun, Tap
from saewatch.engine.watched import Engine, open_sinks, sinks_of

logger = logging.getLogger("vllm.saewatch")  # below vLLM's own logger, so that its handlers and levels apply

VERSIONS: Mapping[str, str] = {
    "0.32.0": "both runners; which families how far is in docs/limits.md",
    "0.31.0": "runner V1, Llama; GPT-NeoX and Phi are refused, which it runs by code of its own",
}
"""Versions of vLLM whose seams were tested, and with what."""

WORKERS: Mapping[str, str] = {
    "cpu": "vllm.v1.worker.cpu_worker:CPUWorker",
    "cuda": "vllm.v1.worker.gpu_worker:Worker",
}
"""The platform's own worker class, by device type."""

GRAPH_VERSION = 2
"""Raised whenever the sink's operator or hooks change, so that graphs that were compiled before are not loaded."""


def _platform_worker() -> Any:
    name = WORKERS.get(current_platform.device_type)
    if name is None:
        found, expected = current_platform.device_type, f"one of {', '.join(WORKERS)}"
        raise UnsupportedMode("vllm platform", found=found, expected=expected)
    return pkgutil.resolve_name(name)


class TapWorker(_platform_worker()):  # type: ignore[misc]  # the base is chosen at run time
    """The platform's worker, watched."""

    saewatch: Watch | Echo | None = None
    saewatch_life = Life(None)

    def load_model(self, **kwargs: Any) -> None:
        """Loads the model, then attaches the tap."""
        super().load_model(**kwargs)
        self.saewatch = open_watch(self)
        self.saewatch_life = Life(self.saewatch)

    def compile_or_warm_up_model(self) -> Any:
        """Compiles and warms up, then proves the tap; what ran until here is not reported."""
        result = super().compile_or_warm_up_model()
        if self.saewatch is not None:
            self.saewatch.prove()
        return result

    def execute_model(self, scheduler_output: Any) -> Any:
        """One forward pass."""
        if self.saewatch is not None:
            self.saewatch.before_forward()
        output = super().execute_model(scheduler_output)
        if self.saewatch is not None:
            self.saewatch.after_forward(scheduler_output, sampling=output is None)
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Samples the step's tokens."""
        output = super().sample_tokens(grammar_output)
        return output if self.saewatch is None else self.saewatch.after_sampling(output)

    def sleep(self, level: int = 1) -> None:
        """Gives memory back."""
        self.saewatch_life.sleeps(level)
        super().sleep(level)

    def wake_up(self, tags: list[str] | None = None) -> None:
        """Takes memory again."""
        super().wake_up(tags)
        self.saewatch_life.wakes(tags)

    def reload_weights(self, *args: Any, **kwargs: Any) -> None:
        """Reads the weights anew, or others."""
        self.saewatch_life.changes(RELOAD)
        super().reload_weights(*args, **kwargs)
        self.saewatch_life.reloads(args, kwargs)

    def reset_weights(self) -> None:
        """Makes all of them 0. vLLM 0.31 has no such method."""
        self.saewatch_life.changes(CHANGED)
        super().reset_weights()

    def shutdown(self) -> None:
        """Sends the last books."""
        if self.saewatch is not None:
            self.saewatch.close()
        super().shutdown()


def open_watch(worker: Any) -> Watch | Echo | None:
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
    config = replace(config, slots=max(config.slots, worker.vllm_config.max_concurrent_batches + 1))
    ranks = ranks_of(worker)
    instance, unknown = instance_of(config, ranks), ModelFacts(architecture="", d_model=0, layers=0)
    engine = Engine(instance=instance, epoch=time.time_ns(), model_name="", facts=unknown, rows=1, ranks=ranks)
    try:
        engine = describe(worker, config, ranks)
        check_supported(worker)
        places = places_of(worker)
        found = _opened(worker, owned(config, places), engine, places)
    except Exception as error:  # on_failure: serve means whatever it was
        reason = _to_serve_blind(config, error)
        blind = Tap.blind(config, engine, reason) if ranks.reports else None
        found = Watch(worker, blind, None, ranks) if blind else Echo(worker, ranks, {})
    key_graph(worker, found.sinks)
    return found


def _opened(worker: Any, config: tapconfig.TapConfig, engine: Engine, places: Places) -> Watch | Echo:
    """With its sinks on the model."""
    if engine.ranks.reports and config.dictionaries:
        view = view_of(worker.model_runner)  # before anything hangs on the model
        return Watch(worker, Tap.open(config, engine, places), view, engine.ranks)
    sinks = open_sinks(config, engine, places)
    hang(sinks)
    return Echo(worker, engine.ranks, sinks)


def owned(config: tapconfig.TapConfig, places: Places) -> tapconfig.TapConfig:
    """``config`` with the dictionaries whose block this stage of the pipeline runs; each has one that does."""
    kept = [use for use in config.dictionaries if places.has(hookpoint.parse(load_manifest(Path(use.path)).hook_point))]
    return replace(config, dictionaries=tuple(kept))


def ranks_of(worker: Any) -> Ranks:
    """Where ``worker`` stands among the ranks of its engine."""
    parallel = worker.vllm_config.parallel_config
    if parallel.tensor_parallel_size * parallel.pipeline_parallel_size == 1:
        return Ranks(dp=parallel.data_parallel_index)
    stages, ranks = get_pp_group(), get_tp_group()

    def gather(mine: Any) -> list[Any]:
        found = [None] * ranks.world_size
        torch.distributed.all_gather_object(found, mine, group=ranks.cpu_group)
        return found

    return Ranks(
        dp=parallel.data_parallel_index,
        pp=stages.rank_in_group,
        tp=ranks.rank_in_group,
        parallel=True,
        samples=stages.is_last_rank,
        gather=gather,
    )


def places_of(worker: Any) -> Places:
    """The hook points of the loaded model. UnsupportedMode for a family that is not known."""
    model, loaded = worker.model_config, worker.get_model()
    if not type(loaded).__module__.startswith("vllm.model_executor.models."):
        found = f"{type(loaded).__qualname__} of {type(loaded).__module__}"
        raise UnsupportedMode("model class", found=found, expected="one of vLLM's own: others may go by the same name")
    like = torch.empty(0, dtype=model.dtype, device=worker.device)
    return Places(loaded, architecture=model.architectures[0], config=model.hf_text_config, like=like)


def key_graph(worker: Any, sinks: Sinks) -> None:
    """Puts what the tap adds to the graph, and only that, into vLLM's compile-cache key.

    The key hashes ``additional_config``, and is asked for at the first forward pass. Hook points stand in the
    dictionaries and not in our section, so the section alone would load a graph with other sinks.
    """
    parts = {str(point): sink.key(place.site) for point, (place, sink) in sinks.items()}
    other = worker.vllm_config.additional_config
    worker.vllm_config.additional_config = {
        **other,
        tapconfig.SECTION: {"graph_version": GRAPH_VERSION, "sinks": sorted(parts.items())},
    }


def _to_serve_blind(config: tapconfig.TapConfig, error: Exception) -> str:
    """Why an engine that was told to serve serves blind, in a word; raises ``error`` in another one."""
    if config.on_failure != "serve":
        raise error
    logger.critical("saewatch: BLIND, this engine serves unwatched: %s", error, exc_info=error)
    return code_of(error, "start_fault")


class Watch:
    """Carries one worker's steps to the tap. Its methods never raise into the engine after `prove`."""

    def __init__(self, worker: Any, tap: Tap, view: RunnerView | None, ranks: Ranks | None = None) -> None:
        self._worker = worker
        self._view = view
        self._serving = False
        self._ranks = ranks or Ranks()
        self._begun: Begun | None = None  # the step whose tokens are to be sampled next
        self.tap = tap
        self.sinks = sinks_of(tap.watched)

    def prove(self) -> None:
        """Shows that the tap sees what it should, and starts reporting. Raises `SelfTestFailed`."""
        try:
            if self._ranks.parallel or not self.tap.fired:  # an eager engine does not warm up
                self._worker.execute_dummy_batch()
            self._ranks.agree(self.sinks)
            self.tap.prove()
        except Exception as error:  # on_failure: serve means whatever it was
            self.tap.disable(_to_serve_blind(self.tap.config, error))
        self.tap.start()
        self._serving = True

    def before_forward(self) -> None:
        """A forward pass is about to be enqueued."""
        if self._serving:
            try:
                self.tap.enter()
            except Exception as error:  # fail open: whatever goes wrong in here, the engine serves on
                self._fault(error)

    def after_forward(self, scheduled: Any, *, sampling: bool) -> None:
        """The rows of the forward pass that has just been enqueued; ``sampling``: `after_sampling` will follow."""
        if not self._serving:
            return
        try:
            facts = facts_of(scheduled, model_len=self._worker.model_config.max_model_len)
            try:
                if scheduled.total_num_scheduled_tokens and self._view is not None:
                    self.tap.snapshot(self._view.rows)
            except Exception as error:  # the step has lost its rows, and is counted all the same
                self._fault(error)
            if sampling:
                self._begun = self.tap.begin(**facts)
            else:
                self.tap.step(emitted={}, **facts)
        except Exception as error:  # fail open: whatever goes wrong in here, the engine serves on
            self._fault(error)

    def after_sampling(self, output: Any) -> Any:
        """Learns what the step emitted, now or when the engine fetches it; returns the output to hand on."""
        begun, self._begun = self._begun, None
        if begun is None:
            return output
        if isinstance(output, AsyncModelRunnerOutput) and self._ranks.samples:
            return Fetched(output, lambda fetched: self._learn(begun, fetched))
        self._learn(begun, output)
        return output

    def pause(self, reason: str) -> None:
        """Nothing is seen from here on, until `again`: the model's weights go away, or change."""
        logger.warning("saewatch: BLIND for now: %s", reason)
        self.tap.pause(reason)

    def again(self, ending: str, *, reloaded: bool) -> None:
        """The weights are there: shows that the tap sees them, and begins anew. Blind after all where it does not."""
        try:
            calls = self.tap.calls
            self._worker.execute_dummy_batch()
            self._ranks.agree(self.sinks)
            found = Checkpoint.of(self._worker.vllm_config) if reloaded else None
            self.tap.again(ending, since=calls, reloaded=found)
        except Exception as error:  # fail open: whatever goes wrong in here, the engine serves on
            logger.critical("saewatch: BLIND, not verified after a %s: %s", ending, error, exc_info=error)
            self.tap.pause(code_of(error))

    def close(self) -> None:
        """Sends the last books."""
        self.tap.close()

    def _learn(self, begun: Begun, output: Any) -> None:
        """``output``: the step's `ModelRunnerOutput`; None of a step that failed. On whichever thread it is fetched."""
        try:
            self.tap.ship(begun, emitted_in(output) if self._ranks.samples else None)
        except Exception as error:  # fail open: whatever goes wrong in here, the engine serves on
            self._fault(error, begun)

    def _fault(self, error: Exception, lost: Begun | None = None) -> None:
        """``lost``: a step whose tokens cannot be read. Those that wait behind it are counted all the same."""
        self.tap.fail(error)
        if lost is not None:
            self.tap.ship(lost, {})


class Fetched(AsyncModelRunnerOutput):
    """An output whose tokens are still on their way to the host; ``learn`` is called with them."""

    def __init__(self, inner: AsyncModelRunnerOutput, learn: Callable[[Any], None]) -> None:
        self._inner = inner
        self._learn = learn

    def get_output(self) -> Any:
        """The engine fetches it, once, on a thread of its choice."""
        output = None
        try:
            output = self._inner.get_output()
        finally:
            self._learn(output)
        return output


def check_supported(worker: Any) -> None:
    """Refuses versions and modes that were not tested, by name."""
    if vllm.__version__.split("+")[0] not in VERSIONS:
        hint = "Install a tested version, or set on_failure: serve to run unwatched."
        raise UnsupportedVersion("vllm version", found=vllm.__version__, expected=" or ".join(VERSIONS), hint=hint)
    modes.check_seams(TapWorker.__mro__[1], VERSIONS)
    modes.refuse(worker.vllm_config)


def instance_of(config: tapconfig.TapConfig, ranks: Ranks) -> str:
    """The engine's name in the deployment."""
    return ranks.named(config.instance or f"{socket.gethostname()}:{os.getpid()}")


def describe(worker: Any, config: tapconfig.TapConfig, ranks: Ranks) -> Engine:
    """What is known of the engine and its model."""
    model = worker.model_config
    served = model.served_model_name
    scheduler, cache = worker.vllm_config.scheduler_config, worker.vllm_config.cache_config
    return Engine(
        instance=instance_of(config, ranks),
        epoch=time.time_ns(),
        model_name=served if isinstance(served, str) else served[0],
        facts=model_facts(
            Path(model.model),
            architecture=model.architectures[0],
            d_model=model.get_hidden_size(),
            layers=model.hf_text_config.num_hidden_layers,
        ),
        rows=max(scheduler.max_num_batched_tokens, scheduler.max_num_seqs),
        block=cache.block_size if cache.enable_prefix_caching and not worker.vllm_config.kv_transfer_config else 0,
        checkpoint=Checkpoint.of(worker.vllm_config),
        quantisation=str(model.quantization or ""),
        ranks=ranks,
        versions={"saewatch": __version__, "vllm": vllm.__version__, "torch": torch.__version__},
    )
