"""Is the tap right in every corner of the engine? Configurations of vLLM, and the plays that run in each.

One engine a configuration, of a tiny model, runs plays of benchmarks/scenarios.py one after the other. Each request's
firings are compared with transformers and SAELens at the positions that its client knows, what was computed again too.
The books are compared with the answers: a request that came to its own end has fed ``prompt + tokens - 1`` positions,
and one that was cut as many as its client knows, or some that no client ever saw: those are counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.beside import DRAFTERS, METHODS, NGRAM, make_adapter, merged
from benchmarks.cells import Bench, Judged
from benchmarks.oracle import BAND, Oracle, Reading
from benchmarks.quantised import PLAIN, quantise
from benchmarks.recorder import Heard, Recorder
from benchmarks.rig import Comparison, Outcome
from benchmarks.spec import Spec, Watch
from benchmarks.tiny import make_tokenizer
from deploy.demo.chat import Answer
from deploy.demo.collect import Seen
from saewatch.core.hookpoint import HookPoint
from saewatch.edge.pb.saewatch.v1 import common_pb2

USUAL = ("mixed", "smallest", "cached", "aborted", "stopped", "several", "full", "repeating", "looping", "again")
"""Plays that every engine can run."""
SHORT = ("aborted", "stopped", "looping")
"""Those of them in which drafts and steps that run ahead matter most: V2's interpreter takes its time on the CPU."""
HALF_BAND = 0.005
"""In place of `BAND` where an engine computes in float16, ten bits; the oracle computes in float32."""
SMALL = 14
"""KV blocks of a cache that the play *crowded* does not fit into: 8 requests of up to 300 tokens need 24."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corner:
    """One configuration of the engine."""

    says: str
    scenarios: tuple[str, ...] = USUAL
    runner: str = "v1"
    mode: str = "eager"
    ahead: bool = False
    drafter: str = ""  # draft | eagle: a second model, as the speculative configuration's own
    adapters: bool = False
    connector: str = ""  # of KV, to a folder on the disk
    quantised: bool = False
    points: tuple[HookPoint, ...] = (HookPoint("resid_post", 0),)
    everyday: bool = False  # in the everyday tests
    arguments: Mapping[str, Any] = field(default_factory=dict)


CORNERS: Mapping[str, Corner] = {
    "sync": Corner(
        says="one step after the other, a small KV cache",
        scenarios=(*USUAL, "crowded", "strings", "session"),
        everyday=True,
        arguments={"num_gpu_blocks_override": SMALL, "skip_tokenizer_init": False},
    ),
    "sync-v2": Corner(
        says="the same on runner V2",
        scenarios=(*USUAL, "crowded", "session"),
        runner="v2",
        arguments={"num_gpu_blocks_override": SMALL},
    ),
    "async": Corner(
        says="each step is scheduled and run before the tokens of the one before it are fetched",
        scenarios=(*USUAL, "crowded", "strings", "session"),
        runner="v2",
        ahead=True,
        everyday=True,
        arguments={"num_gpu_blocks_override": SMALL, "skip_tokenizer_init": False},
    ),
    "ngram": Corner(
        says="drafts from the text itself",
        scenarios=(*USUAL, "crowded"),
        everyday=True,
        arguments={"speculative_config": NGRAM, "num_gpu_blocks_override": SMALL},
    ),
    "ngram-v2": Corner(
        says="the same on runner V2", scenarios=SHORT, runner="v2", arguments={"speculative_config": NGRAM}
    ),
    "ngram-async": Corner(
        says="drafts from the text itself, made on the device, and steps that run ahead",
        scenarios=SHORT,
        runner="v2",
        ahead=True,
        arguments={"speculative_config": {**NGRAM, "method": "ngram_gpu"}},
    ),
    "draft": Corner(
        says="drafts of a second model",
        drafter="draft",
        arguments={"speculative_config": {"num_speculative_tokens": 3}},
    ),
    "draft-async": Corner(
        says="drafts of a second model, and steps that run ahead",
        scenarios=SHORT,
        runner="v2",
        ahead=True,
        drafter="draft",
        everyday=True,
        arguments={"speculative_config": {"num_speculative_tokens": 3}},
    ),
    "draft-async-full": Corner(
        says="the same, with all that can happen",
        scenarios=(*USUAL, "crowded", "session"),
        runner="v2",
        ahead=True,
        drafter="draft",
        arguments={"speculative_config": {"num_speculative_tokens": 3}, "num_gpu_blocks_override": SMALL},
    ),
    "eagle": Corner(
        says="drafts of an EAGLE head", drafter="eagle", arguments={"speculative_config": {"num_speculative_tokens": 2}}
    ),
    "eagle-async": Corner(
        says="drafts of an EAGLE head, and steps that run ahead",
        scenarios=SHORT,
        runner="v2",
        ahead=True,
        drafter="eagle",
        arguments={"speculative_config": {"num_speculative_tokens": 2}},
    ),
    "tensor": Corner(says="two ranks that hold half of each weight", arguments={"tensor_parallel_size": 2}),
    "tensor-async": Corner(
        says="two such ranks, and steps that run ahead",
        scenarios=SHORT,
        runner="v2",
        ahead=True,
        arguments={"tensor_parallel_size": 2},
    ),
    "pipeline": Corner(
        says="two stages, each with a hook point of its own",
        runner="v2",
        points=(HookPoint("resid_post", 0), HookPoint("resid_post", 1)),
        arguments={"pipeline_parallel_size": 2},
    ),
    "pipeline-first": Corner(
        says="two stages, of which the one that samples has no hook point",
        runner="v2",
        arguments={"pipeline_parallel_size": 2},
    ),
    "lora": Corner(
        says="two adapters and none",
        scenarios=("mixed", "cached", "adapted"),
        adapters=True,
        arguments={"enable_lora": True, "max_loras": 2, "max_lora_rank": 8},
    ),
    "external": Corner(
        says="the KV of prompts that were asked before comes from a connector",
        scenarios=("mixed", "cached"),
        connector="ExampleConnector",
        arguments={
            "enable_prefix_caching": False,
            "max_num_batched_tokens": 512,
        },  # it stores a prompt's first step only
    ),
    "external-cached": Corner(
        says="or from the prefix cache, which cannot tell whether it came from there",
        scenarios=("mixed", "cached"),
        connector="ExampleConnector",
        arguments={"max_num_batched_tokens": 512},
    ),
    "quantised": Corner(
        says="weights of four bits, multiplied out as they are used, in half precision: vLLM's kernel knows no other",
        scenarios=("mixed", "cached", "looping"),
        quantised=True,
        arguments={"dtype": "float16"},
    ),
    "compiled": Corner(says="a compiled graph", mode="default", scenarios=("mixed", "cached", "looping")),
}
"""By their names."""


def run(name: str, folder: Path, **changes: Any) -> list[dict[str, Any]]:
    """Each play's row in the configuration ``name``. What ``folder`` has of an earlier one is used again."""
    corner = CORNERS[name]
    bench = Bench(folder, "llama", corner.runner)
    make_tokenizer(bench.model)
    if corner.quantised:
        bench.model = quantise(bench.model, folder / "quantised")
    watch = [bench.watch(point, name=f"{point}-quantised" if corner.quantised else "") for point in corner.points]
    adapters = {one: str(make_adapter(bench.model, folder / one, seed)) for seed, one in enumerate(("one", "two"), 1)}
    arguments = dict(corner.arguments)
    if corner.drafter:
        model = DRAFTERS[corner.drafter](bench.model, folder / corner.drafter)
        arguments["speculative_config"] = {"method": METHODS[corner.drafter], "model": str(model)} | arguments[
            "speculative_config"
        ]
    if corner.connector:
        arguments["kv_transfer_config"] = {
            "kv_connector": corner.connector,
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"shared_storage_path": str(folder / f"kv-{name}")},
        }
    settings: dict[str, Any] = {
        "scenarios": corner.scenarios,
        "ahead": corner.ahead,
        "adapters": adapters if corner.adapters else {},
        "arguments": arguments,
    }
    found = bench.run(corner.mode, watch, judge=judged, **{**settings, **changes})
    rows: list[dict[str, Any]] = found["streams"]
    shared = {name: found[name] for name in ("counted", "ahead", "runner")}
    return [{"corner": name, **row, **shared} for row in rows]


# --- what came of it --------------------------------------------------------------------------------------------------
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
