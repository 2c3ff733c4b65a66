"""Requests of a recording as scores: what an engine really fired, in its own numerics.

Benign are those of the classes and tenants that were asked for (live ones, where nothing else is said): whoever records
real traffic promises that next to none of it carries a concept. What does makes limits higher, and recall smaller.
Requests that --labelled names (by the client's or the engine's id) are never benign: limits are tested on them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from saewatch import logs
from saewatch.cli import recordings
from saewatch.cli.dictionary import labelled
from saewatch.cli.sidecar import clock_time
from saewatch.cli.terminal import ProgressLine
from saewatch.core import aggregate, limits
from saewatch.core.aggregate import Firings
from saewatch.core.batch import F64, SlotKind
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError
from saewatch.core.records import TrafficClass
from saewatch.dictionary import calibrate
from saewatch.dictionary.calibrate import Scores, Tested
from saewatch.dictionary.calibration import Data, Served
from saewatch.edge.dictionaries import load_one
from saewatch.edge.requests import RecordedRequest, RecordedRequests
from saewatch.monitor.identity import Identity
from saewatch.monitor.tables import WatchTable

OTHERS = "they are of other classes or tenants"


def read(options: argparse.Namespace) -> Scores:
    """The requests of --recording. `ConfigError` for a feature that was asked for and was not wholly recorded."""
    known = load_one(options.bundle)
    features = [calibrate.aggregated(one, options.aggregation) for one in known.catalogue.chosen(options.feature)]
    concepts = {feature.concept for feature in known.catalogue.features}
    named = labelled.by_request(options.labelled, concepts) if options.labelled else {}
    logs.set_up("warning")
    line = ProgressLine()
    found = _Found(features, set(options.feature), benign=_Chosen(options.traffic_class, options.tenant), named=named)
    with recordings.opened(options.recording) as recording:
        name = options.recording.name
        requests = RecordedRequests(
            recording,
            known,
            on_progress=lambda seconds: line.show(f"{name}: {clock_time(seconds)}, {found.requests} requests"),
        )
        for request in requests:
            found.add(request)
    line.clear()
    _tell(options.recording, found, requests)
    return found.scores(options, requests, known.weights_digest)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Which requests are benign."""

    classes: Collection[str]
    tenants: Collection[str]

    def has(self, identity: Identity) -> bool:
        """Whether it is one of them."""
        tenant = not self.tenants or identity.tenant in self.tenants
        return tenant and identity.traffic_class in (self.classes or {TrafficClass.LIVE})


