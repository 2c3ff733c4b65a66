"""What the monitor makes of records, for the sinks: batches with identities, requests' ends, the state of things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import I32, U8, U64, FiringBatch
from saewatch.core.records import StreamBeat, TrafficClass
from saewatch.monitor.alert import AlertChanged
from saewatch.monitor.identity import Identity
from saewatch.monitor.silences import SilenceChanged
from saewatch.monitor.tables import StreamIdentity, WatchTable

UNKNOWN = -1
"""Index of a request that is not known."""
CLASSES = tuple(TrafficClass)
"""In the order of the numbers that columns have for them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fired:
    """What features did in a batch: one entry for each of them that a firing makes fire."""

    firing: npt.NDArray[np.intp] | slice  # [K] index into the batch's firings
    feature: I32  # [K] of the table
    row: npt.NDArray[np.intp]  # [K] of the batch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observed:
    """A batch, the table that explains its slots, and the requests that it is about."""

    batch: FiringBatch
    table: WatchTable
    fired: Fired
    requests: tuple[Identity, ...]  # [D]
    traffic_class: U8  # [D+1] index into CLASSES; the last is that of unknown requests
    span_request: I32  # [R] index into requests, or UNKNOWN
    missed_request: I32  # [M] the same
    newly_fired: I32  # features of the table, once for each counted request in which they fired for the first time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unreadable:
    """A batch whose dictionary is not known: only its tokens can be counted."""

    stream: StreamIdentity
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestEnded:
    """A request has left the engine; every batch of it was observed before."""

    identity: Identity
    fed: int
    emitted: int
    lost: bool  # the engine was lost, so that fed and emitted are not known


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindState:
    """Something is known not to see."""

    scope: str  # tap | feature | detector
    reason: str
    subject: str
    hint: str
    since_ns: int
    model_name: str = ""
    rank: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamState:
    """One stream as it stands."""

    identity: StreamIdentity
    books: StreamBeat | None
    beat_time_ns: int
    connected: bool
    ended: str
    blind: str
    received_seq: int
    received_rows: int
    received_missed: int
    received_firings: int
    unread_rows: int  # of those received: refused, or of a dictionary that is not known
    seq_gaps: int
    duplicates: int
    slots: int
    base: tuple[int, int] | None  # tokens and firings that the engine had told others before; None: it has not said


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """The books and what is blind: at each beat, and when a blind state changes."""

    streams: tuple[StreamState, ...]
    blind: tuple[BlindState, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineCost:
    """What an engine spent on being watched since its last beat, and how much waits in its queue."""

    model_name: str
    rank: str
    stage_seconds: Mapping[str, float]
    queue_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sampled:
    """A part of a census: the whole dictionary on sampled tokens of all traffic. What they came to is in each part."""

    stream: StreamIdentity
    tokens: int
    l0: float  # latents that fire on a token
    unexplained: float  # share of the variance; NaN without a decoder
    latents: int  # of the dictionary
    first: int  # of this part
    count: U64  # [K] tokens on which each latent of this part fired


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DriftState:
    """How the detectors of drift stand: after each block that was closed."""

    scores: Mapping[str, float]  # by feature
    alarms: Mapping[str, int]  # by kind, since the start
    counters: Mapping[str, int]  # blocks that were judged, or held and why; the panel's rounds, by how it stood
    causes: Mapping[str, int] = field(default_factory=dict)  # alarms by what they are put down to
    latents: Mapping[tuple[str, str], int] = field(default_factory=dict)  # by weights, and dead or dense
    overlaps: Mapping[str, float] = field(default_factory=dict)  # by weights: how much alike the panel is to itself


Event = (
    Observed | Unreadable | RequestEnded | Standing | EngineCost | AlertChanged | SilenceChanged | DriftState | Sampled
)
