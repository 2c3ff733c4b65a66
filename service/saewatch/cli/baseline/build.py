"""Fit what is usual for a dictionary in a deployment, from recorded traffic in which nothing changed.

Requests of live and unlabelled traffic count, whole ones only. At least 7 days, better 28: with fewer, alarms are only
listed, or wait for a second day. Recordings are given in the order of time. Where their days are not of one kind
nothing is written: it is said which days.

With a panel, the last 20 replays of each of its prompts that are in the recordings become its golden ones.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saewatch import cli, logs
from saewatch.cli import recordings
from saewatch.cli.dictionary import labelled
from saewatch.cli.sidecar import clock_time
from saewatch.cli.terminal import ProgressLine
from saewatch.core.canonical import Json, decimal_text
from saewatch.core.errors import ConfigError
from saewatch.core.records import Role
from saewatch.edge import baselines, canaries
from saewatch.edge.dictionaries import load_one
from saewatch.edge.requests import CHANGED, INCOMPLETE, RecordedRequest, RecordedRequests
from saewatch.monitor.drift.build import Builder, Told
from saewatch.monitor.drift.counts import EXPOSURE_UNIT
from saewatch.monitor.drift.fit import Fitted
from saewatch.monitor.drift.following import COUNTED
from saewatch.monitor.drift.known import About
from saewatch.monitor.drift.pairs import key_of
from saewatch.monitor.drift.panel import REPLAYS, TOKENS_MAX, KnownPanel, Replay, golden
from saewatch.monitor.drift.reducer import summed
from saewatch.monitor.drift.replays import prompt_name, prompt_of, rounds
from saewatch.monitor.drift.slices import HOURS, source_of
from saewatch.monitor.events import Sampled
from saewatch.monitor.tables import KnownDictionary

OTHERS = "they are canaries, shadows or tests"


def arguments(parser: argparse.ArgumentParser) -> None:
    """From what, of what, and where to."""
    parser.add_argument("recordings", type=Path, nargs="+", metavar="RECORDING", help="in the order of time")
    parser.add_argument("--dictionary", type=Path, required=True, metavar="BUNDLE", help="whose features these are")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for the baseline")
    parser.add_argument("--panel", type=Path, metavar="FILE", help="fixed prompts that the sidecar sent meanwhile")
    parser.add_argument("--deployment", default="default", metavar="NAME", help="what serves here, as you call it")


def run(options: argparse.Namespace) -> int:
    """Reads, fits and writes."""
    if options.out.exists():
        raise ConfigError(str(options.out), found="something there", expected="a new name: nothing is overwritten")
    logs.set_up("warning")
    prompts = canaries.load_panel(options.panel) if options.panel else ()
    known, line = load_one(options.dictionary), ProgressLine(sys.stderr)
    found = _Found(known, tuple(map(prompt_name, prompts)))
    for path in options.recordings:
        found.read(path, line)
    panel = found.panel()
    fitted = found.fitted(line)
    about = found.about_of(options.deployment)
    stated = _stated(options, found, fitted)
    attestation = baselines.attested(fitted, about, found.features, stated, panel)
    baselines.write(options.out, fitted, attestation, panel)
    told = {"digest": attestation.digest, "weights": about.weights, "model": about.model, **_counts(found, fitted)}
    told["panel"] = _panel_counts(panel)
    print(json.dumps(told) if options.json else "\n".join(lines(told)))
    return cli.GOOD


@dataclass(slots=True)
class _Found:
    """What was read so far."""

    known: KnownDictionary
    prompts: tuple[str, ...] = ()
    builder: Builder | None = None
    about: About | None = None
    features: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    first_ns: int = 0
    last_ns: int = 0
    replays: dict[str, deque[Replay]] = field(default_factory=dict)

    def read(self, path: Path, line: ProgressLine) -> None:
        """One recording."""
        with recordings.opened(path) as recording:
            requests = RecordedRequests(
                recording,
                self.known,
                on_progress=lambda seconds: line.show(f"{path.name}: {clock_time(seconds)}"),
                on_census=self._look,
            )
            for one in requests:
                self._add(path, one)
        line.clear()
        self.left_out += requests.left_out

    def fitted(self, line: ProgressLine) -> Fitted:
        """The baseline of it all."""
        if self.builder is None:
            found = f"no whole request; left out: {_reasons(self.left_out)}"
            raise ConfigError("baseline", found=found, expected=f"requests of {self.known.weights_digest[:19]}")
        partial = self.left_out[INCOMPLETE] + self.left_out[CHANGED]
        made = self.builder.fitted(partial=partial, progress=lambda words: line.show(f"fit: {words}"))
        line.clear()
        return made

    def panel(self) -> KnownPanel | None:
        """The golden replays, where a panel was asked for. `ConfigError` for too few of them, or unlike ones."""
        if not self.prompts:
            return None
        runs = rounds(self.replays, self.prompts, REPLAYS)
        if len(runs) < REPLAYS:
            fewest = min(self.prompts, key=lambda name: len(self.replays.get(name, ())))
            found = f"{len(self.replays.get(fewest, ()))} whole replays of prompt {self.prompts.index(fewest) + 1}"
            hint = "Record while the sidecar sends this panel (`canaries.panel`), for 20 periods at least."
            raise ConfigError("--panel", found=found, expected=f"{REPLAYS} of each in the recordings", hint=hint)
        return KnownPanel(prompts=self.prompts, golden=golden(runs, len(self.features)))

    def about_of(self, deployment: str) -> About:
        """What the baseline holds for."""
        assert self.about is not None, "something was read"
        return About(**{**{name: getattr(self.about, name) for name in About.__slots__}, "deployment": deployment})

    def _look(self, one: Sampled) -> None:
        """What comes before the first request is left out."""
        if self.builder is not None and one.stream.opening.role == Role.STABLE:
            self.builder.census(one)

    def _replayed(self, one: RecordedRequest) -> bool:
        """Whether it is of the panel; then it is kept, where all of it was computed."""
        name = prompt_of(one.identity)
        if name not in self.prompts or one.table.stream.opening.role != Role.STABLE:
            return False
        same = self.about is not None and About.of(one.table, "") == self.about
        if same and not one.reused and len(one.seen) <= TOKENS_MAX:
            made = Replay.of(one.position, one.feature, one.value, len(one.seen))
            self.replays.setdefault(name, deque(maxlen=REPLAYS)).append(made)
        return True

    def _add(self, path: Path, one: RecordedRequest) -> None:
        if self._replayed(one):
            return
        if one.identity.traffic_class not in COUNTED or one.table.stream.opening.role != Role.STABLE:
            self.left_out[OTHERS] += 1
            return
        about = About.of(one.table, "")
        if self.builder is None:
            self.features = tuple(feature.id for feature in one.table.features)
            self.about, self.builder, self.first_ns = about, Builder(len(self.features)), one.ended_ns
        if about != self.about:
            hint = "Build a baseline of each by itself."
            expected = "one model, one mode and one watch set"
            raise ConfigError(
                str(path), found="requests of two models, modes or watch sets", expected=expected, hint=hint
            )
        feature, count, mean = summed(one.feature.astype(np.intp), one.value)
        self.last_ns = max(self.last_ns, one.ended_ns)
        tokens = int(one.seen.sum())
        key = key_of(one.identity.engine_id, one.identity.child)
        source = source_of(one.identity.tenant)
        told = Told(
            feature=feature, count=count, mean=mean, tokens=tokens, key=key, ended_ns=one.ended_ns, source=source
        )
        self.builder.add(told)


def _stated(options: argparse.Namespace, found: _Found, fitted: Fitted) -> dict[str, Json]:
    """Of the requests, for the attestation: what they were, and their counts by the hours of the day."""
    assert found.builder is not None
    digests: list[Json] = [labelled.digest(str(path)) for path in options.recordings]
    whole = found.builder.slices.by_hours()
    bands: dict[str, Json] = {
        f"hours_{hours}": {
            "requests": int(whole.requests[number]),
            "tokens": int(whole.exposure[number, -1]) // EXPOSURE_UNIT,
            "n": whole.n[number].tolist(),
        }
        for number, hours in enumerate(HOURS)
    }
    counts = _counts(found, fitted)
    texts = {key: decimal_text(value) if isinstance(value, float) else value for key, value in counts.items()}
    return {"catalogue": found.known.catalogue_digest, "data": digests, "requests_from": texts, "slices": bands}


def _counts(found: _Found, fitted: Fitted) -> dict[str, Any]:
    assert found.builder is not None
    baseline = fitted.baseline
    return {
        "features": baseline.features,
        "requests": found.builder.requests,
        "blocks": baseline.blocks,
        "days": baseline.days,
        "paging": baseline.paging,
        "first": _day(found.first_ns),
        "last": _day(found.last_ns),
        "volatile": int(baseline.volatile.sum()),
        "smallest_visible_change": round(float(np.median(baseline.n.tolerance.astype(np.float64))), 4),
        "highest_score": round(fitted.peak, 2),
        "strayed": [found.features[one] for one in fitted.strayed.tolist()],
        "left_out": _reasons(found.left_out),
    }


def _panel_counts(panel: KnownPanel | None) -> dict[str, Any] | None:
    if panel is None:
        return None
    made = panel.golden
    alike, exercised = round(float(made.overlap.mean()), 6), int(made.exercised.sum())
    return {"prompts": len(panel.prompts), "alike": alike, "exercised": exercised}


def lines(told: dict[str, Any]) -> Iterator[str]:
    """What is printed."""
    yield f"baseline {told['digest'][:19]} of {told['weights'][:19]}"
    yield f"{told['requests']} requests in {told['blocks']} blocks on {told['days']} days"
    yield f"from {told['first']} to {told['last']}"
    yield f"left out: {told['left_out']}"
    yield f"{told['features']} features, {told['volatile']} of them move by themselves"
    if told["strayed"]:
        yield f"strayed from week to week, and taken as such: {', '.join(told['strayed'])}; look whether they changed"
    yield f"smallest visible change of a rate: {told['smallest_visible_change']:.0%} (median)"
    yield f"alarms: {told['paging']}"
    panel = told["panel"]
    if panel is None:
        yield "panel: none, so no cause of drift can be told"
    else:
        alike = f"{panel['prompts']} prompts that fire alike by {panel['alike']:.4f}"
        yield f"panel: {alike}; it exercises {panel['exercised']} features"


def _reasons(left_out: Counter[str]) -> str:
    return "; ".join(f"{count} ({why})" for why, count in sorted(left_out.items()) if count) or "none"


def _day(time_ns: int) -> str:
    return dt.datetime.fromtimestamp(time_ns / 1e9, tz=dt.UTC).date().isoformat()
