"""The arithmetic of costs, against the real thing: frames, messages, a metrics page, what the encoder dispatches."""

from __future__ import annotations

import importlib
import itertools
import math
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from saewatch.core import cost, limits
from saewatch.core.batch import FiringBatch, Reason
from saewatch.core.catalogue import WatchList
from saewatch.core.cost import DEVICES, Device, Seconds, Traffic, Use
from saewatch.core.footprint import ROWS, SCREENED, WINDOW
from saewatch.core.head import HeadSheet
from saewatch.core.records import STAGES, TrafficClass
from saewatch.core.wire import encode, fit
from saewatch.edge.pb import common_pb2, firing_pb2
from saewatch.edge.sinks.metrics import MetricsSink
from saewatch.engine.dictionary_file import load_bundle
from saewatch.engine.encoder import Encoder
from saewatch.engine.kernels import launch
from saewatch.engine.slab import Slab
from saewatch.engine.whole import Whole
from saewatch.monitor.monitor import FAULTS
from tests import fakes, made
from tests.engine.standin import BUNDLE
from tests.monitor.stage import Stage


def step(rows: int, firings: int) -> FiringBatch:
    """A decoding step as it is: each row a request of its own, ``firings`` in each."""
    spans: list[fakes.Span] = [(number + 1, 1000 + number, 1) for number in range(rows)]
    fired = [(row, slot, 1.5) for row, slot in itertools.product(range(rows), range(firings))]
    return fakes.batch(spans, fired, seq=123_456)


@pytest.mark.parametrize(("rows", "firings"), [(1, 0), (1, 16), (64, 5), (256, 16), (256, 60), (1024, 60)])
def test_bytes_on_the_socket_are_those_of_real_frames(rows: int, firings: int) -> None:
    frames = [encode(piece) for piece in fit(step(rows, firings))]
    assert cost.socket_bytes(rows, rows * firings) == pytest.approx(sum(map(len, frames)), rel=0.02, abs=16)


def test_bytes_a_second_are_frames_times_steps() -> None:
    traffic = Traffic(tokens_per_s=5120, firings_per_token=4, rows=256)
    assert traffic.steps_per_s == 20
    assert cost.socket_bytes_per_s(traffic) == pytest.approx(20 * len(encode(step(256, 4))), rel=0.01)


@pytest.mark.parametrize(("rows", "firings"), [(1, 0), (64, 5), (256, 16)])
def test_bytes_of_a_message_are_those_of_a_real_one(rows: int, firings: int) -> None:
    batch = step(rows, firings)
    request = common_pb2.Request(
        engine_id="chatcmpl-sw-0123456789abcdef0123456789abcdef-0a1b2c3d",
        key="sw-0123456789abcdef0123456789abcdef",
        client_id="9f8a6c1e-6a3c-4f6e-9d7e-2f2f5f1f0a11",
        tenant="acme",
        traffic_class=common_pb2.TRAFFIC_CLASS_LIVE,
        prompt_len=500,
        engine="engine-0",
    )
    message = firing_pb2.FiringBatch(
        table=7,
        stream=1,
        first_seq=batch.seq,
        last_seq=batch.seq,
        first_time_unix_nano=time.time_ns(),
        last_time_unix_nano=time.time_ns(),
        requests=[request] * rows,
        span_request=range(rows),
        span_position=batch.position.tolist(),
        span_tokens=[1] * rows,
        span_origin=[common_pb2.ORIGIN_COMPUTED] * rows,
        row=batch.row.tolist(),
        slot=batch.slot.tolist(),
        value=batch.value.tolist(),
    )
    assert cost.message_bytes(rows, rows * firings, rows) == pytest.approx(message.ByteSize(), rel=0.05, abs=40)


def test_a_subscriber_gets_a_message_a_step_or_every_20_ms_or_1024_tokens() -> None:
    def messages(traffic: Traffic) -> float:
        columns = 13 * traffic.tokens_per_s + 12 * traffic.firings_per_s
        more = cost.subscriber_bytes_per_s(traffic) - columns
        return more / cost.message_bytes(0, 0, min(traffic.rows, 1))

    assert messages(Traffic(tokens_per_s=10, firings_per_token=1.0, rows=1)) == pytest.approx(10)
    assert messages(Traffic(tokens_per_s=100, firings_per_token=1.0, rows=1)) == pytest.approx(50), "two steps in one"
    busy = Traffic(tokens_per_s=1_000_000, firings_per_token=0.0, rows=4096)
    per_request = limits.FLUSH_TOKENS
    more = cost.subscriber_bytes_per_s(busy) - 13 * busy.tokens_per_s
    assert more / cost.message_bytes(0, 0, per_request) == pytest.approx(1_000_000 / 1024, rel=0.01)


