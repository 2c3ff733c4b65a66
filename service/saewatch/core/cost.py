"""What watching costs while it runs: time on the device, bytes a second, series, and which bound comes first.

Everything here is arithmetic over shapes and rates, done before anything runs. Times are *estimates*, never
measurements: a lower and an upper end from this formula::

    bytes   = 5·T·d·b                        the sink reads two tensors and writes one; a staging slot copies it
            + 2·T·d·b                        rows are read by what prepares them and by the product
            + chunks·w·S·d                   the encoder's rows once for each 1,024 of the step
            + 2·T·S·0.75                     bits, and counts of tiles of 16, written and read once
    flop    = 2·T·S·d·pairs                  by tensor cores; pairs of bfloat16 planes: 1 of one 16-bit type
    launches = 14 + 3·chunks                 counted on the code; one launch serves all streams, and is counted for each

    lower   = max(bytes / bandwidth, flop / rate) + launches · 2 µs
    upper   = 2 · max(…)                          + launches · 10 µs

T rows of a step, S watched rows, d the width, b bytes of an activation and w of a stored weight. Where latents
compete, F of them of which k win, and T is at most 128::

    bytes   = T·d·(6·b + 12)                 rows are upcast, and read by the norm and by the product
            + 1.125·w·F·d                    the dictionary once, and a sample of it for a floor
            + 8·k·T·w·d                      what reaches the floor is computed once more
            + 4·D·d + 2·42·T·S               the watched directions (D at most), what of the winners is watched
    flop    = 2·1.125·T·F·d·pairs
    launches = 14 + 72·chunks

With more rows the sums go through windows: 8·T·F bytes in place of what is computed once more, 118 launches in place
of 72, and two for each 2,048 latents. What the kernels do not encode (heads, more than 256 winners, other widths) goes
through torch::

    bytes   = 5·T·d·b + T·d·(b + 12)         rows are upcast, and read by the norm and by the product
            + chunks·4·S·d + 4·T·S           the encoder's rows; products written
            + 2·42·T·S                       what lies between product and slab, written and read once
    flop    = 2·T·S·d + heads                in float32, outside of tensor cores
    launches = 14 + 42·chunks

Where latents compete there, S is the whole dictionary in the product, and its rows are upcast block by block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saewatch.core import limits
from saewatch.core.batch import Reason
from saewatch.core.footprint import (
    HEAD_TEMPORARY_BYTES,
    ROWS,
    SAMPLE,
    SCREENED,
    TEMPORARY_BYTES,
    WIDTH,
    WINDOW,
    WINNERS,
)
from saewatch.core.manifest import DTYPES, Manifest
from saewatch.core.records import STAGES, TrafficClass


@dataclass(frozen=True, slots=True)
class Device:
    """What a device's data sheet states."""

    bandwidth: float
    """Bytes a second of its memory."""
    flops: float
    """float32, outside of tensor cores."""
    tensor_flops: float
    """bfloat16, by tensor cores, dense."""


DEVICES: Mapping[str, Device] = {
    "H200": Device(4.8e12, 67e12, 989e12),
    "H100": Device(3.35e12, 67e12, 989e12),
    "A100": Device(2.04e12, 19.5e12, 312e12),
    "L40S": Device(0.864e12, 91.6e12, 362e12),
    "L4": Device(0.3e12, 30.3e12, 121e12),
}
"""By the makers' data sheets (SXM, 80 GB or more where there are several). What is not here is not modelled."""

LAUNCHES_STEP, LAUNCHES_CHUNK, LAUNCHES_FUSED = 14, 42, 3
"""Of a step, and of each `footprint.ROWS` rows of it by torch (counted by dispatch, views left out) and by kernels."""
LAUNCHES_COMPETING = (72, 118)
"""Of each `footprint.ROWS` rows where latents compete, up to `footprint.SCREENED` in all and beyond, by kernels and
what is around them; windows come on top."""
LAUNCH_S = (2e-6, 10e-6)
"""One launch: where the device waits for nothing else, and where Python is what it waits for."""
SLACK = 2.0
"""Of a data sheet's peak about half is reached by kernels as small as these."""

_PLANES: Mapping[int, int] = {2: 1, 4: 3}
"""Of bfloat16, that hold a number of so many bytes: a float16 beside a bfloat16, which takes two, is not told apart."""

BATCH_HEAD_BYTES = 144
"""Header, head and padding of a batch's frame, once its numbers have six digits."""
MESSAGE_BYTES = 64
"""Field numbers, sequence numbers and times of one message to a subscriber."""
REQUEST_BYTES = 160
"""Who a request is, in each message that has rows of it, with a key, a client's id and a tenant."""
SERIES_FIXED = 64
"""What the metrics page has besides features and tokens: lag, queues, blind states, faults, overhead and versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What is asked of the engine."""

    tokens_per_s: float
    firings_per_token: float
    rows: int
    """Of a step that decodes: sequences that run at a time."""

    @property
    def firings_per_s(self) -> float:
        """Firings in a second."""
        return self.tokens_per_s * self.firings_per_token

    @property
    def steps_per_s(self) -> float:
        """Steps in a second, were each of them full."""
        return self.tokens_per_s / self.rows


@dataclass(frozen=True, slots=True)
class Seconds:
    """An estimate's two ends."""

    lower: float
    upper: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.lower + other.lower, self.upper + other.upper)


