"""What is watched in one engine: dictionaries, the sinks on their hook points, and the encoders between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saewatch.core import hookpoint
from saewatch.core.batch import Census as CensusRecord
from saewatch.core.batch import SlotKind, WatchSet
from saewatch.core.catalogue import WatchList
from saewatch.core.errors import ConfigError, MisfitError, SelfTestFailed
from saewatch.core.fit import ModelFacts, verify_fit
from saewatch.core.footprint import Footprint, check_budget, firings_max, footprint, needs_whole
from saewatch.core.hookpoint import HookPoint
from saewatch.core.records import StreamOpen
from saewatch.core.tapconfig import DictionaryUse, TapConfig
from saewatch.engine import kernels
from saewatch.engine.books import Stream
from saewatch.engine.census import Census, sampled
from saewatch.engine.conformance import Reference, agree, agree_served, reference_of
from saewatch.engine.dictionary_file import Bundle, load_bundle, load_manifest
from saewatch.engine.encoder import Encoder
from saewatch.engine.life import Checkpoint
from saewatch.engine.pool import check_place, width
from saewatch.engine.ranks import Ranks
from saewatch.engine.sink import Place, Sink, Sinks
from saewatch.engine.slab import Slab, enqueued
from saewatch.engine.whole import Whole

SLOTS_PER_FRAME = 8192
"""Slots of one WatchSet frame, and latents of one Census frame divided by two: 9 and 16 B each."""
CENSUS_EVERY_NS = 10_000_000_000
CENSUS_BYTES = 16
"""Of one latent in a census: a sum and a count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What an engine's adapter knows of it and of its model."""

    instance: str
    epoch: int
    model_name: str
    facts: ModelFacts
    rows: int  # of the largest step
    block: int = 0  # tokens of a block of the prefix cache; 0: there is none
    quantisation: str = ""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    ranks: Ranks = field(default_factory=Ranks)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class Watched:
    """One stream's sink and encoder."""

    opening: StreamOpen
    bundle: Bundle
    encoder: Encoder
    place: Place
    sink: Sink  # that of every stream on this hook point
    use: DictionaryUse
    footprint: Footprint
    firings_max: int
    shared: bool = False
    """Whether a stream before it has the same hook point, and takes the room for its rows."""
    counting: Census | None = None
    rows_seen: int = 0
    census_due_ns: int = 0
    watch: int = 1  # number of the watch set
    reference: Reference | None = None
    """What the encoder was proven with at start; the self-test compares it with the same."""
    inside: Encoder | None = None  # whose buffers the model's graph reads, where it does

    def new_slab(self) -> Slab:
        """A slab for one step."""
        wide, device = width(self.bundle.dictionary.pooled), self.sink.buffer.device
        return Slab(rows_max=self.encoder.rows_max, firings_max=self.firings_max, device=device, pooled=wide)

    @property
    def light(self) -> bool:
        """Whether nothing but watched rows is computed: no census, and no whole dictionary for winners."""
        whole = self.encoder.whole
        return self.counting is None and (whole is None or whole.k is None)

    def encode(self, x: Tensor, positions: Tensor, tokens: Tensor, slab: Slab) -> None:
        """Enqueues the encoding of a step's rows ``x [rows, d_in]``, and of the sampled ones in full."""
        self.encoder.encode(x, positions=positions, token_ids=tokens, slab=slab)
        self.count(x, slab)

    def count(self, x: Tensor, slab: Slab) -> None:
        """Enqueues the census of a step's rows ``x [rows, d_in]``, which were encoded into ``slab``."""
        if self.counting is not None:
            chosen = enqueued(torch.from_numpy(sampled(self.rows_seen, len(x), self.use.census)), x.device)
            if len(chosen):
                self.counting.add(x[chosen], slab.excluded[chosen])
        self.rows_seen += len(x)

    def prove(self) -> None:
        """Raises `SelfTestFailed` unless the sink fired and writes what it is given, and the encoder is right."""
        self.prove_sink(since=0)
        self.prove_encoder()

    def prove_sink(self, *, since: int) -> None:
        """Raises `SelfTestFailed` unless the sink was called more than ``since`` times, and writes what it is given.

        What the warm-up left in the buffer says nothing: its attention reads memory that nobody has written. So the
        sink is shown rows of our own, and the buffer is poisoned, so that a row that no pass writes is left out.
        """
        point = self.opening.hook_point
        if int(self.sink.calls) <= since:
            hint = "A compiled graph without the tap was loaded, or the model does not run this block."
            raise SelfTestFailed(f"sink of {point}", found="no call", expected="one for each forward pass", hint=hint)
        rows = torch.linspace(-1.0, 1.0, self.sink.buffer.shape[1], device=self.sink.buffer.device)
        rows = rows.to(self.sink.buffer.dtype).expand(2, -1).contiguous()
        self.sink(rows, rows)
        if not torch.equal(self.sink.buffer[:2], rows + rows):
            raise SelfTestFailed(f"sink of {point}", found="other rows in its buffer", expected="what it was given")
        self.sink.buffer.fill_(torch.nan)

    def prove_encoder(self) -> None:
        """Raises `SelfTestFailed` unless it gives on the stored rows what the dictionary's own library gave."""
        if self.inside is not None:
            self.inside.check_follows(self.encoder)
        self.encoder.compile(self.place.like.dtype)
        self.reference = reference_of(self.encoder, self.bundle)
        if self.reference is not None:
            agree(self.encoder, self.reference)
            agree_served(self.encoder, self.reference, self.bundle, self.place.like.dtype)

    def watch_sets(self) -> list[WatchSet]:
        """What the stream emits, in frames."""
        latents = self.bundle.manifest.encoder.latents
        rows = np.array(self.encoder.watch_list.rows, dtype=np.int64)
        kind = np.where(rows < latents, SlotKind.LATENT, SlotKind.DIRECTION).astype(np.uint8)
        number = np.where(rows < latents, rows, rows - latents).astype(np.uint32)
        floor = np.array(self.encoder.watch_list.floors, dtype=np.float32)
        parts = [slice(first, first + SLOTS_PER_FRAME) for first in range(0, max(len(rows), 1), SLOTS_PER_FRAME)]
        return [
            WatchSet(
                stream=self.opening.stream,
                watch=self.watch,
                digest=self.encoder.watch_list.digest,
                first=part.start,
                total=len(rows),
                row=number[part],
                floor=floor[part],
                kind=kind[part],
            )
            for part in parts
        ]

    def census(self, now_ns: int) -> list[CensusRecord]:
        """The census since the last one, in frames, when it is due. Waits for the device."""
        if self.counting is None or now_ns < self.census_due_ns:
            return []
        due, self.census_due_ns = self.census_due_ns, now_ns + CENSUS_EVERY_NS
        if due == 0:
            return []
        counts, half = self.counting.take(), SLOTS_PER_FRAME // 2
        return [
            CensusRecord(
                stream=self.opening.stream,
                time_ns=now_ns,
                tokens=counts.tokens,
                latents=len(counts.count),
                first=first,
                l0_mean=counts.l0_mean,
                squared_error=counts.squared_error,
                squared_total=counts.squared_total,
                overflowed=counts.overflowed,
                total=counts.total[first : first + half],
                count=counts.count[first : first + half],
            )
            for first in range(0, len(counts.count), half)
        ]