def test_series_are_those_of_a_real_page_that_has_seen_everything() -> None:
    stage = Stage().ready()
    spans: list[fakes.Span] = []
    for number, kind in enumerate(TrafficClass, start=1):
        if kind is TrafficClass.UNLABELLED:
            stage.start(number, name="plain")
        else:
            stage.start(number)
            stage.label(number, traffic_class=kind)
        spans += [(number, 0, 1), (number, 1, 1, 2)]
    missed = [(number, reason, 1) for number in range(1, 6) for reason in Reason]
    stage.batch(spans, [(0, slot, 3.0) for slot in range(3)], missed=missed)
    for seconds in (1.0, 2.0):
        stage.beat(stage_seconds=dict.fromkeys(STAGES, seconds))
    sink = MetricsSink(faults=lambda: dict.fromkeys([*FAULTS, "CorruptFrame", "foreign_user"], 1), queues=list)
    sink.take(stage.events)
    samples = [sample for family in sink.collect() for sample in family.samples]
    found = Counter(sample.name for sample in samples)
    assert found["saewatch_tokens_total"] == len(TrafficClass) * (2 + len(Reason))
    assert found["saewatch_firings_total"] + found["saewatch_firing_requests_total"] == 2 * len(fakes.FEATURES)
    assert cost.series(100) - cost.series(10) == 2 * 90
    most = cost.series(len(fakes.FEATURES))
    assert len(samples) <= most
    assert len(samples) > most - cost.SERIES_FIXED - len(STAGES)


class Counted(TorchDispatchMode):
    """Counts what is dispatched, views left out."""

    VIEWS = ("view", "slice", "expand", "unsqueeze", "t.default", "select", "flatten", "reshape", "detach", "alias")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not any(name in str(function) for name in self.VIEWS)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("rows", [256, 3 * ROWS])
def test_launches_are_those_that_the_encoder_dispatches(rows: int) -> None:
    bundle = load_bundle(BUNDLE)
    watch = bundle.catalogue.watch_list(bundle.manifest)
    encoder = Encoder(rows_max=rows, d_in=128, slots_max=len(watch.rows), fixed=True)
    encoder.load(bundle.dictionary, watch)
    slab = Slab(rows_max=rows, firings_max=rows)
    x, index = torch.zeros(rows, 128), torch.arange(rows)
    with torch.inference_mode(), Counted() as found:
        encoder.encode(x, positions=index, token_ids=index, slab=slab)
    copies = 3 + 1 + len(slab._buffers())  # noqa: SLF001 - rows and two indexes in; positions and the slab out
    chunks = math.ceil(rows / ROWS)
    assert cost.LAUNCHES_STEP + cost.LAUNCHES_CHUNK * chunks == pytest.approx(found.count + copies, rel=0.1)