@dataclass(slots=True)
class _Found:
    """What was read so far."""

    features: Sequence[Feature]
    asked: Collection[str]
    benign: _Chosen
    named: Mapping[str, Collection[str]]
    columns: list[F64] = field(default_factory=list)
    held_out: list[tuple[str, F64, F64]] = field(default_factory=list)
    distinct: set[str] = field(default_factory=set)
    others: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    whole: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by table

    @property
    def requests(self) -> int:
        """With scores."""
        return len(self.columns) + len(self.held_out)

    def add(self, request: RecordedRequest) -> None:
        """One more. `ConfigError` for more of them than are held."""
        identity = request.identity
        name = next((one for one in (identity.client_id, identity.engine_id) if one and one in self.named), "")
        if not name and not self.benign.has(identity):
            self.others += 1
            return
        if (self.requests + 1) * len(self.features) > limits.HELD_SCORES:
            expected = f"at most {limits.HELD_SCORES} scores"
            raise ConfigError("recording", found="more features times requests", expected=expected)
        scores, lengths = self._scored(request)
        if name:
            self.held_out.append((name, scores, lengths))
        else:
            self.columns.append(scores)
            self.distinct.add(identity.conversation or identity.engine_id)

    def _scored(self, request: RecordedRequest) -> tuple[F64, F64]:
        """``[features]`` each; no score for a feature that was not wholly watched."""
        table = request.table
        if table.number not in self.whole:
            self.whole[table.number] = tuple(self._watched(table))
        place = np.array(self.whole[table.number], np.int64)  # of the table's features among ours
        requests, all_of = request.columns()
        own = place[all_of.feature] >= 0
        firings = Firings(
            request=all_of.request[own],
            position=all_of.position[own],
            feature=place[all_of.feature[own]],
            unit=all_of.unit[own],
            value=all_of.value[own],
        )
        found = aggregate.scores(self.features, requests, firings)[:, 0]
        found[[one.id in self.refused for one in self.features]] = np.nan
        return found, np.array([requests.tokens(one.scope)[0] for one in self.features], np.float64)

    def _watched(self, table: WatchTable) -> Iterator[int]:
        """For each feature of the table its place among ours, or -1; notes those that it does not watch wholly."""
        for feature in self.features:
            why = lacking(feature, table)
            if why and feature.id in self.asked:
                hint = "Record with what reads it in the tap's watch set, at its floor or below."
                raise ConfigError(feature.id, found=why, expected="all that it reads, recorded", hint=hint)
            if why:
                self.refused.setdefault(feature.id, why)
        places = {one.id: number for number, one in enumerate(self.features) if one.id not in self.refused}
        yield from (places.get(one.id, -1) for one in table.features)

    def scores(self, options: argparse.Namespace, requests: RecordedRequests, weights: str) -> Scores:
        """As limits are chosen on them. `ConfigError` for no requests, or those of two models."""
        if not self.columns:
            there = ", ".join(one[:19] for one in requests.weights) or "none"
            found = f"no benign request; streams of dictionaries {there}; left out: {_left_out(self, requests)}"
            raise ConfigError(str(options.recording), found=found, expected=f"requests of {weights[:19]}")
        digest = labelled.digest(str(options.recording))
        tested = None
        if self.held_out:
            tested = Tested(
                data=Data(digest=labelled.digest(options.labelled), **_counts(self.held_out)),
                concepts=[self.named[name] for name, _, _ in self.held_out],
                scores=np.stack([scores for _, scores, _ in self.held_out], axis=1),
                lengths=np.stack([lengths for _, _, lengths in self.held_out], axis=1),
            )
        return Scores(
            weights=weights,
            served=one_served(options.recording, requests.tables),
            features=self.features,
            data=Data(digest=digest, requests=len(self.columns), distinct=len(self.distinct)),
            scores=np.stack(self.columns, axis=1),
            tested=tested,
            refused=self.refused,
        )


def lacking(feature: Feature, table: WatchTable) -> str:
    """What of a feature was not recorded under a watch set; empty where all of it was."""
    floors = dict(zip(zip(table.kind.tolist(), table.unit.tolist(), strict=True), table.floor.tolist(), strict=True))
    direction = feature.direction is not None
    kind = SlotKind.DIRECTION if direction else SlotKind.LATENT
    for unit in (feature.direction,) if direction else feature.latents:
        floor = floors.get((int(kind), unit))
        name = f"{kind.name.lower()} {unit}"
        if floor is None:
            return f"{name} is not in the recording's watch set"
        if floor > np.float32(feature.floor):
            return f"{name} was recorded above {floor:g} only, the feature reads it from {feature.floor:g}"
    return ""


def one_served(path: Path, tables: Mapping[int, WatchTable]) -> Served:
    """What the streams of a recording were read from. `ConfigError` where they are of two models or modes."""
    served = {str(one.json()): one for one in (Served.of(table.stream.opening) for table in tables.values())}
    if len(served) > 1:
        raise ConfigError(str(path), found=" and ".join(served), expected="one model, in one mode")
    return next(iter(served.values()))


def _counts(held_out: Sequence[tuple[str, F64, F64]]) -> dict[str, int]:
    return {"requests": len(held_out), "distinct": len({name for name, _, _ in held_out})}


def _left_out(found: _Found, requests: RecordedRequests) -> str:
    reasons = {**requests.left_out, **({OTHERS: found.others} if found.others else {})}
    return "; ".join(f"{count} ({why})" for why, count in sorted(reasons.items())) or "none"


def _tell(path: Path, found: _Found, requests: RecordedRequests) -> None:
    counted = f"{len(found.columns)} benign requests, {len(found.held_out)} to test on"
    print(f"saewatch: {path}: {counted}; left out: {_left_out(found, requests)}", file=sys.stderr)
    if absent := len(found.named) - len({name for name, _, _ in found.held_out}):
        print(f"saewatch: {absent} requests of --labelled are not whole in the recording", file=sys.stderr)
