"""Recordings as samples for an upgrade diff: whose requests, which features both hold, and how much was seen."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saewatch.cli import recordings
from saewatch.cli.dictionary.scored_recording import lacking, one_served
from saewatch.cli.sidecar import clock_time
from saewatch.cli.terminal import ProgressLine
from saewatch.core.batch import Census
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError
from saewatch.core.recording import Recording
from saewatch.core.records import StreamOpen
from saewatch.dictionary.calibration import Served
from saewatch.edge import dictionaries
from saewatch.edge.requests import RecordedRequest, RecordedRequests
from saewatch.monitor.diff.census import CensusFigures, CensusSums
from saewatch.monitor.diff.sample import Sample
from saewatch.monitor.tables import KnownDictionary, WatchTable
from saewatch.monitor.tally import sums_of

PARTS_OF_SCOPE = {"all": (0, 1), "prompt": (0,), "reply": (1,)}
OTHERS = "they are of other classes"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """One of the two recordings."""

    path: Path
    weights: str
    sample: Sample
    tables: Sequence[WatchTable]
    served: Served | None
    shares: Mapping[str, float]
    """``coverage``: seen ÷ fed; ``whole``: requests that were wholly seen ÷ those that ended."""
    missed: Mapping[str, int]
    """Tokens of these, by reason."""
    left_out: Mapping[str, int]
    census: CensusFigures | None
    defects: Sequence[str] = ()
    """What is wrong with the file, in words."""


def dictionary(before: Path, after: Path, bundle: Path | None) -> KnownDictionary:
    """The one that both were recorded of, with the labels of the later one. `ConfigError` where it is not told."""
    if bundle is not None:
        return dictionaries.load_one(bundle)
    sides = [_sheets(path) for path in (before, after)]
    both = sorted(sides[0].keys() & sides[1].keys())
    if len(both) != 1:
        found = [", ".join(digest[:19] for digest in sorted(side)) or "none" for side in sides]
        expected = "one dictionary that is in both"
        hint = "Other weights are not comparable; where there are several, --dictionary names the bundle."
        raise ConfigError("dictionaries", found=f"{found[0]} before, {found[1]} after", expected=expected, hint=hint)
    return sides[1][both[0]]


def read(path: Path, known: KnownDictionary, classes: Collection[str]) -> Side:
    """The requests of these classes. `ConfigError` for two models in one recording, or more than is held."""
    line, features = ProgressLine(sys.stderr), known.catalogue.features
    sample, others = Sample(features=len(features)), 0
    places = {feature.id: (place, PARTS_OF_SCOPE[feature.scope]) for place, feature in enumerate(features)}
    with recordings.opened(path) as recording:
        requests = RecordedRequests(
            recording,
            known,
            on_progress=lambda seconds: line.show(f"{path.name}: {clock_time(seconds)}, {sample.requests} requests"),
        )
        for one in requests:
            if one.identity.traffic_class in classes:
                _add(sample, one, places)
            else:
                others += 1
        census = _census(recording, known.weights_digest)
    line.clear()
    fed, seen, finished = (sum(of[name] for name in classes) for of in (requests.fed, requests.seen, requests.finished))
    return Side(
        path=path,
        weights=known.weights_digest,
        sample=sample,
        tables=tuple(requests.tables.values()),
        served=one_served(path, requests.tables) if requests.tables else None,
        shares={
            "coverage": seen / fed if fed else float("nan"),
            "whole": sample.requests / finished if finished else float("nan"),
        },
        missed=sum((requests.missed.get(name, Counter()) for name in classes), Counter[str]()),
        left_out={**requests.left_out, **({OTHERS: others} if others else {})},
        census=census,
        defects=recording.defects(),
    )


def shared(
    sides: Sequence[Side], features: Sequence[Feature]
) -> tuple[tuple[Sample, Sample], tuple[Feature, ...], Mapping[str, str]]:
    """The samples of the features that both recorded wholly, these, and why the others are left out."""
    why = {
        one.id: f"{words} ({side.path.name})"
        for one in features
        for side in sides
        for table in side.tables
        if (words := lacking(one, table))
    }
    kept = [place for place, one in enumerate(features) if one.id not in why]
    before, after = (side.sample.only(kept) for side in sides)
    return (before, after), tuple(features[place] for place in kept), why


def differ(before: Side, after: Side) -> list[str]:
    """Why what the two served cannot be compared: the mode, and which tokens take no part."""
    if before.served is None or after.served is None:
        empty = before.path if before.served is None else after.path
        return [f"{empty.name} has no request of this dictionary"]
    found = []
    for name in ("mode", "excluded"):
        here, there = (getattr(side.served, name) for side in (before, after))
        if here != there:
            found.append(f"{name} is {here} before and {there} after")
    return found


def _add(sample: Sample, one: RecordedRequest, places: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
    own = [places[feature.id] for feature in one.table.features]
    part = (one.position >= one.identity.prompt_len).astype(np.int64)
    wanted = np.array([[number in parts for number in (0, 1)] for _, parts in own], np.bool_).reshape(-1, 2)
    kept = wanted[one.feature, part]
    place = np.array([place for place, _ in own], np.int64)
    key = 2 * place[one.feature[kept]] + part[kept]
    seen = one.seen[: one.identity.prompt_len].sum(), one.seen[one.identity.prompt_len :].sum()
    sample.add(
        name=one.identity.client_id,
        session=one.identity.conversation,
        prompt_len=one.identity.prompt_len,
        tokens=(int(seen[0]), int(seen[1])),
        sums=sums_of(key, one.position[kept], one.value[kept]),
    )


def _sheets(path: Path) -> dict[str, KnownDictionary]:
    with recordings.opened(path) as recording:
        known = [dictionaries.known(files, where=f"{path}: ") for files in recording.sheets.values()]
    return {one.weights_digest: one for one in known}


def _census(recording: Recording, weights: str) -> CensusFigures | None:
    """Streams are known by their connection here: nothing else of them is needed."""
    streams: dict[tuple[int, int], str] = {}
    sums = CensusSums()
    for one in recording.received():
        if isinstance(one.record, StreamOpen):
            streams[one.mark.link, one.record.stream] = one.record.weights_digest
        elif isinstance(one.record, Census) and streams.get((one.mark.link, one.record.stream)) == weights:
            sums.add(one.record)
    return sums.figures