def open_watched(config: TapConfig, engine: Engine, place: Callable[[HookPoint], Place]) -> list[Watched]:
    """Loads each dictionary of ``config`` and checks that it fits; `hang` then attaches their sinks.

    Dictionaries on one hook point share its sink. Raises `DictionaryError`, `HookPointError` or `ConfigError` for what
    does not fit.
    """
    loaded = [(use, load_bundle(Path(use.path), decoder=use.census > 0)) for use in config.dictionaries]
    found: list[Watched] = []
    sinks: dict[HookPoint, Sink] = {}
    for number, (use, bundle) in enumerate(loaded, start=1):
        point = hookpoint.parse(bundle.manifest.hook_point)
        proof = verify_fit(bundle.manifest, bundle.fit(), engine.facts)
        _check_census(use, bundle, config)
        where = place(point)
        taken = sum(one.footprint.total for one in found)
        sizes = _sizes(use, bundle, config, rows=engine.rows, like=where.like, taken=taken, shared=point in sinks)
        if point not in sinks:
            sinks[point] = Sink(rows=engine.rows, width=bundle.manifest.encoder.d_in, like=where.like)
        opening = _opening(number, engine, mode=use.mode, use=use, bundle=bundle, proof=proof)
        found.append(_watched(use, bundle, sizes, opening=opening, place=where, sink=sinks[point]))
    return found


