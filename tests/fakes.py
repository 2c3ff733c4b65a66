"""Stand-ins that speak for real: an engine and an API server on the real socket, and a dictionary without tensors."""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from saewatch.core import limits
from saewatch.core.attestation import Adapter, Attestation, Fit
from saewatch.core.batch import FiringBatch, Reason, SlotKind, WatchSet
from saewatch.core.catalogue import Catalogue, Feature
from saewatch.core.manifest import (
    BUNDLE_FILE,
    CATALOGUE_FILE,
    MANIFEST_FILE,
    BundleSheet,
    EncoderSheet,
    Manifest,
    TensorSheet,
    attestation_path,
    expected_tensors,
)
from saewatch.core.records import (
    Ack,
    Beat,
    Command,
    Record,
    RequestEnd,
    RequestLabel,
    RequestStart,
    StreamBeat,
    StreamEnd,
    StreamOpen,
)
from saewatch.core.selftest import Check, CheckState, SelfTest
from saewatch.core.wire import decode, encode
from saewatch.monitor.tables import KnownDictionary

LATENTS, DIRECTIONS = 64, 4
Span = tuple[int, int, int] | tuple[int, int, int, int]
"""Request, first position, tokens, and an origin other than computed."""
Firing = tuple[int, int, float]
"""Row, slot, value."""
Missed = tuple[int, Reason, int]
"""Request, reason, tokens."""


def feature(name: str, *, category: str = "x.demo", floor: float = 0.0, **units: Any) -> Feature:
    """A feature of `dictionary`."""
    return Feature(id=name, label=f"label of {name}", category=category, severity="low", floor=floor, **units)


FEATURES = (
    feature("animals.g1", latents=(1, 2), category="x.animals"),
    feature("threat.l1", latents=(3,), category="vcr"),
    feature("threat.p1", direction=0, category="vcr"),
)


def dictionary(features: Sequence[Feature] = FEATURES, *, seed: int = 0, latents: int = LATENTS) -> KnownDictionary:
    """A sound data sheet and catalogue; another ``seed`` is another dictionary."""
    encoder = EncoderSheet(activation="jumprelu", latents=latents, directions=DIRECTIONS, d_in=8, d_out=8)
    tensors = {
        name: TensorSheet(dtype="F32", shape=shape, sha256=_digest(f"{name} {seed}"))
        for name, shape in expected_tensors(encoder, "sae").items()
    }
    manifest = Manifest(kind="sae", hook_point="resid_post.3", encoder=encoder, tensors=tensors)
    catalogue = Catalogue(weights=manifest.digest, features=tuple(features))
    return KnownDictionary(
        manifest=manifest,
        catalogue=catalogue,
        weights_digest=manifest.digest,
        catalogue_digest=catalogue.digest,
    )


def write_bundle(folder: Path, known: KnownDictionary, *, model: str = "", adapters: Sequence[str] = ()) -> Path:
    """The sheets of a bundle, its tensors left out; ``model``, ``adapters`` and its evidence are attested."""
    fit = Fit(model=model, architecture="", d_model=8, layers=4, weights="", tokenizer="", chat_template="")
    bodies = [("adapter", Adapter(name=name, how="by hand").body()) for name in adapters]
    bodies += [("fit", fit.body())] if model else []
    attested = [Attestation(kind=kind, weights=known.weights_digest, body=body) for kind, body in bodies]
    attested += known.evidence
    for one in attested:
        path = folder / attestation_path(one.kind, one.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.data())
    folder.mkdir(parents=True, exist_ok=True)
    sheet = BundleSheet(
        weights=known.weights_digest,
        catalogue=known.catalogue.digest,
        attestations=tuple(sorted((one.kind, one.digest) for one in attested)),
    )
    (folder / BUNDLE_FILE).write_bytes(sheet.data())
    (folder / MANIFEST_FILE).write_bytes(known.manifest.data())
    (folder / CATALOGUE_FILE).write_bytes(known.catalogue.data())
    return folder


def slots_of(known: KnownDictionary) -> list[tuple[SlotKind, int, float]]:
    """Kind, unit and floor of each slot of a watch set over all features, as an engine makes it."""
    watch, latents = known.catalogue.watch_list(known.manifest), known.manifest.encoder.latents
    return [
        (SlotKind.LATENT, row, floor) if row < latents else (SlotKind.DIRECTION, row - latents, floor)
        for row, floor in zip(watch.rows, watch.floors, strict=True)
    ]


def key(number: int) -> str:
    """A key as the middleware gives them."""
    return f"sw-{number:032x}"


def engine_id(number: int) -> str:
    """An engine's id around a key."""
    return f"chatcmpl-{key(number)}-0a1b2c3d"