@pytest.mark.parametrize("rows", [256, 3 * ROWS])
def test_launches_of_the_kernels_are_those_that_are_enqueued(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    bundle, enqueued = load_bundle(BUNDLE), []
    monkeypatch.setattr(launch, "start", lambda variant, *_, warm: enqueued.append(variant.name))
    watch = bundle.catalogue.watch_list(bundle.manifest)
    encoder = Encoder(
        rows_max=rows, d_in=128, slots_max=len(watch.rows), fixed=True, fused=True, dtype=bundle.dictionary.W.dtype
    )
    encoder.load(bundle.dictionary, watch)
    index = torch.arange(rows)
    slab = Slab(rows_max=rows, firings_max=rows)
    encoder.encode(torch.zeros(rows, 128), positions=index, token_ids=index, slab=slab)
    assert len(enqueued) == cost.LAUNCHES_FUSED * math.ceil(rows / ROWS)


@pytest.mark.parametrize("rows", [64, 256, 3 * ROWS])
def test_launches_where_latents_compete_are_those_that_are_enqueued(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    one = made.dictionary("topk", latents=5000, d_in=64, k=9)
    found = Counted()
    for room in ("full", "pack", "settle", "pick", "window"):
        kernels = importlib.import_module(f"saewatch.engine.kernels.{room}")
        monkeypatch.setattr(kernels, "launch", lambda *_, **__: setattr(found, "count", found.count + 1))
    whole = Whole(rows=len(one.W), d_in=64, fused=True)
    encoder = Encoder(rows_max=rows, d_in=64, slots_max=9, whole=whole, fixed=True, fused=True)
    encoder.load(one, WatchList(rows=tuple(range(9)), floors=(0.0,) * 9))
    slab, index = Slab(rows_max=rows, firings_max=rows), torch.arange(rows)
    with found:
        encoder.encode(torch.zeros(rows, 64), positions=index, token_ids=index, slab=slab)
    copies = 3 + 1 + len(slab._buffers())  # noqa: SLF001 - rows and two indexes in; positions and the slab out
    few, many = cost.LAUNCHES_COMPETING
    each = many + 2 * math.ceil(5000 / WINDOW) if rows > SCREENED else few
    assert cost.LAUNCHES_STEP + each * math.ceil(rows / ROWS) == pytest.approx(found.count + copies, rel=0.1)


def test_where_latents_compete_the_dictionary_is_read_once() -> None:
    sheet = load_bundle(BUNDLE).manifest
    sheet = replace(sheet, encoder=replace(sheet.encoder, activation="topk", k=32, directions=3))
    device, latents = Device(bandwidth=1e9, flops=1e15, tensor_flops=1e15), sheet.encoder.latents
    beside = 4 * 3 * 128  # of the slots, no more than these are multiplied again
    few = cost.step_seconds(sheet, device, rows=100, slots=10, element_bytes=2, whole=True)
    moved = 100 * 128 * 24 + 1.125 * 2 * latents * 128 + 8 * 32 * 100 * 2 * 128 + beside + 2 * 42 * 100 * 10
    assert few.lower == pytest.approx(moved / 1e9 + 86 * 2e-6)
    many = cost.step_seconds(sheet, device, rows=200, slots=10, element_bytes=2, whole=True)
    moved = 200 * 128 * 24 + 1.125 * 2 * latents * 128 + 8 * 200 * latents + beside + 2 * 42 * 200 * 10
    assert many.lower == pytest.approx(moved / 1e9 + 134 * 2e-6)
    bound = Device(bandwidth=1e15, flops=1e15, tensor_flops=1e6)
    slow = cost.step_seconds(sheet, bound, rows=100, slots=10, element_bytes=2, whole=True)
    assert slow.lower == pytest.approx(2.25 * 100 * latents * 128 / 1e6, rel=0.01)


def test_an_estimate_follows_its_formula() -> None:
    sheet = load_bundle(BUNDLE).manifest
    device = Device(bandwidth=1e9, flops=1e15, tensor_flops=1e15)
    found = cost.step_seconds(sheet, device, rows=100, slots=10, element_bytes=2)
    moved = 7 * 100 * 128 * 2 + 2 * 10 * 128 + 1.5 * 100 * 10
    assert found.lower == pytest.approx(moved / 1e9 + 17 * 2e-6)
    assert found.upper == pytest.approx(2 * moved / 1e9 + 17 * 10e-6)
    bound = Device(bandwidth=1e15, flops=1e15, tensor_flops=1e6)
    slow = cost.step_seconds(sheet, bound, rows=100, slots=10, element_bytes=2)
    assert slow.lower == pytest.approx(2 * 100 * 10 * 128 / 1e6, rel=0.01)
    planes = cost.step_seconds(sheet, bound, rows=100, slots=10, element_bytes=4)
    assert planes.lower == pytest.approx(3 * slow.lower, rel=0.01)


def test_what_the_kernels_do_not_encode_goes_by_torch() -> None:
    sheet = load_bundle(BUNDLE).manifest
    crowded = replace(sheet, encoder=replace(sheet.encoder, activation="topk", k=257))
    device = Device(bandwidth=1e9, flops=1e15, tensor_flops=1e15)
    whole = cost.step_seconds(crowded, device, rows=100, slots=10, element_bytes=2, whole=True)
    moved = 100 * 128 * 24 + 12 * 1040 * 128 + 4 * 100 * 1040 + 2 * 42 * 100 * 10
    assert whole.lower == pytest.approx(moved / 1e9 + 56 * 2e-6)
    head = HeadSheet(direction=15, kind="mlp", activation="gelu", units=64)
    headed = replace(sheet, encoder=replace(sheet.encoder, heads=(head,)))
    found = cost.step_seconds(headed, device, rows=100, slots=10, element_bytes=2)
    moved = 100 * 128 * 24 + 4 * (10 + 64) * 128 + 4 * 100 * 10 + 2 * 42 * 100 * 10 + 2 * 12 * 100 * 64
    assert found.lower == pytest.approx(moved / 1e9 + 56 * 2e-6)


@pytest.mark.parametrize("name", DEVICES)
def test_more_rows_take_longer(name: str) -> None:
    sheet = load_bundle(BUNDLE).manifest
    ends = [
        cost.step_seconds(sheet, DEVICES[name], rows=rows, slots=100, element_bytes=2) for rows in (1, 256, 1024, 8192)
    ]
    assert all(left.lower < right.lower and left.upper < right.upper for left, right in itertools.pairwise(ends))
    assert all(one.lower < one.upper for one in ends)


def test_the_bound_that_is_hit_first() -> None:
    uses = [Use(name="a", used=1, bound=10, hint=""), Use(name="b", used=5, bound=20, hint="")]
    assert cost.first(uses).name == "b"
    assert uses[1].share == 0.25
    assert np.isclose((Seconds(1, 2) + Seconds(3, 4)).upper, 6)