def rewatched(before: Watched, use: DictionaryUse, config: TapConfig, *, others: int) -> Watched:
    """As ``before``, but for what of its dictionary is watched: with an encoder of its own, which is proven.

    ``others``: device bytes of the other streams. Raises `DictionaryError` or `ConfigError` for what does not fit.
    """
    sizes = _resized(before, before.bundle, use, config, others=others)
    encoder, number = before.encoder.rewatched(sizes.watch), before.watch + 1
    one = replace(before, use=use, encoder=encoder, footprint=sizes.footprint, watch=number)
    one.prove_encoder()
    return one


def another(
    before: Watched, use: DictionaryUse, config: TapConfig, engine: Engine, *, stream: int, others: int
) -> Watched:
    """Another dictionary in the place of ``before``, on the same sink, as the new ``stream``; its encoder is proven.

    Raises `DictionaryError`, `HookPointError` or `ConfigError` for what does not fit.
    """
    bundle = load_bundle(Path(use.path), decoder=use.census > 0)
    point = str(hookpoint.parse(bundle.manifest.hook_point))
    for name, found, expected in (
        ("hook_point", point, before.opening.hook_point),
        ("d_in", bundle.manifest.encoder.d_in, before.bundle.manifest.encoder.d_in),
    ):
        if found != expected:
            hint = "The compiled graph holds the sink; start the engine with this dictionary."
            raise MisfitError(f"dictionary.{name}", found=found, expected=expected, hint=hint)
    proof = verify_fit(bundle.manifest, bundle.fit(), engine.facts)
    _check_census(use, bundle, config)
    sizes = _resized(before, bundle, use, config, others=others)
    opening = _opening(stream, engine, mode=use.mode, use=use, bundle=bundle, proof=proof)
    one = _watched(use, bundle, sizes, opening=opening, place=before.place, sink=before.sink)
    one.inside = before.inside
    one.prove_encoder()
    return one


def anew(before: Watched, *, stream: int) -> Watched:
    """As ``before``, in the new ``stream``, with nothing counted; its encoder is proven once more."""
    one = replace(
        before,
        opening=replace(before.opening, stream=stream),
        counting=_census(before.encoder, before.bundle, before.use),
        rows_seen=0,
        census_due_ns=0,
    )
    one.prove_encoder()
    return one


def sinks_of(watched: Sequence[Watched]) -> Sinks:
    """Each sink once."""
    return {hookpoint.parse(one.opening.hook_point): (one.place, one.sink) for one in watched}


def open_sinks(config: TapConfig, engine: Engine, place: Callable[[HookPoint], Place]) -> Sinks:
    """The sinks of ``config`` without anything behind them: for a rank whose rows another one reports."""
    found: dict[HookPoint, tuple[Place, Sink]] = {}
    for use in config.dictionaries:
        manifest = load_manifest(Path(use.path))
        where = place(point := hookpoint.parse(manifest.hook_point))
        found[point] = where, Sink(rows=engine.rows, width=manifest.encoder.d_in, like=where.like)
    return found


