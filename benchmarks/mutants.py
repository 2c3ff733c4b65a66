"""Faults to plant in a tap, the known ones of its kind among them: what the self-test, the books or parity must catch.

Each is a function that changes this process before the engine boots, as a bug in the code would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from vllm.distributed.parallel_state import get_tp_group

from saewatch.core.hookpoint import HookPoint
from saewatch.engine import ledger, runners, sink
from saewatch.engine import vllm as adapter
from saewatch.engine.batching import Encoded
from saewatch.engine.chain import Chain
from saewatch.engine.encoder import Encoder
from saewatch.engine.families import Places
from saewatch.engine.ledger import Ledger, Settled, Skipped, Step
from saewatch.engine.ranks import Ranks
from saewatch.engine.reuse import Replay, Reuse
from saewatch.engine.sink import Place, Sink, Site
from saewatch.engine.staging import Rows, Slot
from saewatch.engine.tap import Tap


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault."""

    plant: Callable[[], None]
    says: str
    mode: str = "eager"  # how the engine runs
    corner: str = ""  # of benchmarks/corners.py: the configuration in which it shows


def _hook_after_compile() -> None:
    """Sinks are hung on the model when its graph exists already."""
    late: list[tuple[Place, Sink, str]] = []
    attach, warm_up = sink.attach, adapter.TapWorker.compile_or_warm_up_model

    def later(place: Place, one: Sink, name: str) -> None:
        late.append((place, one, name))

    def hung_late(worker: Any) -> Any:
        for entry in late:
            attach(*entry)
        return warm_up(worker)

    _set(sink, "attach", later)
    _set(adapter.TapWorker, "compile_or_warm_up_model", hung_late)


def _graph_without_a_key() -> None:
    """The compile cache's key says nothing of the sinks, nor of the tap."""

    def no_key(worker: Any, _tap: Any) -> None:
        worker.vllm_config.additional_config = {}

    _set(adapter, "key_graph", no_key)


def _no_sinks_and_no_key() -> None:
    """Leaves the graph behind that `_graph_without_a_key` then loads."""
    _graph_without_a_key()
    _set(sink, "attach", lambda *_: None)
    _set(adapter.Watch, "prove", lambda _watch: None)


def _swallowed_exception() -> None:
    """Reading the firings fails, and somebody thought that no reason to say so."""
    _set(Slot, "read", lambda slot: [Encoded.empty() for _ in slot._slabs])  # noqa: SLF001 - a planted fault


def _wrong_runner() -> None:
    """The runner's batch is read where this runner has none."""
    nothing = Rows(order=[], starts=np.zeros(1, np.int32), positions=torch.zeros(0), tokens=torch.zeros(0))
    _set(runners.V1View, "rows", lambda _view: nothing)


def _no_residual() -> None:
    """``hidden_states`` alone is taken for the residual stream."""
    _move(lambda place: Place(place.block, Site("", "output", "first"), place.like))


def _wrong_layer() -> None:
    """Layers are counted from 1."""
    found = Places.__call__
    _set(Places, "__call__", lambda places, point: found(places, HookPoint(point.point, point.layer + 1)))


def _offset_after_a_prefix_hit() -> None:
    """Positions are counted from each request's first row instead of read from the device."""

    def counted(rows: Rows) -> Rows:
        offsets = np.concatenate([np.arange(count) for count in np.diff(rows.starts)])
        return replace(rows, positions=torch.from_numpy(offsets))

    _on_rows(counted)


def _rows_off_by_one() -> None:
    """Each row is booked to its neighbour."""
    encode = Slot._encode  # noqa: SLF001 - a planted fault

    def rolled(slot: Slot) -> None:
        for one in slot._watched:  # noqa: SLF001 - a planted fault
            one.sink.buffer[: slot._count] = torch.roll(one.sink.buffer[: slot._count], 1, 0)  # noqa: SLF001 - as above
        encode(slot)

    _set(Slot, "_encode", rolled)


