"""A running pair of engine and sidecar, a load on it, and what came of both. For benchmarks and end-to-end tests."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from benchmarks.form import IMPORTS, ROOT
from benchmarks.oracle import BAND, Oracle, Tally
from deploy.demo.chat import Answer, complete
from deploy.demo.servers import (
    LOOPBACK,
    Server,
    addresses,
    free_port,
    start_engine,
    start_sidecar,
    tap_arguments,
    wait_healthy,
)
from saewatch import cli
from saewatch.dictionary.convert import import_source

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
MODEL_NAME = "watched"
HEALTHY_S = 600.0
EXCLUDED = 8  # common_pb2.MISSED_REASON_EXCLUDED


@dataclass(slots=True)
class Rig:
    """Where everything of one pair lies."""

    folder: Path
    model: Path
    bundle: Path
    others: Sequence[Path] = ()
    """Bundles that the sidecar knows too."""
    store: Path | None = None
    """Of bundles that may be applied."""
    sections: Mapping[str, object] = field(default_factory=dict)
    """More of the sidecar's configuration."""
    records: bool = False
    """What each sidecar receives goes into a file of its own."""
    recordings: list[Path] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    grpc: str = LOOPBACK
    """Where the sidecar serves: a port of its own, where it is to be found after a restart."""
    sidecar: Server | None = None
    engine: Server | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)

    @property
    def socket(self) -> Path:
        """The sidecar's socket."""
        return self.folder / "tap.sock"

    def start_sidecar(self) -> None:
        """Starts the sidecar and waits for its addresses."""
        if self.records:
            self.recordings.append(self.folder / f"{len(self.recordings)}.frames")
        self.sidecar = start_sidecar(
            socket_path=self.socket,
            bundles=[self.bundle, *self.others],
            folder=self.folder,
            grpc=self.grpc,
            store=self.store,
            sections=self.sections,
            record=self.recordings[-1] if self.records else None,
        )
        self.addresses = addresses(self.sidecar, self.folder)

    def tap(self, **settings: Any) -> list[str]:
        """vLLM's arguments for this rig's tap."""
        return tap_arguments(socket_path=self.socket, bundles=[self.bundle], **settings)

    def start_engine(
        self,
        *,
        extra: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        tap: Sequence[str] | None = None,
        python: Path = Path(sys.executable),
    ) -> None:
        """Starts vLLM; `wait` until it is healthy. ``tap``: other arguments than the usual ones, empty for no tap."""
        self.engine = start_engine(
            model=self.model,
            name=MODEL_NAME,
            port=self.port,
            tap=self.tap() if tap is None else tap,
            socket_path=self.socket,
            log=self.folder / "engine.log",
            extra=extra,
            env={"PYTHONPATH": IMPORTS, **(env or {})},
            python=python,
        )

    def wait(self) -> None:
        """Until the engine is healthy."""
        running = [server for server in (self.engine, self.sidecar) if server]
        wait_healthy(self.port, running, timeout_s=HEALTHY_S)

    def dictionary(self, *words: str) -> dict[str, Any]:
        """What ``saewatch dictionary`` says of the rig's store, as JSON."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            cli.main(["dictionary", *words, "--store", str(self.store), "--json"])
        found: dict[str, Any] = json.loads(printed.getvalue())
        return found

    def stop(self) -> int:
        """Stops both; returns how many processes had to be killed."""
        return sum(server.stop() for server in (self.engine, self.sidecar) if server)


def bundle_of_all(source: Path, model: Path, out: Path) -> Path:
    """A bundle of ``source`` in which every latent is watched, and the source's own directions."""
    work = out.with_name(out.name + "-source")
    work.mkdir(parents=True)
    for file in source.iterdir():
        if file.name != "features.json":
            shutil.copyfile(file, work / file.name)
    latents = json.loads((source / "cfg.json").read_text())["d_sae"]
    features = json.loads((source / "features.json").read_text()) if (source / "features.json").exists() else []
    everything = {
        "id": "everything.g1",
        "label": "every latent of the dictionary",
        "category": "x.parity",
        "severity": "low",
        "kind": "group",
        "latents": list(range(latents)),
        "floor": 0.0,
        "aggregation": "max",
        "claim": "correlational",
    }
    kept = [feature for feature in features if "direction" in feature]
    (work / "features.json").write_text(json.dumps([*kept, everything]))
    import_source(work, model, out)
    return out


def scaled(source: Path, folder: Path, factor: float = 1.25) -> Path:
    """A dictionary of SAELens with a longer encoder: other latents fire, with other values."""
    shutil.copytree(source, folder)
    file = folder / "sae_weights.safetensors"
    tensors = load_file(file)
    file.unlink()  # the copy may be read-only
    save_file({**tensors, "W_enc": tensors["W_enc"] * factor}, file)
    return folder


