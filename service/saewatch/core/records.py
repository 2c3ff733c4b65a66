"""The records that pass between an engine and its sidecar, and the one type that goes through the whole program.

Strings travel once, in control records; a `FiringBatch` carries small integers that those records explain. Numbers for
streams, watch sets and requests are given by the engine and mean nothing beyond its connection. `wire` turns records
into frames and back; `check()` runs before writing and after reading.

Accounting, per stream, at every `Beat` and exactly at quiescence::

    fed = encoded + reused + sum(missed[reason]) + in_flight

*fed* comes from the requests' lengths, the right-hand side from rows: the equality can fail.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import Census, FiringBatch, Reason, WatchSet
from saewatch.core.checks import at_least_zero, counts, in_range, one_of
from saewatch.core.errors import RecordError
from saewatch.core.marks import Mark, RecordingHead, RecordingIndex, Sheet


class Role(enum.StrEnum):
    """What a stream's dictionary is used for."""

    STABLE = "stable"
    SHADOW = "shadow"


class TrafficClass(enum.StrEnum):
    """Whose request it is, as the trusted hop said."""

    LIVE = "live"
    CANARY = "canary"
    SHADOW = "shadow"
    TEST = "test"
    UNLABELLED = "unlabelled"


class Outcome(enum.StrEnum):
    """How a request ended, as the API server saw it."""

    OPEN = ""
    COMPLETED = "completed"
    DISCONNECTED = "disconnected"
    ERROR = "error"