def _schedulers_order() -> None:
    """Rows are given to requests in the order in which the scheduler named them."""
    order: list[str] = []
    execute = adapter.TapWorker.execute_model

    def noted(worker: Any, scheduled: Any) -> Any:
        order[:] = scheduled.num_scheduled_tokens
        return execute(worker, scheduled)

    _set(adapter.TapWorker, "execute_model", noted)
    _on_rows(lambda rows: replace(rows, order=sorted(rows.order, key=order[::-1].index)))


def _shape_only_liveness() -> None:
    """A sink that counts its calls, has a buffer of the right shape, and writes nothing."""
    _set(Sink, "forward", lambda one, _hidden, _residual: one.calls.add_(1))


def _frozen_after_the_start() -> None:
    """The sink's effect ran while the graph was traced, and never again."""
    forward, start = Sink.forward, Tap.start
    started: list[bool] = []

    def frozen(one: Sink, hidden: torch.Tensor, residual: torch.Tensor | None) -> None:
        if not started:
            forward(one, hidden, residual)

    def noted(tap: Any) -> None:
        started.append(True)
        start(tap)

    _set(Sink, "forward", frozen)
    _set(Tap, "start", noted)


def _damaged_encoder() -> None:
    """The weights on the device are not those of the file."""
    load = Encoder.load

    def damaged(encoder: Encoder, *arguments: Any) -> None:
        load(encoder, *arguments)
        encoder._W.neg_()  # noqa: SLF001 - a planted fault

    _set(Encoder, "load", damaged)


def _first_request_only() -> None:
    """Of a batch only the first request is kept."""
    rows = Ledger._rows  # noqa: SLF001 - a planted fault

    def first(books: Ledger, step: Step) -> Iterable[tuple[int, int, int, int, int]]:
        return list(rows(books, step))[:1]

    _set(Ledger, "_rows", first)


def _drafts_never_settled() -> None:
    """The row of a token that ended its request is reported too."""
    _set(ledger.OpenRequest, "fed", property(lambda request: request.start.prompt_len + request.emitted))


def _key_without_the_parent() -> None:
    """What is kept of a block is found by its own tokens, whatever came before them."""
    digest = Chain.digest

    def alone(one: Chain, index: int) -> bytes | None:
        own = Chain(one._tokens[index * one._block : (index + 1) * one._block], block=one._block)  # noqa: SLF001 - a planted fault
        return digest(own, 0)

    _set(Chain, "digest", alone)


def _replayed_elsewhere() -> None:
    """What is kept of several blocks is given from the last to the first."""
    found = Reuse.replay

    def turned(one: Reuse, span: Skipped, chain: Chain | None) -> Replay | None:
        replay = found(one, span, chain)
        if replay is None:
            return None
        settled, encoded = replay
        blocks = settled.position.reshape(-1, one.block)[::-1].reshape(-1)
        return replace(settled, position=blocks.copy()), encoded

    _set(Reuse, "replay", turned)


def _overflowed_row_kept() -> None:
    """A row that overflowed is kept as one in which nothing fired. Here the slab drops some rows of each step."""
    read, record = Slot.read, Reuse.record

    def overflowing(encoded: Encoded) -> Encoded:
        lost = np.arange(len(encoded.overflowed)) % 50 == 7
        kept = ~lost[encoded.row]
        columns = {name: getattr(encoded, name)[kept] for name in ("row", "slot", "value")}
        return replace(encoded, **columns, overflowed=encoded.overflowed | lost)

    def blindly(one: Reuse, settled: Settled, encoded: Encoded, chains: Mapping[int, Chain]) -> None:
        record(one, settled, replace(encoded, overflowed=np.zeros_like(encoded.overflowed)), chains)

    _set(Slot, "read", lambda slot: [overflowing(one) for one in read(slot)])
    _set(Reuse, "record", blindly)


def _rejected_drafts() -> None:
    """Every row of a step is reported, whether its draft was accepted or not."""
    _everything_is_fed(lambda _request: True)


