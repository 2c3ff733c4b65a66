"""What rules cost the sidecar: firings that are judged in a second of CPU time, and memory over many requests.

200 rules over 2,000 features, every statistic and kind of condition among them, judged by the monitor's own code on
the batches that it makes of an engine's steps. Cells differ in how much fires on a token, and in how many tokens of a
request a step has (decoding: one; prefilling: many). CPU time is that of the process; what is timed is
`Alerts.observe`, from a batch of firings to alerts.

``memory``: requests begin, are judged and end, a million to fill what is bounded and then ten. Each has one token; on
one in 16 features fire, so that statistics, states, alerts and records come and go too. The process may not grow. It
is one process from its first request to its last, so --resume does not go on within it: it keeps whole cells, those of
the same code.

    python -m benchmarks.bench_monitor [--quick] [--json OUT] [--cells decode_64,memory] [--resume] [--requests N]
                                       [--budget-s S] [--check]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import form
from saewatch.core.batch import FiringBatch
from saewatch.core.records import RequestEnd, RequestStart
from saewatch.monitor.alert import Coverage
from saewatch.monitor.alerts import Alerts
from saewatch.monitor.events import Observed, RequestEnded
from saewatch.monitor.identity import Identity
from saewatch.monitor.monitor import Monitor
from saewatch.monitor.policy.resolve import no_limits
from saewatch.monitor.policy.rule import Policy, read
from saewatch.monitor.record import seen_of
from saewatch.monitor.tables import KnownDictionary
from tests import fakes

FEATURES, RULES, READ = 2000, 200, 440
"""Features, rules, and features that rules read: a fifth of all, so that a fifth of the firings touches one."""
REQUESTS = 128
"""That a step serves."""
STEPS, STEPS_QUICK, ROUNDS = 40, 16, 7
"""Tokens of a request, and how often each cell is measured."""
SECOND_NS = 10**9
SEED = 9
STATISTICS = ("max", "top3", "3of10", "run4", "count", "ewma16", "mean", "share")
PEAK = 9.0
ABOVE = {"top3": 4.0, "3of10": 3.0, "run4": 1.0, "count": 5.0, "ewma16": 0.6, "mean": 0.2, "share": 0.15}
"""Limits at which a few requests raise an alert, and most do not."""
ACCEPT, TARGET = 5e6, 1e7
GROWTH_ACCEPT, GROWTH_TARGET = 1.0, 0.25
WARM, ALL_REQUESTS, QUICK_REQUESTS = 1_000_000, 10_000_000, 20_480
"""Requests before memory is looked at first, and those after it; a short run takes so few of either."""
AT_ONCE, LOUD = 512, 16
"""Requests of a step of the memory cell; one in so many has firings."""
MARKS = 10
"""How often memory is looked at."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One load."""

    name: str
    fired: int
    """Features on a token."""
    tokens: int
    """Of a request in a step."""

    @property
    def key(self) -> str:
        """As --cells names it."""
        return f"{self.name.split(',')[0]}_{self.fired}"


