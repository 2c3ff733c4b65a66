"""What came of the plays that an engine ran (benchmarks/scenarios.py): each request's firings, and the books."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.beside import merged
from benchmarks.cells import Judged
from benchmarks.oracle import BAND, Oracle, Reading
from benchmarks.quantised import PLAIN
from benchmarks.recorder import Heard, Recorder
from benchmarks.rig import Comparison, Outcome
from benchmarks.spec import Spec, Watch
from deploy.demo.chat import Answer
from deploy.demo.collect import Seen
from saewatch.edge.pb.saewatch.v1 import common_pb2

HALF_BAND = 0.005
"""In place of `BAND` where an engine computes in float16, ten bits; the oracle computes in float32."""


def judged(spec: Spec, recorder: Recorder, found: Mapping[str, Any]) -> Judged:
    """A row for each play and stream, and one for each stream's books."""
    rows, external = [], "kv_transfer_config" in spec.arguments
    band = HALF_BAND if spec.arguments.get("dtype") == "float16" else BAND
    for heard, watch in _streams(spec, recorder):
        stage = heard.opening.pp_rank
        oracles = {
            name: _oracle(Path(spec.model) if not name else merged(Path(spec.model), Path(spec.adapters[name])), watch)
            for name in ("", *spec.adapters)
        }
        named = _named(recorder, stage)
        known = 0
        for play, requests in found["told"].items():
            row = _Play(heard, recorder, stage, named, oracles, watch, band).judge(requests)
            rows.append({"play": play, "hook_point": heard.opening.hook_point, **row})
            known += row["fed"]
        rows.append(
            {
                "play": "books",
                "hook_point": heard.opening.hook_point,
                **_books(heard, recorder, stage, known, external=external),
            }
        )
    return rows


def _streams(spec: Spec, recorder: Recorder) -> Iterator[tuple[Heard, Watch]]:
    by_point = {heard.opening.hook_point: heard for heard in recorder.streams.values()}
    for watch in spec.watch:
        point = json.loads((Path(watch.bundle) / "dictionary.json").read_text())["hook"]["point"]
        assert point in by_point, f"no stream for {point}; there are {sorted(by_point)}"
        yield by_point[point], watch


def _oracle(model: Path, watch: Watch) -> Oracle:
    plain = model.with_name(model.name + PLAIN)
    model = plain if plain.exists() else model
    return Oracle(model, Path(watch.source), Reading(watch.module, watch.side), attention="eager")


def _named(recorder: Recorder, stage: int) -> dict[str, list[str]]:
    """The engine's ids of each of the client's, in the order in which they began."""
    found: dict[str, list[str]] = {}
    for at, name in recorder.starts:
        if at == stage:
            found.setdefault(name.partition("#")[0].rpartition("-")[0], []).append(name)
    return found


def _books(heard: Heard, recorder: Recorder, stage: int, known: int, *, external: bool) -> dict[str, Any]:
    """Whether the stream's books are those of its requests."""
    final = heard.final
    ended = sum(end.fed for (at, _), end in recorder.ends.items() if at == stage)
    booked = final.encoded + final.reused + sum(final.missed.values()) + final.in_flight if final else -1
    why = [f"blind: {final.blind}"] if final and final.blind else [] if final else ["it never ended"]
    if final and not final.fed == booked == ended == known:
        why.append(f"fed {final.fed}, booked {booked}, requests ended with {ended}, of their answers {known}")
    if external and final and final.missed.keys() != {"external"}:
        why.append(f"missed {dict(final.missed)} beside a connector")
    if recorder.refused:
        why.append(f"refused {recorder.refused}")
    names = ("fed", "reused", "missed", "sink_calls")
    figures = {name: getattr(final, name) for name in names} if final else {}
    return {**figures, "quantisation": heard.opening.quantisation, "why": "; ".join(why)}


@dataclass(frozen=True, slots=True)
class _Cut:
    """What was received of one request, at the positions that its client knows."""

    seen: Seen
    known: int
    missed: Counter[int]

    def columns(self) -> Any:
        position, fired, slot, value = self.seen.columns()
        kept, rows = fired < self.known, position < self.known
        return position[rows], fired[kept], slot[kept], value[kept]


