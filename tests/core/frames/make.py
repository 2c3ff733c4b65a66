"""Writes the recorded frames that this and every later version must read: one file for each kind, and all in a stream.

Run from the repository's root::

    PYTHONPATH=service python tests/core/frames/make.py

It writes ``tests/core/frames/v<version>/``, or the folder given as its argument: ``<Kind>.bin`` holds one frame,
``<Kind>.json`` what it says; ``stream.bin`` and ``stream.json`` hold all of them in order. The content is fixed: frames
of a released version are never written anew, a new version of the format gets a folder of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saewatch.core.batch import Census, FiringBatch, Origin, Reason, SlotKind, WatchSet
from saewatch.core.marks import Happening, Mark, RecordingHead, RecordingIndex, Sheet
from saewatch.core.records import (
    Ack,
    Beat,
    Command,
    Outcome,
    Record,
    RequestEnd,
    RequestLabel,
    RequestStart,
    Result,
    Role,
    StreamBeat,
    StreamEnd,
    StreamOpen,
    TrafficClass,
)
from saewatch.core.wire import VERSION, encode

FOLDER = Path(__file__).parent / f"v{VERSION}"
KEY = "sw-0123456789abcdef0123456789abcdef"
TIME_NS = 1_750_000_000_123_456_789
EPOCH = 1_749_999_999_000_000_001

BEAT = StreamBeat(
    stream=3,
    seq=7,
    fed=100,
    encoded=80,
    reused=5,
    missed={"cached": 9, "excluded": 1},
    in_flight=5,
    firings=412,
    told=90,
    told_firings=400,
    sink_calls=12,
    blind="",
)


def records() -> list[Record]:
    """One record of each kind, every field away from its default, in the order of a connection, and of a recording."""
    return [*watched(), *told(), *kept()]


def watched() -> list[Record]:
    """What a stream says of itself and of its tokens."""
    return [
        StreamOpen(
            stream=3,
            engine="llama-0",
            epoch=EPOCH,
            dp_rank=1,
            pp_rank=2,
            tp_rank=3,
            versions={"saewatch": "0.1.0", "vllm": "0.12.0"},
            model_name="meta-llama/Llama-3.1-8B-Instruct",
            model_digest=f"sha256:{'1' * 64}",
            model_proof="config",
            quantisation="fp8",
            hook_point="resid_post.14",
            weights_digest=f"sha256:{'2' * 64}",
            catalogue_digest=f"sha256:{'3' * 64}",
            mode="thresholded",
            role=Role.SHADOW,
            excluded={"first_tokens": "1", "note": "naïve “quotes”, 日本語, \U0001f50e"},
            blind="self-test failed",
        ),
        WatchSet(
            stream=3,
            watch=2,
            digest=f"sha256:{'4' * 64}",
            first=1,
            total=4,
            row=np.array([7, 131_071, 12], dtype=np.uint32),
            floor=np.array([0.0, 0.25, -1.5], dtype=np.float32),
            kind=np.array([SlotKind.LATENT, SlotKind.LATENT, SlotKind.DIRECTION], dtype=np.uint8),
        ),
        RequestStart(
            request=41,
            engine_id=f"chatcmpl-{KEY}-5f",
            child=1,
            prompt_len=96,
            cached=9,
            cached_from="prefix",
            adapter="sql",
            time_ns=TIME_NS,
        ),
        FiringBatch(
            stream=3,
            watch=2,
            seq=7,
            step=19,
            time_ns=TIME_NS,
            request=np.array([41, 42, 41], dtype=np.uint32),
            span_start=np.array([0, 3, 4, 6], dtype=np.int32),
            position=np.array([9, 200, 4], dtype=np.int32),
            origin=np.array([Origin.COMPUTED, Origin.RECOMPUTED, Origin.REUSED], dtype=np.uint8),
            missed_request=np.array([41, 0], dtype=np.uint32),
            missed_reason=np.array([Reason.EXCLUDED, Reason.NO_SLOT], dtype=np.uint8),
            missed_tokens=np.array([1, 17], dtype=np.int32),
            row=np.array([0, 0, 2, 5], dtype=np.uint32),
            slot=np.array([1, 3, 1, 65_535], dtype=np.uint16),
            value=np.array([1.5, -0.25, 3.4028234663852886e38, 1.401298464324817e-45], dtype=np.float32),
        ),
    ]


def told() -> list[Record]:
    """Counters, labels, ends, and the answers of both sides."""
    return [
        Census(
            stream=3,
            time_ns=TIME_NS,
            tokens=1000,
            latents=16,
            first=13,
            l0_mean=63.5,
            squared_error=12.25,
            squared_total=50.0,
            total=np.array([0.0, 1.5, 1e300], dtype=np.float64),
            count=np.array([0, 3, 1000], dtype=np.uint64),
        ),
        Beat(
            engine="llama-0",
            epoch=EPOCH,
            time_ns=TIME_NS,
            streams=(BEAT, StreamBeat(stream=4, seq=0, blind="no dictionary")),
            queue_bytes=4096,
            stage_seconds={"sink": 0.5, "snapshot": 0.25, "encode": 1.125, "host": 0.0625, "ship": 0.1},
        ),
        RequestLabel(
            key=KEY,
            client_id="order 66\r\n\x1b[31m",
            tenant="acme",
            traffic_class=TrafficClass.CANARY,
            conversation="c-1",
            trace_id="0af7651916cd43dd8448eb211c80319c",
            outcome=Outcome.COMPLETED,
            status=200,
            time_ns=TIME_NS,
        ),
        RequestEnd(request=41, fed=104, emitted=9, time_ns=TIME_NS + 1),
        StreamEnd(stream=3, reason="swap", final=BEAT),
        Ack(stream=3, epoch=EPOCH, seq=7),
        Command(command=5, verb="load", arguments={"digest": f"sha256:{'5' * 64}"}),
        Result(command=5, good=True, message="loaded", details={"seconds": "1.25"}),
    ]


def kept() -> list[Record]:
    """What only a recording holds."""
    return [
        RecordingHead(program="0.1.0", began_ns=TIME_NS, note="“Montag”, 24 prompts"),
        Sheet(
            weights=f"sha256:{'2' * 64}",
            name="attestations/fit.0123456789ab.json",
            first=3,
            total=8,
            data=np.array([123, 0, 255, 10, 125], dtype=np.uint8),
        ),
        Mark(link=2, time_ns=TIME_NS + 2, what=Happening.DISCONNECTED, lost=3),
        RecordingIndex(
            duration_ns=12_345_678_901,
            frames=1234,
            rows=5678,
            missed=90,
            firings=98_765,
            requests=24,
            lost=3,
            offset=np.array([190, 4_294_967_296, 2**62], dtype=np.uint64),
            time_ns=np.array([TIME_NS, TIME_NS + 1, TIME_NS + 1], dtype=np.uint64),
        ),
    ]


def says(record: Record) -> dict[str, Any]:
    """What a record says, in JSON's types: columns are lists, and a column's type is written beside them."""
    return {"kind": type(record).__name__, **{item.name: _plain(getattr(record, item.name)) for item in fields(record)}}


def files() -> dict[str, bytes]:
    """Every file of the folder."""
    written: dict[str, bytes] = {}
    for record in records():
        name = type(record).__name__
        written[f"{name}.bin"] = encode(record)
        written[f"{name}.json"] = _json(says(record))
    written["stream.bin"] = b"".join(encode(record) for record in records())
    written["stream.json"] = _json([says(record) for record in records()])
    return written


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.name, "values": value.tolist()}
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, content in files().items():
        (folder / file_name).write_bytes(content)