CELLS = (
    Cell("decode, 64 a token", 64, 1),
    Cell("decode, 16 a token", 16, 1),
    Cell("decode, 1 a token", 1, 1),
    Cell("prefill, 64 a token", 64, 8),
)
MAIN = CELLS[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; 0 when it ran, 2 when another cut of the batches gave other alerts: then no times are printed."""
    options = _parser().parse_args(argv)
    asked = options.cells.split(",") if options.cells else [cell.key for cell in CELLS]
    if not {*asked} <= {*_names()}:
        print(f"--cells takes some of {','.join(_names())}, found {options.cells}", file=sys.stderr)
        return 1
    compared, mismatched = agrees()
    if mismatched:
        print(f"{mismatched} of {compared} alerts differ by the cut", file=sys.stderr)
        return 2
    rows = _kept(options)
    for name in asked:
        if name not in rows:
            rows[name] = {"cell": name, "code": _code(options), **_measured(name, options)}
    result = _result(options, [rows[name] for name in _names() if name in rows], compared)
    return form.finish(result, options.json, check=options.check)


def _names() -> list[str]:
    return [*(cell.key for cell in CELLS), "memory"]


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    if name == "memory":
        few = QUICK_REQUESTS if options.quick else 0
        return memory(few or WARM, few or options.requests, options.budget_s)
    [cell] = [cell for cell in CELLS if cell.key == name]
    return measured(cell, STEPS_QUICK if options.quick else STEPS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, and fewer requests")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--cells", default="", help=f"some of {','.join(_names())}; all but memory unless given")
    parser.add_argument("--resume", action="store_true", help="keep cells of the result that is there")
    parser.add_argument("--requests", type=int, default=ALL_REQUESTS, metavar="N", help="of the memory cell")
    parser.add_argument(
        "--budget-s", type=float, default=float("inf"), metavar="S", help="the memory cell ends by then"
    )
    parser.add_argument("--check", action="store_true", help="exit 3 when a goal is not met")
    return parser


# --- what is judged ---------------------------------------------------------------------------------------------------
def policy() -> Policy:
    """200 rules: each kind of condition with each statistic."""
    return read({"policy": "measured", "rules": [_rule(number) for number in range(RULES)]}, "measured")


def _rule(number: int) -> dict[str, Any]:
    first, second, third = f"f{2 * number}.l1", f"f{2 * number + 1}.l1", f"f{2 * RULES + number // 5}.l1"
    spelt = STATISTICS[number % len(STATISTICS)]
    leaf = {"feature": first, "statistic": spelt, "above": ABOVE.get(spelt, PEAK)}
    peak = {"feature": second, "statistic": "max", "above": PEAK}
    conditions: list[dict[str, Any]] = [
        leaf,
        {"all": [leaf, {"not": {**peak, "within_tokens": 20}}]},
        {"sequence": [{**peak, "feature": first}, peak], "within_tokens": 20},
        {"any": [leaf, peak]},
        {"at_least": 2, "of": [leaf, peak, {**peak, "feature": third, "scope": "reply"}]},
    ]
    rule = {"id": f"r{number}", "severity": "low", "when": conditions[number % 5], "uncalibrated": "measured"}
    return rule | ({"for_tokens": 2, "clear_tokens": 3} if number % 3 == 0 else {})


def dictionary() -> KnownDictionary:
    """2,000 features of one latent each."""
    features = [fakes.feature(f"f{number}.l1", latents=(number,)) for number in range(FEATURES)]
    return fakes.dictionary(features, latents=2 * FEATURES)


class Engine:
    """A monitor, the alerts over it, and the steps of an engine."""

    def __init__(self, *, scale: float = 1.0) -> None:
        """``scale``: the mean of all values; limits stay as they are."""
        self._scale = scale
        self.known = dictionary()
        self.monitor = Monitor(dictionaries={self.known.weights_digest: self.known})
        self.alerts = Alerts([policy()], lambda _: no_limits, self._seen)
        self.monitor.connect(1)
        self.now = SECOND_NS
        for record in (fakes.stream_open(self.known), fakes.watch_set(self.known)):
            self.monitor.receive(1, record, self.now)
        self._chance = np.random.default_rng(SEED)
        self._seq = 0

    def _seen(self, identity: Identity, stream: int, names: Collection[str]) -> tuple[Coverage, Mapping[str, int]]:
        return seen_of(self.monitor.records(identity.engine_id), identity, stream, names)

    def begin(self, requests: range, prompt_len: int) -> None:
        """Requests without a label begin."""
        for number in requests:
            start = RequestStart(request=number, engine_id=f"q{number}", prompt_len=prompt_len)
            self.monitor.receive(1, start, self.now)

    def end(self, requests: range, fed: int) -> int:
        """They end; gives how many alerts changed."""
        changed = 0
        for number in requests:
            for event in self.monitor.receive(1, RequestEnd(request=number, fed=fed, emitted=1), self.now):
                changed += len(self.alerts.ended(event, self.now)) if isinstance(event, RequestEnded) else 0
        return changed

    def step(self, requests: range, position: int, cell: Cell, *, loud: int = 1) -> Observed:
        """One batch, as the monitor hands it on; features fire on one row in ``loud``."""
        self.now += SECOND_NS // 50
        events = self.monitor.receive(1, self._batch(requests, position, cell, loud), self.now)
        [observed] = [event for event in events if isinstance(event, Observed)]
        return observed

    def _batch(self, requests: range, position: int, cell: Cell, loud: int) -> FiringBatch:
        self._seq += 1
        rows = np.arange(0, len(requests) * cell.tokens, loud, dtype=np.uint32)
        spans = [(number, position, cell.tokens) for number in requests]
        draws = self._chance.random((len(rows), FEATURES)).argpartition(cell.fired, axis=1)[:, : cell.fired]
        return replace(
            fakes.batch(spans, seq=self._seq, time_ns=self.now),
            row=np.repeat(rows, cell.fired),
            slot=np.sort(draws, axis=1).astype(np.uint16).reshape(-1),
            value=(self._chance.exponential(self._scale, len(rows) * cell.fired) + 0.01).astype(np.float32),
        )


# --- speed ------------------------------------------------------------------------------------------------------------
def measured(cell: Cell, steps: int) -> dict[str, Any]:
    """One cell: in each round other requests, of as many steps."""
    speeds, changed, touched = [], 0, 0.0
    engine, requests = Engine(), range(1, REQUESTS + 1)
    for number in range(ROUNDS):
        requests = range(1 + number * REQUESTS, 1 + (number + 1) * REQUESTS)
        engine.begin(requests, prompt_len=1)
        spent, firings = 0.0, 0
        for step in range(steps // cell.tokens):
            event = engine.step(requests, step * cell.tokens, cell)
            engine.monitor.records("")  # what requests' sums cost is measured by bench_pipeline
            began = time.process_time()
            changed += len(engine.alerts.observe(event, engine.now))
            spent += time.process_time() - began
            firings += event.batch.firings
        speeds.append(firings / spent)
        touched = _touched(event)
        changed += engine.end(requests, steps)
    ordered = sorted(speeds)
    return {
        "case": cell.name,
        "ours": statistics.median(speeds),
        "unit": "firings/CPU s",
        "spread": [ordered[0], ordered[-1]],
        "n": ROUNDS,
        "tokens_per_cpu_s": statistics.median(speeds) / cell.fired,
        "touched_share": touched,
        "changes": changed,
    }


def _touched(event: Observed) -> float:
    read = {f"f{number}.l1" for number in range(READ)}
    flags = np.array([one.id in read for one in event.table.features])
    return float(flags[event.fired.feature].mean())


# --- is it right ------------------------------------------------------------------------------------------------------
def agrees() -> tuple[int, int]:
    """Alerts of the same tokens in steps of one and of eight; tests hold them against a slow oracle."""
    fine, coarse = Engine(scale=8.0), Engine(scale=8.0)  # so that many alerts follow
    requests, cell = range(1, 17), Cell("", 16, 8)
    for engine in (fine, coarse):
        engine.begin(requests, prompt_len=3)
    found: list[set[tuple[str, str, int]]] = [set(), set()]
    for step in range(5):
        whole = coarse.step(requests, 8 * step, cell)
        found[0] |= _told(coarse.alerts, whole, coarse.now)
        for event in _split(fine, whole, requests, 8 * step):
            found[1] |= _told(fine.alerts, event, fine.now)
    return len(found[0] | found[1]), len(found[0] ^ found[1])


def _told(alerts: Alerts, event: Observed, now_ns: int) -> set[tuple[str, str, int]]:
    return {(one.alert.id, one.alert.state, one.alert.position) for one in alerts.observe(event, now_ns)}


def _split(engine: Engine, whole: Observed, requests: range, position: int) -> Iterator[Observed]:
    """The same firings, a token of each request at a time."""
    batch = whole.batch
    for token in range(8):
        own = batch.row % 8 == token
        part = replace(
            fakes.batch([(number, position + token, 1) for number in requests], seq=8 * batch.seq + token),
            row=batch.row[own] // 8,
            slot=batch.slot[own],
            value=batch.value[own],
        )
        yield from (one for one in engine.monitor.receive(1, part, engine.now) if isinstance(one, Observed))


# --- memory -----------------------------------------------------------------------------------------------------------
def memory(warm: int, requests: int, budget_s: float = float("inf")) -> dict[str, Any]:
    """What the process grows by at most while so many short requests come and go, after the first ``warm``."""
    engine, began, marks, done = Engine(scale=4.0), time.monotonic(), list[tuple[int, float]](), 0
    every = max(AT_ONCE, requests // MARKS // AT_ONCE * AT_ONCE)
    while done < warm + requests and time.monotonic() - began < budget_s:
        come_and_go(engine, range(done + 1, done + 1 + AT_ONCE))
        done += AT_ONCE
        if done >= warm + len(marks) * every:
            marks.append((done, resident() / 2**20))
            print(f"{done:,} requests, {marks[-1][1]:.2f} MiB, {time.monotonic() - began:.0f} s", file=sys.stderr)
    after = [mib for _, mib in marks]
    return {
        "case": "memory",
        "ours": max(after) - after[0] if after else None,
        "unit": "MiB",
        "n": done - warm if marks else 0,
        "mib": after[0] if after else None,
        "alerts_kept": len(engine.alerts.all()),
        "alerts_made": engine.alerts.faults["alerts_forgotten"] + len(engine.alerts.all()),
        "seconds": time.monotonic() - began,
        "marks": marks,
    }


def come_and_go(engine: Engine, requests: range) -> None:
    """They begin, have one token each, and end."""
    engine.begin(requests, prompt_len=1)
    engine.alerts.observe(engine.step(requests, 0, Cell("", 16, 1), loud=LOUD), engine.now)
    engine.end(requests, 1)
    engine.monitor.tick(engine.now)


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


# --- what it comes to -------------------------------------------------------------------------------------------------
def _code(options: argparse.Namespace) -> str:
    return form.code_of("service/saewatch/monitor") + ("-quick" if options.quick else "")


def _kept(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    if not (options.resume and options.json and options.json.exists()):
        return {}
    rows = json.loads(options.json.read_text())["rows"]
    return {row["cell"]: row for row in rows if row.get("code") == _code(options)}


def _result(options: argparse.Namespace, rows: Sequence[Mapping[str, Any]], compared: int) -> dict[str, Any]:
    facts, there = facts_of(rows), {row["cell"] for row in rows}
    return form.document(
        "monitor",
        facts=facts,
        correctness={"compared": compared, "mismatched": 0},
        rows=rows,
        goals={} if options.quick else goals(facts),
        not_run=[{"cell": name, "why": "not among --cells"} for name in _names() if name not in there],
        quick=options.quick,
        seed=SEED,
    )


def facts_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the cells that there are: those of the main one, and the others by name."""
    by_name = {row["case"]: row for row in rows}
    facts: dict[str, float] = {"rules": RULES, "features": FEATURES}
    if main_row := by_name.get(MAIN.name):
        facts |= {"firings_per_cpu_s": main_row["ours"], "touched_share": main_row["touched_share"]}
    for cell in (one for one in CELLS if one.name in by_name):
        facts[f"{cell.key}_firings_per_cpu_s"] = by_name[cell.name]["ours"]
        facts[f"{cell.key}_tokens_per_cpu_s"] = by_name[cell.name]["tokens_per_cpu_s"]
    facts["alert_changes"] = sum(row.get("changes", 0) for row in rows)
    if (found := by_name.get("memory")) and found["ours"] is not None:
        facts |= {"memory_requests": found["n"], "memory_mib": found["mib"], "memory_growth_mib": found["ours"]}
    return facts


def goals(facts: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Less is better: seconds of CPU for the firings, and what memory grows by."""
    says = f"CPU seconds for {ACCEPT:,.0f} firings, {RULES} rules over {FEATURES} features, 64 firings a token"
    spent = ACCEPT / facts["firings_per_cpu_s"] if "firings_per_cpu_s" in facts else None
    enough = facts.get("memory_requests", 0) >= ALL_REQUESTS
    grown = facts.get("memory_growth_mib") if enough else None
    memory_says = f"growth over {ALL_REQUESTS:,} requests after the first {WARM:,}"
    why = "" if enough else "fewer requests than the goal names"
    return {
        "rules": form.goal(says, spent, "s", accept=1.0, target=ACCEPT / TARGET),
        "memory": form.goal(memory_says, grown, "MiB", accept=GROWTH_ACCEPT, target=GROWTH_TARGET, why=why),
    }


if __name__ == "__main__":
    sys.exit(main())