@dataclass(frozen=True, slots=True)
class _Play:
    """One play of one stream."""

    heard: Heard
    recorder: Recorder
    stage: int
    named: Mapping[str, Sequence[str]]
    oracles: Mapping[str, Oracle]
    watch: Watch
    band: float

    def judge(self, requests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Its row."""
        row = Counter[str](requests=len(requests))
        why: list[str] = []
        for name, told in requests.items():
            base, _, turn = name.partition("#")
            ids = self.named.get(base, [])
            index = int(turn or 1) - 1
            if index >= len(ids):
                if told["tokens"] or told["end"] == "finished":
                    row["unknown"] += 1
                    why.append(f"{name} was never seen")
                continue
            why += self._request(row, name, ids[index], told)
        wrong = [f"{count} {row[count]}" for count in ("mismatched", "duplicates", "missing", "unknown") if row[count]]
        return {**{name: row[name] for name in _COUNTS}, "why": "; ".join([*wrong, *why])}

    def _request(self, row: Counter[str], name: str, key: str, told: Mapping[str, Any]) -> list[str]:
        end, start = self.recorder.ends.get((self.stage, key)), self.recorder.starts[self.stage, key]
        prompt, tokens = told["prompt"], told["tokens"]
        if end is None:
            return [f"{name} never ended"]
        known = len(prompt) + len(tokens) - 1 if tokens else min(end.fed, len(prompt))
        seen = self.heard.seen.get((key, 0), Seen(common_pb2.Request()))
        received = seen.columns()[0]
        row["fed"] += end.fed
        row["beyond"] += end.fed - known
        row["recomputed"] += self._again(row, key, told, known)
        outcome = self._compare(key, told, _Cut(seen, known, seen.missed))
        for count in ("rows", "duplicates", "missing", "unknown"):
            row[count] += getattr(outcome, count)
        row["compared"] += outcome.tally.compared
        row["mismatched"] += outcome.tally.mismatched + outcome.excluded_wrong
        row["in_grey_band"] += outcome.tally.in_grey_band
        why = []
        if told["end"] == "finished" and end.fed != known:
            why.append(f"{name} fed {end.fed}, its answer says {known}")
        if told["end"] == "finished" and end.emitted != len(tokens):
            why.append(f"{name} emitted {end.emitted} of {len(tokens)}")
        if end.fed < known or (received >= end.fed).any():
            why.append(f"{name} fed {end.fed} of {known}, seen up to {received.max(initial=-1)}")
        if len(received) + sum(seen.missed.values()) != end.fed:
            why.append(f"{name} fed {end.fed}, {len(received)} seen and {dict(seen.missed)} missed")
        if start.prompt_len != len(prompt) or start.adapter != told["adapter"]:
            why.append(f"{name} began with {start.prompt_len} tokens and adapter '{start.adapter}'")
        return why

    def _again(self, row: Counter[str], key: str, told: Mapping[str, Any], known: int) -> int:
        """Rows that were computed again, which must be right too; how many."""
        again = self.heard.again.get((key, 0))
        if again is None:
            return 0
        position = again.columns()[0]
        if (position < known).any():
            outcome = self._compare(key, told, _Cut(again, known, Counter()))
            row["mismatched"] += outcome.tally.mismatched
            row["compared"] += outcome.tally.compared
        return len(position)

    def _compare(self, key: str, told: Mapping[str, Any], seen: Any) -> Any:
        sheet = json.loads((Path(self.watch.bundle) / "dictionary.json").read_text())
        received = _Received(self.heard.tables, {(key, 0): seen})
        comparison = Comparison(
            self.oracles[told["adapter"]],
            received,
            latents=sheet["encoder"]["latents"],
            exclusions=sheet["tokens"],
            band=self.band,
        )
        fed = [*told["prompt"], *told["tokens"]][: seen.known]
        if not fed:
            return Outcome()
        return comparison.compare({key: Answer(key, fed, [0])})


_COUNTS = (
    "requests",
    "rows",
    "compared",
    "mismatched",
    "in_grey_band",
    "duplicates",
    "missing",
    "unknown",
    "recomputed",
    "fed",
    "beyond",
)


@dataclass(frozen=True, slots=True)
class _Received:
    tables: Mapping[int, Any]
    seen: Mapping[tuple[str, int], Any]