def blind_stream(engine: Engine, reason: str) -> Stream:
    """The one stream of an engine that is not seen."""
    return Stream(opening=_opening(0, engine, mode="exact", blind=reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What a stream's buffers hold."""

    rows: int
    watch: WatchList
    firings_max: int
    footprint: Footprint
    shared: bool


def _sizes(
    use: DictionaryUse, bundle: Bundle, config: TapConfig, *, rows: int, like: Tensor, taken: int, shared: bool
) -> _Sizes:
    """ConfigError when the budget does not hold them beside the ``taken`` bytes of other streams."""
    watch = bundle.catalogue.watch_list(bundle.manifest, use.watch)
    slots = len(watch.rows)
    needed = footprint(
        bundle.manifest,
        use,
        config,
        rows=rows,
        slots=slots,
        element_bytes=like.element_size(),
        staged=(staged := like.device.type != "cpu"),
        fused=staged and kernels.available(),
        shared=shared,
    )
    check_budget(needed, config, rows=rows, slots=slots, taken=taken)
    most = firings_max(config, rows=rows, slots=slots)
    return _Sizes(rows=rows, watch=watch, firings_max=most, footprint=needed, shared=shared)


def _resized(before: Watched, bundle: Bundle, use: DictionaryUse, config: TapConfig, *, others: int) -> _Sizes:
    """What is in the place of ``before`` from now on. ConfigError or MisfitError where there is no room for it."""
    rows, like = before.encoder.rows_max, before.place.like
    sizes = _sizes(use, bundle, config, rows=rows, like=like, taken=others, shared=before.shared)
    if sizes.firings_max > before.firings_max:
        hint = "The buffers for a step's firings were sized at start; start the engine with more slots."
        found, expected = f"{len(sizes.watch.rows)} slots", f"at most {before.encoder.slots}"
        raise MisfitError("watch", found=found, expected=expected, hint=hint)
    check_place(bundle.dictionary.pooled, before.bundle.dictionary.pooled)
    return replace(sizes, firings_max=before.firings_max)


def _watched(
    use: DictionaryUse, bundle: Bundle, sizes: _Sizes, *, opening: StreamOpen, place: Place, sink: Sink
) -> Watched:
    device = place.like.device
    encoder = _encoder(use, bundle, rows=sizes.rows, slots=len(sizes.watch.rows), device=device)
    encoder.load(bundle.dictionary, sizes.watch)
    return Watched(
        opening=opening,
        bundle=bundle,
        encoder=encoder,
        place=place,
        sink=sink,
        use=use,
        footprint=sizes.footprint,
        firings_max=sizes.firings_max,
        shared=sizes.shared,
        counting=_census(encoder, bundle, use),
    )


def _census(encoder: Encoder, bundle: Bundle, use: DictionaryUse) -> Census | None:
    if encoder.whole is None or use.census == 0:
        return None
    encoding = bundle.manifest.encoder
    return Census(encoder.whole, d_in=encoding.d_in, norm=encoding.input_norm)


def _check_census(use: DictionaryUse, bundle: Bundle, config: TapConfig) -> None:
    """ConfigError where a census would count wrong, or take more than half of the queue: the place of batches."""
    if use.census > 0 and bundle.dictionary.pooled:
        raise ConfigError("census", found=use.census, expected="0 where probes are pooled", hint="Set it to 0.")
    needed = 2 * CENSUS_BYTES * bundle.manifest.encoder.rows
    if use.census > 0 and needed > config.queue_bytes:
        hint = "Raise it, or set census to 0."
        expected = f"at least {needed} for a census of {bundle.manifest.encoder.rows} rows"
        raise ConfigError("saewatch.queue_bytes", found=config.queue_bytes, expected=expected, hint=hint)


def _encoder(use: DictionaryUse, bundle: Bundle, *, rows: int, slots: int, device: torch.device) -> Encoder:
    manifest, whole, dtype = bundle.manifest, None, bundle.dictionary.W.dtype
    if needs_whole(manifest, use):
        int8 = use.screen == "int8"
        whole = Whole.sized(bundle.dictionary, decoder=use.census > 0, int8=int8, device=device)
    d_in, mode = manifest.encoder.d_in, use.mode
    return Encoder(rows_max=rows, d_in=d_in, slots_max=slots, mode=mode, whole=whole, device=device, dtype=dtype)


def _opening(
    number: int,
    engine: Engine,
    *,
    mode: str,
    use: DictionaryUse | None = None,
    bundle: Bundle | None = None,
    proof: str = "",
    blind: str = "",
) -> StreamOpen:
    return StreamOpen(
        stream=number,
        engine=engine.instance,
        epoch=engine.epoch,
        dp_rank=engine.ranks.dp,
        pp_rank=engine.ranks.pp,
        tp_rank=engine.ranks.tp,
        versions=engine.versions,
        model_name=engine.model_name,
        model_digest=engine.facts.weights,
        model_proof=proof,
        quantisation=engine.quantisation,
        hook_point=bundle.manifest.hook_point if bundle else "",
        weights_digest=bundle.sheet.weights if bundle else "",
        catalogue_digest=bundle.sheet.catalogue if bundle else "",
        mode=mode,
        role=use.role if use else "stable",
        excluded=bundle.manifest.exclusions.words() if bundle else {},
        blind=blind,
    )