def _drafts_behind_the_first() -> None:
    """A step whose first draft was accepted is taken for one whose drafts all were."""
    _everything_is_fed(lambda request: request.emitted % 2 == 0)


def _everything_is_fed(where: Callable[[Any], bool]) -> None:
    fed: Any = ledger.OpenRequest.fed.fget  # type: ignore[attr-defined]  # a property

    def more(request: Any) -> int:
        return int(fed(request)) + (3 if request.emitted and where(request) else 0)

    rows = Ledger._rows  # noqa: SLF001 - a planted fault

    def all_of_them(books: Ledger, step: Step) -> Iterable[tuple[int, int, int, int, int]]:
        _set(ledger.OpenRequest, "fed", property(more))
        found = list(rows(books, step))
        _set(ledger.OpenRequest, "fed", property(fed))
        return found

    _set(Ledger, "_rows", all_of_them)


def _no_end() -> None:
    """What the device sampled is what was emitted, after the end of a request too."""

    def emit(request: Any, sampled: Any) -> None:
        request.emitted += len(sampled)

    _set(ledger.OpenRequest, "emit", emit)


def _tokens_of_another_step() -> None:
    """Tokens are booked to the step that began last, as if none ran ahead."""
    ship = Tap.ship
    before: list[Any] = [{}]

    def shifted(tap: Tap, begun: Any, emitted: Any) -> None:
        before.append(emitted)
        ship(tap, begun, before.pop(0))

    _set(Tap, "ship", shifted)


def _schedulers_positions() -> None:
    """Positions are taken from the scheduler's counters."""
    settle = Ledger.settle

    def counted(books: Ledger, step: Step) -> Any:
        if step.positions is None or step.starts is None:
            return settle(books, step)
        spans = zip(step.order, np.diff(step.starts), strict=True)
        parts = [np.arange(step.computed[name] - count, step.computed[name]) for name, count in spans if count]
        return settle(books, replace(step, positions=np.concatenate(parts).astype(np.int32)))

    _set(Ledger, "settle", counted)


def _back_as_another() -> None:
    """A request that comes back after a preemption is taken for one that was never seen."""
    starts = Ledger._starts  # noqa: SLF001 - a planted fault

    def anew(books: Ledger, new: Any, missed: Any) -> Any:
        for item in new:
            if item.prompt_len:
                books._open.pop(item.engine_id, None)  # noqa: SLF001 - a planted fault
        return starts(books, new, missed)

    _set(Ledger, "_starts", anew)


def _one_session() -> None:
    """A session that goes on is the request that it was, with the prompt that it had."""
    _set(Ledger, "_gone_on", lambda _books, _new: [])


def _no_adapter() -> None:
    """Nobody says through which adapter a request went."""
    told = runners.new_request
    _set(runners, "new_request", lambda *arguments, **named: replace(told(*arguments, **named), adapter=""))


def _external_as_cached() -> None:
    """What a connector brought is taken for what the prefix cache knew."""
    told = runners.new_request
    _set(runners, "new_request", lambda *arguments, **_: told(*arguments))


def _every_rank_reports() -> None:
    """Each rank of a stage ships what it sees."""
    _set(Ranks, "reports", property(lambda _ranks: True))


def _half_a_residual() -> None:
    """A rank has other rows than the first one, as where each keeps a share of them."""
    forward = Sink.forward

    def halved(one: Sink, hidden: torch.Tensor, residual: torch.Tensor | None) -> None:
        share = 1.0 if get_tp_group().rank_in_group == 0 else 0.5
        forward(one, hidden * share, None if residual is None else residual * share)

    _set(Sink, "forward", halved)


def _a_stage_without_tokens() -> None:
    """A stage that does not sample believes that nothing was emitted."""
    ship = Tap.ship
    _set(Tap, "ship", lambda tap, begun, emitted: ship(tap, begun, emitted or {}))