STAGES = frozenset({"sink", "snapshot", "encode", "host", "ship"})
"""Where the tap spends its time. The list is closed: it becomes a metric's label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpen:
    """Opens a stream: one dictionary on one hook point of one engine rank."""

    stream: int
    engine: str  # instance name, unique in the deployment
    epoch: int  # start of the engine, ns since 1970: orders restarts of one instance
    dp_rank: int = 0
    pp_rank: int = 0
    tp_rank: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    model_name: str = ""
    model_digest: str = ""
    model_proof: str = ""  # how much of the model the digest covers: a level of `fit.PROOFS`
    quantisation: str = ""
    hook_point: str = ""
    weights_digest: str = ""
    catalogue_digest: str = ""
    mode: str = "exact"
    role: str = Role.STABLE
    excluded: Mapping[str, str] = field(default_factory=dict)
    blind: str = ""  # why this stream sees nothing, if it does not

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range."""
        in_range("stream_open.stream", self.stream, 0, 0xFFFF)
        counts("stream_open", self, "epoch", "dp_rank", "pp_rank", "tp_rank")
        one_of("stream_open.role", self.role, set(Role))
        one_of("stream_open.mode", self.mode, {"exact", "thresholded"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStart:
    """A request was scheduled for the first time. Repeated for every open request after a reconnect."""

    request: int
    engine_id: str  # vLLM's own id, which holds the key that the middleware gave
    child: int = 0  # of several sampled answers
    prompt_len: int
    cached: int = 0  # leading positions that are never computed
    cached_from: str = ""  # prefix | external
    adapter: str = ""
    time_ns: int = 0

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range."""
        in_range("request_start.request", self.request, 1, 0xFFFFFFFF)
        in_range("request_start.prompt_len", self.prompt_len, 0, limits.POSITION_MAX)
        in_range("request_start.cached", self.cached, 0, limits.POSITION_MAX)
        one_of("request_start.cached_from", self.cached_from, {"", "prefix", "external"})
        counts("request_start", self, "child", "time_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnd:
    """A request left the engine. Why it did, only the middleware knows."""

    request: int
    fed: int  # positions that went through the model, cached ones included
    emitted: int  # sampled tokens
    time_ns: int = 0

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range."""
        in_range("request_end.request", self.request, 1, 0xFFFFFFFF)
        in_range("request_end.fed", self.fed, 0, limits.POSITION_MAX)
        in_range("request_end.emitted", self.emitted, 0, limits.POSITION_MAX)
        counts("request_end", self, "time_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBeat:
    """One stream's books, cumulative since it was opened."""

    stream: int
    seq: int  # last given
    fed: int = 0
    encoded: int = 0  # acknowledged by a sidecar
    reused: int = 0
    missed: Mapping[str, int] = field(default_factory=dict)  # by Reason.label
    in_flight: int = 0
    firings: int = 0
    told: int = 0  # tokens of acknowledged batches, rows and losses: where a new sidecar's stream goes on
    told_firings: int = 0  # of the same batches
    sink_calls: int = 0  # a counter on the device: forward passes that the sink saw
    blind: str = ""

    @property
    def accounted(self) -> int:
        """What became of everything that was fed."""
        return self.encoded + self.reused + sum(self.missed.values()) + self.in_flight

    @property
    def imbalance(self) -> int:
        """``fed`` less everything that accounts for it: zero, or a bug."""
        return self.fed - self.accounted

    def check(self) -> None:
        """Raises `RecordError` where a field or their sum is out of range, or a reason is unknown."""
        in_range("stream_beat.stream", self.stream, 0, 0xFFFF)
        counts("stream_beat", self, "seq", "fed", "encoded", "reused", "in_flight", "firings", "sink_calls")
        counts("stream_beat", self, "told", "told_firings")
        known = {reason.label for reason in Reason}
        for reason, tokens in self.missed.items():
            one_of("stream_beat.missed", reason, known)
            in_range(f"stream_beat.missed[{reason}]", tokens, 0, limits.COUNT_MAX)
        in_range("stream_beat.accounted", self.accounted, 0, limits.COUNT_MAX)  # then the imbalance fits an int64 too


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The engine is alive. Sent each second, and first after a connect."""

    engine: str
    epoch: int
    time_ns: int
    streams: tuple[StreamBeat, ...] = ()
    queue_bytes: int = 0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)  # by stage

    def check(self) -> None:
        """Raises `RecordError` where a stream's books are out of range or a stage is unknown."""
        counts("beat", self, "epoch", "time_ns", "queue_bytes")
        for stage, seconds in self.stage_seconds.items():
            one_of("beat.stage_seconds", stage, STAGES)
            at_least_zero(f"beat.stage_seconds[{stage}]", seconds)
        for stream in self.streams:
            stream.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnd:
    """A stream has ended, with its final books."""

    stream: int
    reason: str  # swap | reload | sleep | shutdown | fault
    final: StreamBeat

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range."""
        in_range("stream_end.stream", self.stream, 0, 0xFFFF)
        one_of("stream_end.reason", self.reason, {"swap", "reload", "sleep", "shutdown", "fault"})
        self.final.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLabel:
    """What the API server's middleware knows of a request; sent when it arrives and again when it ends."""

    key: str  # the id under which vLLM knows the request
    client_id: str = ""  # the client's own X-Request-Id: no proof of anything
    tenant: str = ""
    traffic_class: str = TrafficClass.LIVE
    conversation: str = ""
    trace_id: str = ""
    outcome: str = Outcome.OPEN
    status: int = 0  # HTTP status, when it ended
    time_ns: int = 0

    def check(self) -> None:
        """Raises `RecordError` where a field is out of its list, or without a key: that one fits many requests."""
        if not self.key:
            raise RecordError("request_label.key", found="nothing", expected="a request's key")
        one_of("request_label.traffic_class", self.traffic_class, set(TrafficClass))
        one_of("request_label.outcome", self.outcome, set(Outcome))
        in_range("request_label.status", self.status, 0, 999)
        counts("request_label", self, "time_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Sidecar to engine: everything up to ``seq`` of ``stream`` was received and observed."""

    stream: int
    epoch: int
    seq: int  # 0: nothing

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range."""
        in_range("ack.stream", self.stream, 0, 0xFFFF)
        counts("ack", self, "epoch", "seq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Sidecar to engine: do ``verb``. What an engine does not carry out it answers with a failed `Result`.

    =========  =====================================================================================================
    verb       arguments, all text
    =========  =====================================================================================================
    self_test  none
    off, on    none: the streams stay open, and are blind with the word ``off`` until they are switched on
    watch      ``weights``: digest of the stream's dictionary; ``hook_point``: empty, or the stream's;
               ``watch``: a JSON list of feature ids, empty for what the engine's configuration said
    load       ``replace``: digest of the stream that is to end; ``hook_point``, ``role``: empty, or the stream's;
               ``path``: a bundle's folder as the engine sees it; ``weights``: the digest that is expected there
    =========  =====================================================================================================
    """

    command: int
    verb: str  # load | watch | on | off | self_test
    arguments: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raises `RecordError` for an unknown verb or a field out of range."""
        counts("command", self, "command")
        one_of("command.verb", self.verb, {"load", "watch", "on", "off", "self_test"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Engine to sidecar: what came of a command, or that it is not carried out.

    A self-test has one for each stream, so that each fits a frame: its details are those of `selftest.SelfTest`, by
    ``stream``, of ``streams`` in all. Without these two keys it is the only result: good, and what was asked for is in
    force, with ``weights`` and ``watch`` digests, ``slots`` and, after a load, the number of the stream that ``opened``
    as details; or not, and nothing has changed, with the error's text as its message.
    """

    command: int
    good: bool
    message: str = ""
    details: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range."""
        counts("result", self, "command")


_KEY = re.compile(r"sw-[0-9a-f]{32}")


def key_of(engine_id: str) -> str:
    """The middleware's key inside vLLM's id (``chatcmpl-<key>-<suffix>``, ``0_cmpl-<key>-0-…``); empty without one."""
    match = _KEY.search(engine_id)
    return match[0] if match else ""


Record = (
    StreamOpen
    | WatchSet
    | RequestStart
    | RequestEnd
    | FiringBatch
    | Census
    | Beat
    | StreamEnd
    | RequestLabel
    | Ack
    | Command
    | Result
    | RecordingHead
    | Mark
    | Sheet
    | RecordingIndex
)


def same(left: Record, right: Record) -> bool:
    """Whether two records say the same, columns compared by their bytes."""
    return type(left) is type(right) and all(
        _same_value(getattr(left, item.name), getattr(right, item.name)) for item in fields(left)
    )


def _same_value(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return bool(left.shape == right.shape and left.tobytes() == np.asarray(right, dtype=left.dtype).tobytes())
    return bool(left == right)