def text_tokens(model: Path) -> list[int]:
    """Token ids of the repository's own prose: ordinary English for a load."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    text = "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))) + (ROOT / "LICENSE").read_text()
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def mixed_load(tokens: Sequence[int], count: int, *, seed: int, prefix: str) -> list[tuple[str, dict[str, Any]]]:
    """``count`` completion requests of 1 to 400 prompt tokens and 1 to 48 new ones, each with its client's id."""
    chance = random.Random(seed)
    requests = []
    for index in range(count):
        length, first = chance.randint(1, 400), chance.randrange(len(tokens) - 400)
        body = {
            "model": MODEL_NAME,
            "prompt": list(tokens[first : first + length]),
            "max_tokens": chance.randint(1, 48),
            "temperature": 0.8,
        }
        requests.append((f"{prefix}-{index}", body))
    return requests


def send(
    port: int, requests: Iterable[tuple[str, dict[str, Any]]], *, at_once: int, headers: dict[str, str] | None = None
) -> dict[str, Answer]:
    """Sends all, ``at_once`` at a time; answers by the client's id."""
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        found = [pool.submit(complete, port, body, name, headers=headers) for name, body in requests]
        return {answer.request_id: answer for answer in (future.result() for future in found)}


@dataclass(slots=True)
class Outcome:
    """A load's firings beside the oracle's."""

    tally: Tally = field(default_factory=Tally)
    rows: int = 0
    duplicates: int = 0
    missing: int = 0
    excluded_wrong: int = 0
    unknown: int = 0  # requests that were answered and never seen
    found: list[F32] = field(default_factory=list)  # values of one request, [rows, units]; 0: does not fire
    expected: list[F32] = field(default_factory=list)


def jaccard(left: Sequence[F32], right: Sequence[F32]) -> float:
    """Firings in both over firings in either."""
    both = sum(int(((a > 0) & (b > 0)).sum()) for a, b in zip(left, right, strict=True))
    either = sum(int(((a > 0) | (b > 0)).sum()) for a, b in zip(left, right, strict=True))
    return both / either if either else 1.0


def median_error(found: Sequence[F32], expected: Sequence[F32]) -> float:
    """Median relative error of the values that fire in both."""
    pairs = [(a[(a > 0) & (b > 0)], b[(a > 0) & (b > 0)]) for a, b in zip(found, expected, strict=True)]
    return float(np.median(np.concatenate([np.abs(a - b) / b for a, b in pairs])))


class SeenRequest(Protocol):
    """What was received of one request."""

    missed: Counter[int]

    def columns(self) -> tuple[I64, I64, I64, F32]:
        """Positions of rows, and position, slot and value of firings."""


class Received(Protocol):
    """What was received of one stream: by a gRPC client, or from the tap itself."""

    @property
    def tables(self) -> Mapping[int, Any]:
        """Watch sets."""

    @property
    def seen(self) -> Mapping[tuple[str, int], SeenRequest]:
        """Requests, by id and child."""


class Comparison:
    """Compares what was received with an oracle."""

    def __init__(
        self,
        oracle: Oracle,
        collector: Received,
        *,
        latents: int,
        exclusions: Mapping[str, Any],
        band: float = BAND,
    ) -> None:
        self._oracle = oracle
        self._band = band
        self._collector = collector
        table = next(iter(collector.tables.values()))
        unit = np.array(table.slot_unit, np.int64)
        self._units = np.where(np.array(table.slot_kind) == 1, unit, unit + latents)  # 1: UNIT_KIND_LATENT
        self._floor = np.array(table.slot_floor, np.float32)
        self._max_norm = float(exclusions["max_norm"]) if exclusions.get("max_norm") else np.inf
        self._first, self._special = int(exclusions["exclude_first"]), set(exclusions["special"])

    def compare(self, answers: Mapping[str, Answer]) -> Outcome:
        """All ``answers``, each a client's own view of one request."""
        outcome = Outcome(Tally(self._band))
        for name, answer in answers.items():
            seen = self._collector.seen.get((name, 0))
            if seen is None:
                outcome.unknown += 1
                continue
            self._one(outcome, seen, [*answer.prompt, *answer.tokens[:-1]])
        return outcome

    def _one(self, outcome: Outcome, seen: SeenRequest, fed: list[int]) -> None:
        position, fired, slot, value = seen.columns()
        expected = self._oracle.expected(fed)
        received, counts = np.unique(position, return_counts=True)
        outcome.duplicates += int((counts - 1).sum())
        outcome.missing += len(fed) - len(received) - sum(seen.missed.values())
        excluded = expected.norm > self._max_norm
        excluded |= np.arange(len(fed)) < self._first
        excluded |= np.isin(fed, list(self._special))
        outcome.excluded_wrong += abs(int(excluded.sum()) - seen.missed[EXCLUDED]) + int(excluded[received].sum())
        outcome.rows += len(received)
        dense = np.zeros((len(fed), len(self._units)), np.float32)
        dense[fired, slot] = value
        rows = _rows_of(expected, received)
        outcome.tally.add(dense[received], rows, self._floor, self._units)
        wanted = rows.value[:, self._units]
        outcome.found.append(dense[received])
        outcome.expected.append(np.where(wanted > self._floor, wanted, 0))


def _rows_of(expected: Any, rows: npt.NDArray[np.int64]) -> Any:
    return type(expected)(expected.value[rows], expected.margin[rows], expected.largest[rows], expected.norm[rows])