def stream_open(known: KnownDictionary, **changes: Any) -> StreamOpen:
    """A stream over ``known``."""
    fields: dict[str, Any] = {
        "stream": 1,
        "engine": "engine-0",
        "epoch": 1000,
        "model_name": "demo-model",
        "hook_point": "resid_post.3",
        "weights_digest": known.weights_digest,
        "catalogue_digest": known.catalogue_digest,
        "versions": {"vllm": "0.0"},
    }
    return StreamOpen(**{**fields, **changes})


def beat(*, stream: int = 1, queue_bytes: int = 0, **books: Any) -> Beat:
    """A beat of ``engine-0`` with one stream's books."""
    one = StreamBeat(**{"stream": stream, "seq": 0, **books})
    return Beat(engine="engine-0", epoch=1000, time_ns=time.time_ns(), streams=(one,), queue_bytes=queue_bytes)


def self_test(*, stream: int = 1, streams: int = 1, failing: str = "") -> SelfTest:
    """A self-test in which all is well but the ``failing`` check."""
    checks = [Check(name=name, state=CheckState.GOOD) for name in ("tap", "sink", "rows", "encoder") if name != failing]
    if failing:
        texts = {"found": "no call", "expected": "something else", "hint": "Restart it."}
        checks.append(Check(name=failing, state=CheckState.FAILED, **texts))
    return SelfTest(
        stream=stream,
        streams=streams,
        checks=tuple(checks),
        sink_calls=90,
        calls_since=12,
        steps_since=12,
        rows=13,
        compared=214,
        error_max=3e-7,
        oracle="oracle 1.0",
    )


def watch_set(known: KnownDictionary, *, stream: int = 1, watch: int = 1) -> WatchSet:
    """All features of ``known``."""
    slots = slots_of(known)
    return WatchSet(
        stream=stream,
        watch=watch,
        digest=known.catalogue.watch_list(known.manifest).digest,
        first=0,
        total=len(slots),
        row=np.array([unit for _, unit, _ in slots], dtype=np.uint32),
        floor=np.array([floor for _, _, floor in slots], dtype=np.float32),
        kind=np.array([kind for kind, _, _ in slots], dtype=np.uint8),
    )


def batch(
    spans: Sequence[Span],
    firings: Sequence[Firing] = (),
    *,
    missed: Sequence[Missed] = (),
    seq: int = 1,
    stream: int = 1,
    watch: int = 1,
    time_ns: int = 0,
) -> FiringBatch:
    """A batch from readable parts."""
    lengths = [span[2] for span in spans]
    return FiringBatch(
        stream=stream,
        watch=watch,
        seq=seq,
        step=seq,
        time_ns=time_ns or time.time_ns(),
        request=np.array([span[0] for span in spans], dtype=np.uint32),
        span_start=np.array([0, *np.cumsum(lengths, dtype=np.int32)], dtype=np.int32),
        position=np.array([span[1] for span in spans], dtype=np.int32),
        origin=np.array([span[3] if len(span) == 4 else 0 for span in spans], dtype=np.uint8),
        missed_request=np.array([item[0] for item in missed], dtype=np.uint32),
        missed_reason=np.array([item[1] for item in missed], dtype=np.uint8),
        missed_tokens=np.array([item[2] for item in missed], dtype=np.int32),
        row=np.array([item[0] for item in firings], dtype=np.uint32),
        slot=np.array([item[1] for item in firings], dtype=np.uint16),
        value=np.array([item[2] for item in firings], dtype=np.float32),
    )


def frame(spans: Sequence[Span], firings: Sequence[Firing] = (), **fields: Any) -> bytes:
    """The same, as a frame."""
    return encode(batch(spans, firings, **fields))


class Peer:
    """A program on the sidecar's socket."""

    def __init__(self, path: str, *, timeout_s: float = 5.0) -> None:
        self.path = path
        self._socket = self._connected(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _connected(self, timeout_s: float) -> socket.socket:
        end = time.monotonic() + timeout_s
        while True:
            candidate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                candidate.connect(self.path)
            except OSError:
                candidate.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            else:
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * limits.FRAME_BYTES)
                candidate.settimeout(timeout_s)
                return candidate

    def send(self, *records: Record) -> None:
        """Sends records as frames."""
        for record in records:
            self._socket.send(encode(record))

    def send_bytes(self, data: bytes) -> None:
        """Sends a datagram of anything."""
        self._socket.send(data)

    def send_with_descriptor(self, data: bytes, file: int) -> None:
        """Sends a datagram with an open file along."""
        socket.send_fds(self._socket, [data], [file])

    def send_without_waiting(self, data: bytes) -> bool:
        """Sends a datagram if the kernel takes it."""
        timeout = self._socket.gettimeout()
        self._socket.settimeout(0)  # with a timeout Python would try again
        try:
            self._socket.send(data)
        except BlockingIOError:
            return False
        finally:
            self._socket.settimeout(timeout)
        return True

    def receive(self, timeout_s: float = 5.0) -> Record | None:
        """The next record; None when none comes in time or the sidecar has closed."""
        self._socket.settimeout(timeout_s)
        try:
            data = self._socket.recv(limits.FRAME_BYTES)
        except (TimeoutError, ConnectionResetError):
            return None
        return decode(data) if data else None

    def drop_what_came(self) -> None:
        """Reads what the sidecar has said so far, and forgets it."""
        while select.select([self._socket], [], [], 0)[0] and self._socket.recv(limits.FRAME_BYTES):
            pass

    def closed_by_sidecar(self, timeout_s: float = 5.0) -> bool:
        """Whether the sidecar closes the connection; what it says before is dropped."""
        self._socket.settimeout(timeout_s)
        with contextlib.suppress(ConnectionResetError):
            while True:
                try:
                    if not self._socket.recv(limits.FRAME_BYTES):
                        return True
                except TimeoutError:
                    return False
        return True

    def close(self) -> None:
        """Leaves."""
        self._socket.close()


