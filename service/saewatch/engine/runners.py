"""What the tap reads of vLLM's model runner and of its scheduler, by attribute and without importing vLLM.

Which row is whose comes from the runner's own order and from its device positions, never from the scheduler's counters:
both runners sort their batch, and the counters are wrong under asynchronous scheduling with draft tokens.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from saewatch.core.errors import UnsupportedMode
from saewatch.engine.ledger import NewRequest, Repetition
from saewatch.engine.staging import Rows

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
        return _has(runner, "input_batch", "query_start_loc", "positions", "input_ids")

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


class V2View(RunnerView):
    """Model Runner V2 and its CPU subclass. The step's batch exists between ``execute_model`` and ``sample_tokens``."""

    @staticmethod
    def fits(runner: Any) -> bool:
        """Whether ``runner`` is a V2 runner: V1 has an ``execute_model_state`` too, but one batch for all steps."""
        return _has(runner, "execute_model_state", "req_states") and not hasattr(runner, "input_batch")

    def rows(self) -> Rows:
        """The step's requests: V2 sorts them, decodes before prefills."""
        batch = self.runner.execute_model_state.input_batch
        starts = batch.query_start_loc_np[: batch.num_reqs + 1].copy()
        count = int(starts[-1])
        return Rows(
            order=list(batch.req_ids[: batch.num_reqs]),
            starts=starts.astype(np.int32),
            positions=batch.positions[:count],
            tokens=batch.input_ids[:count],
        )


VIEWS: Sequence[type[RunnerView]] = (V1View, V2View)
"""One row a runner."""


def view_of(runner: Any) -> RunnerView:
    """The view of a model runner; UnsupportedMode for one that is not known."""
    for view in VIEWS:
        if view.fits(runner):
            return view(runner)
    found, expected = type(runner).__qualname__, f"a runner that one of {', '.join(v.__name__ for v in VIEWS)} can read"
    raise UnsupportedMode("model runner", found=found, expected=expected)


def _has(runner: Any, *names: str) -> bool:
    return all(hasattr(runner, name) for name in names)


def facts_of(scheduled: Any, *, model_len: int) -> dict[str, Any]:
    """What a `SchedulerOutput` says of a step, as arguments of `Tap.begin`. ``model_len``: no request grows longer.

    With a KV connector nobody says for which of a request's computed positions KV came from elsewhere. What the prefix
    cache knew may have come from there as well, for a request before. So all of them are *external*.
    """
    now, external = time.time_ns(), scheduled.kv_connector_metadata is not None
    cached = scheduled.scheduled_cached_reqs
    before = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    before |= {request.req_id: request.num_computed_tokens for request in scheduled.scheduled_new_reqs}
    resumed = [  # known already: only what was computed counts
        NewRequest(engine_id=name, prompt_len=0, computed=before[name], external=external)
        for name in cached.req_ids
        if name in cached.resumed_req_ids
    ]
    begun = [new_request(request, now, model_len, external=external) for request in scheduled.scheduled_new_reqs]
    return {
        "time_ns": now,
        "new": [*begun, *resumed],
        "finished": tuple(scheduled.finished_req_ids),
        "computed": {name: before[name] + tokens for name, tokens in scheduled.num_scheduled_tokens.items()},
    }


def emitted_in(output: Any) -> dict[str, Sequence[int]]:
    """The tokens that a `ModelRunnerOutput` says were sampled, by request."""
    sampled = output.sampled_token_ids if output is not None else []
    return {name: sampled[place] for name, place in output.req_id_to_index.items()} if sampled else {}


def new_request(request: Any, now_ns: int, model_len: int, *, external: bool = False) -> NewRequest:
    """A `NewRequestData` in the ledger's words."""
    sampling = request.sampling_params
    stops = {*(sampling.stop_token_ids or ()), sampling.eos_token_id} - {None} if sampling else set()
    child = _CHILD.match(request.req_id)
    return NewRequest(
        engine_id=request.req_id,
        prompt_len=request.prompt_len,
        prompt_token_ids=request.prompt_token_ids or (),  # none of a prompt of embeddings, which are refused
        computed=request.num_computed_tokens,
        external=external,
        stop_tokens=frozenset(stops),
        max_tokens=min((sampling.max_tokens if sampling else None) or model_len, model_len - request.prompt_len),
        repetition=_repetition(sampling),
        adapter=request.lora_request.lora_name if request.lora_request else "",
        child=int(child[1]) if child else 0,
        time_ns=now_ns,
    )


def _repetition(sampling: Any) -> Repetition | None:
    asked = getattr(sampling, "repetition_detection", None)
    if asked is None or asked.max_pattern_size <= 0:
        return None
    return Repetition(asked.min_pattern_size, asked.max_pattern_size, asked.min_count, sampling.min_tokens)