def step_seconds(
    manifest: Manifest, device: Device, *, rows: int, slots: int, element_bytes: int, whole: bool = False
) -> Seconds:
    """The estimate for one step of ``rows`` rows; ``whole``: the whole dictionary is encoded, not the slots alone."""
    sheet = manifest.encoder
    d, chunks = sheet.d_in, math.ceil(rows / ROWS)
    if not whole and not sheet.heads and d % WIDTH == 0:
        return _by_kernels(manifest, device, rows=rows, slots=slots, element_bytes=element_bytes)
    if whole and not sheet.heads and d % WIDTH == 0 and (sheet.k or 0) <= WINNERS:
        return _competing(manifest, device, rows=rows, slots=slots, element_bytes=element_bytes)
    encoded = sheet.rows if whole else slots
    moved = rows * d * (6 * element_bytes + 12)
    moved += chunks * (12 if whole else 4) * encoded * d + 4 * rows * encoded + 2 * TEMPORARY_BYTES * rows * slots
    heads = sum(head.units for head in sheet.heads)
    moved += chunks * 4 * heads * d + 2 * HEAD_TEMPORARY_BYTES * rows * heads
    busy = max(moved / device.bandwidth, 2 * rows * (encoded + heads) * d / device.flops)
    return _ends(busy, LAUNCHES_STEP + LAUNCHES_CHUNK * chunks)


def _by_kernels(manifest: Manifest, device: Device, *, rows: int, slots: int, element_bytes: int) -> Seconds:
    d, chunks, stored = manifest.encoder.d_in, math.ceil(rows / ROWS), DTYPES[manifest.tensors["W"].dtype]
    moved = 7 * rows * d * element_bytes + chunks * stored * slots * d + 2 * 0.75 * rows * slots
    pairs = _PLANES[stored] * _PLANES[element_bytes]
    busy = max(moved / device.bandwidth, 2 * rows * slots * d * pairs / device.tensor_flops)
    return _ends(busy, LAUNCHES_STEP + LAUNCHES_FUSED * chunks)


def _competing(manifest: Manifest, device: Device, *, rows: int, slots: int, element_bytes: int) -> Seconds:
    sheet, stored = manifest.encoder, DTYPES[manifest.tensors["W"].dtype]
    d, latents, chunks, read = sheet.d_in, sheet.latents, math.ceil(rows / ROWS), 1 + 1 / SAMPLE
    beside = min(slots, sheet.directions)
    moved = rows * d * (6 * element_bytes + 12) + chunks * (read * stored * latents + 4 * beside) * d
    moved += 2 * TEMPORARY_BYTES * rows * slots
    moved += 8 * rows * latents if rows > SCREENED else SAMPLE * (sheet.k or 0) * rows * stored * d
    pairs = _PLANES[stored] * _PLANES[element_bytes]
    busy = max(moved / device.bandwidth, 2 * read * rows * latents * d * pairs / device.tensor_flops)
    few, many = LAUNCHES_COMPETING
    launches = many + 2 * math.ceil(latents / WINDOW) if rows > SCREENED else few
    return _ends(busy, LAUNCHES_STEP + launches * chunks)


def _ends(busy: float, launches: int) -> Seconds:
    return Seconds(busy + launches * LAUNCH_S[0], SLACK * busy + launches * LAUNCH_S[1])


def socket_bytes(rows: int, firings: float) -> float:
    """Bytes on the socket for one decoding step: each row is a span of its own. Larger steps have more frames."""
    columns = 4 + 13 * rows + 10 * firings
    frames = math.ceil(columns / (limits.FRAME_BYTES - BATCH_HEAD_BYTES))
    return columns + frames * BATCH_HEAD_BYTES


def socket_bytes_per_s(traffic: Traffic) -> float:
    """Bytes a second from an engine to its sidecar; a recording has the same."""
    return traffic.steps_per_s * socket_bytes(traffic.rows, traffic.rows * traffic.firings_per_token)


def message_bytes(rows: float, firings: float, requests: float) -> float:
    """Bytes of one message to a subscriber: spans, firings, and who the requests are."""
    return MESSAGE_BYTES + 13 * rows + 12 * firings + REQUEST_BYTES * requests


def subscriber_bytes_per_s(traffic: Traffic) -> float:
    """Bytes a second to one subscriber without a filter.

    A message leaves every 20 ms, with 64 KiB or with 1,024 tokens, whichever comes first; a step leaves as a whole.
    """
    step = message_bytes(traffic.rows, traffic.rows * traffic.firings_per_token, 0)
    full = traffic.steps_per_s * max(traffic.rows / limits.FLUSH_TOKENS, step / limits.FLUSH_BYTES)
    messages = min(max(min(1e9 / limits.FLUSH_NS, traffic.steps_per_s), full), traffic.tokens_per_s)
    rows = traffic.tokens_per_s / messages
    requests = min(traffic.rows, rows)
    return messages * message_bytes(0, 0, requests) + 13 * traffic.tokens_per_s + 12 * traffic.firings_per_s


def series(features: int, *, streams: int = 1) -> int:
    """Series on the metrics page of one engine, at most: every class, outcome and reason has occurred."""
    outcomes = 2 + len(Reason)
    return 2 * features + streams * (len(TrafficClass) * outcomes + 1) + len(STAGES) + SERIES_FIXED


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How much of a bound is used, and what to do when it is too much."""

    name: str
    used: float
    bound: float
    hint: str
    refuses: bool = False
    """The tap does not start beyond it; else what is beyond is counted as missed."""

    @property
    def share(self) -> float:
        """Of the bound."""
        return self.used / self.bound


def first(uses: Sequence[Use]) -> Use:
    """The bound that is hit first when everything grows alike."""
    return max(uses, key=lambda one: one.share)