class FakeEngine(Peer):
    """An engine with one stream, or as many as are opened, that keeps its numbers and sequence as a real one does."""

    def __init__(
        self, path: str, known: KnownDictionary, *, engine: str = "engine-0", epoch: int = 1000, timeout_s: float = 5.0
    ) -> None:
        super().__init__(path, timeout_s=timeout_s)
        self.known = known
        self.engine = engine
        self.epoch = epoch
        self.seq: dict[int, int] = {}

    def open_stream(self, stream: int = 1, **changes: Any) -> int:
        """Opens a stream and gives the seq that the sidecar acknowledges at once."""
        fields = {"stream": stream, "engine": self.engine, "epoch": self.epoch, **changes}
        self.send(stream_open(self.known, **fields))
        ack = self.receive()
        assert isinstance(ack, Ack), ack
        assert (ack.stream, ack.epoch) == (stream, self.epoch)
        return ack.seq

    def watch(self, stream: int = 1, watch: int = 1) -> None:
        """Tells what is watched: every feature."""
        self.send(watch_set(self.known, stream=stream, watch=watch))

    def ready(self) -> Self:
        """A stream, its watch set and a beat."""
        self.open_stream()
        self.watch()
        self.beat()
        return self

    def start(self, request: int, *, prompt_len: int = 4, name: str = "", **fields: Any) -> None:
        """A request begins; its engine id holds `key(request)` unless it has a ``name``."""
        engine_name = name or engine_id(request)
        self.send(
            RequestStart(
                request=request, engine_id=engine_name, prompt_len=prompt_len, time_ns=time.time_ns(), **fields
            )
        )

    def batch(self, spans: Sequence[Span], firings: Sequence[Firing] = (), **fields: Any) -> int:
        """Sends a batch with the next seq, and gives it."""
        stream = fields.get("stream", 1)
        seq = fields.pop("seq", self.seq.get(stream, 0) + 1)
        self.seq[stream] = max(seq, self.seq.get(stream, 0))
        self.send(batch(spans, firings, seq=seq, **fields))
        return int(seq)

    def end(self, request: int, *, fed: int = 4, emitted: int = 1) -> None:
        """A request has ended."""
        self.send(RequestEnd(request=request, fed=fed, emitted=emitted, time_ns=time.time_ns()))

    def beat(self, books: Iterable[StreamBeat] = (), **fields: Any) -> None:
        """A beat, by default with empty books."""
        streams = tuple(books) or tuple(StreamBeat(stream=stream, seq=seq) for stream, seq in self.seq.items())
        self.send(Beat(engine=self.engine, epoch=self.epoch, time_ns=time.time_ns(), streams=streams, **fields))

    def end_stream(self, stream: int = 1, reason: str = "shutdown") -> None:
        """A stream has ended."""
        final = StreamBeat(stream=stream, seq=self.seq.get(stream, 0))
        self.send(StreamEnd(stream=stream, reason=reason, final=final))

    def commanded(self) -> Command:
        """The next command."""
        while not isinstance(record := self.receive(), Command):
            assert record is not None, "no command came"
        return record

    def answer(self, *tests: SelfTest) -> None:
        """Waits for a command and sends these self-tests."""
        command = self.commanded()
        self.send(*(test.result(command.command) for test in tests))

    def acked(self, seq: int, *, stream: int = 1, timeout_s: float = 5.0) -> bool:
        """Waits until ``seq`` is acknowledged."""
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            record = self.receive(left)
            if isinstance(record, Ack) and record.stream == stream and record.seq >= seq:
                return True
        return False


class FakeApi(Peer):
    """The middleware of an API server."""

    def label(self, request: int, **fields: Any) -> None:
        """What it knows of the request with `key(request)`."""
        known: dict[str, Any] = {"client_id": f"client-{request}", "tenant": "acme"}
        self.send(RequestLabel(key=key(request), **{**known, **fields}))


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