MUTANTS: Mapping[str, Mutant] = {
    "hook_after_compile": Mutant(_hook_after_compile, "sinks hung on a graph that exists", mode="default"),
    "stale_graph": Mutant(_graph_without_a_key, "a cached graph without the sinks is loaded", mode="forced"),
    "swallowed_exception": Mutant(_swallowed_exception, "firings cannot be read, and nobody says so"),
    "wrong_runner": Mutant(_wrong_runner, "nothing is captured on this runner"),
    "no_residual": Mutant(_no_residual, "hidden_states without the residual"),
    "wrong_layer": Mutant(_wrong_layer, "layers counted from 1"),
    "offset_after_prefix_hit": Mutant(_offset_after_a_prefix_hit, "positions counted from the first computed row"),
    "rows_off_by_one": Mutant(_rows_off_by_one, "each row booked to its neighbour"),
    "schedulers_order": Mutant(_schedulers_order, "rows in the scheduler's order instead of the runner's"),
    "shape_only_liveness": Mutant(_shape_only_liveness, "a buffer of the right shape that nobody writes"),
    "frozen_after_start": Mutant(_frozen_after_the_start, "the sink ran at the trace only"),
    "damaged_encoder": Mutant(_damaged_encoder, "other weights on the device than in the file"),
    "first_request_only": Mutant(_first_request_only, "one request of each batch is kept"),
    "surplus_row": Mutant(_drafts_never_settled, "the length of a request is one too many"),
    "key_without_parent": Mutant(_key_without_the_parent, "a kept block is found whatever came before it"),
    "replayed_elsewhere": Mutant(_replayed_elsewhere, "kept blocks are replayed at one another's positions"),
    "overflowed_row_kept": Mutant(_overflowed_row_kept, "a row that overflowed is kept as one without firings"),
    "rejected_drafts": Mutant(_rejected_drafts, "rejected drafts are reported", corner="ngram"),
    "drafts_behind_the_first": Mutant(_drafts_behind_the_first, "one accepted draft stands for all", corner="draft"),
    "tokens_after_the_end": Mutant(_no_end, "what was sampled after a stop token is reported", corner="async"),
    "tokens_of_another_step": Mutant(_tokens_of_another_step, "tokens booked to another step", corner="async"),
    "schedulers_positions": Mutant(
        _schedulers_positions, "positions by the scheduler's counters", corner="draft-async"
    ),
    "back_as_another": Mutant(_back_as_another, "a preempted request comes back as another", corner="async"),
    "one_session": Mutant(_one_session, "streaming input taken for one request", corner="sync"),
    "no_adapter": Mutant(_no_adapter, "the adapter's name is lost", corner="lora"),
    "external_as_cached": Mutant(_external_as_cached, "KV from elsewhere is booked as cached", corner="external"),
    "every_rank_reports": Mutant(_every_rank_reports, "both ranks of a stage ship", corner="tensor"),
    "half_a_residual": Mutant(_half_a_residual, "a rank holds other rows than the first", corner="tensor"),
    "stage_without_tokens": Mutant(_a_stage_without_tokens, "a stage that sees no tokens", corner="pipeline-first"),
}
BEFORE: Mapping[str, Callable[[], None]] = {"stale_graph": _no_sinks_and_no_key}
"""What an engine before the mutant's did, on the same cache."""


def plant(name: str) -> None:
    """Plants one in this process. ``before:NAME``: what came before it."""
    if name.startswith("before:"):
        BEFORE[name.removeprefix("before:")]()
    elif name:
        MUTANTS[name].plant()


def _move(change: Callable[[Place], Place]) -> None:
    found = Places.__call__
    _set(Places, "__call__", lambda places, point: change(found(places, point)))


def _on_rows(change: Callable[[Rows], Rows]) -> None:
    rows = runners.V1View.rows
    _set(runners.V1View, "rows", lambda view: change(rows(view)))


def _set(owner: Any, name: str, value: Any) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more: nothing would be planted"
    setattr(owner, name, value)
