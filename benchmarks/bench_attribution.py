"""Is drift put down to its cause? On simulated traffic with ten scenarios, and through a real engine.

The simulated cells (`drift_causes`): a panel's reaction is an input there. The engine's cell: vLLM with the fixture's
model and a clock that we turn, a baseline of 1,008 blocks of 60 prompts, and then changes that nobody declared, with
all digests as they were: another traffic mix, a fine-tuned model, the hook one layer off, and a panel that is not read.

With --resume, rows of the same code are kept. The engine's cell is kept trial by trial in --cache.

    python -m benchmarks.bench_attribution [--quick] [--json OUT] [--cells panel,nothing] [--resume] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import drift_causes, drift_cells, form
from benchmarks.attributed import FIXTURE, Deployment, Prompts, baseline, tuned
from benchmarks.drift_causes import SCENARIOS, Ground
from benchmarks.rig import Rig
from saewatch.monitor.drift.attribution import CANNOT_TELL, DICTIONARY, MODEL, TRAFFIC
from saewatch.monitor.drift.known import KnownBaseline

ENGINE = ("--dtype", "float32", "--max-num-batched-tokens", "1024", "--no-enable-prefix-caching")
BLOCKS, TRIALS, SETTLE, LONGEST = 1008, 5, 6, 72
"""Of the baseline; of each change; blocks after the first cause was told; and at most."""
QUICK_BLOCKS, QUICK_TRIALS = 1008, 1
MIX = 0.6
NONE = "none"
CHANGES: Mapping[str, tuple[str, str, bool]] = {
    "nothing": (NONE, "", True),
    "another mix": (TRAFFIC, "", True),
    "fine-tuned": (MODEL, "tuned", True),
    "layer off": (DICTIONARY, "wrong layer", True),
    "canaries dead": (CANNOT_TELL, "", False),
}
"""The right cause, the engine's fault, and whether the panel is read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and judges, as `drift_cells.run` says; wrong is a wrong cause."""
    return drift_cells.run(argv, "attribution", says=__doc__, cells=CELLS, prepare=_prepared, document=_document)


def _prepared(options: argparse.Namespace) -> drift_cells.Measure:
    ground = Ground(options.cache, quick=options.quick)
    return lambda name: CELLS[name](ground, options)


# --- through an engine ------------------------------------------------------------------------------------------------
def through_engine(ground: Ground, options: argparse.Namespace) -> dict[str, Any]:
    """A baseline, and each change some times."""
    del ground
    trials = QUICK_TRIALS if options.quick else TRIALS
    kept = options.cache / f"engine-{drift_cells.code(options)}"
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fault = Path(folder) / "fault"
        fault.write_text("")
        rig = Rig(Path(folder), FIXTURE / "model", FIXTURE / "bundle")
        prompts, began = Prompts(1), time.monotonic()
        first = Deployment(rig, prompts.panel)
        try:
            env = {"SAEWATCH_FAULT_FILE": str(fault), "SAEWATCH_TRUST_HEADERS": "1"}
            rig.start_engine(tap=rig.tap(worker="benchmarks.canaried.CanariedWorker"), extra=ENGINE, env=env)
            rig.wait()
            first.connected()
            known = baseline(first, prompts, QUICK_BLOCKS if options.quick else BLOCKS, _progress)
            first.close()
            built_s = time.monotonic() - began
            changes = Trials(rig=rig, prompts=prompts, known=known, fault=fault, kept=kept)
            told = [changes.get(name, number) for name in CHANGES for number in range(trials)]
        finally:
            first.close()
            rig.stop()
    assert known.panel is not None, "the baseline has one"
    return {
        "baseline_blocks": known.fitted.baseline.blocks,
        "baseline_requests": known.fitted.baseline.requests,
        "baseline_s": round(built_s, 1),
        "panel_alike": float(known.panel.golden.overlap.mean()),
        "panel_exercised": int(known.panel.golden.exercised.sum()),
        "features": known.fitted.baseline.features,
        "trials": told,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Changes of an engine that serves, each with a pipeline of its own."""

    rig: Rig
    prompts: Prompts
    known: KnownBaseline
    fault: Path
    kept: Path

    def get(self, name: str, number: int) -> dict[str, Any]:
        """One of them, made where it is not there yet."""
        path = self.kept / f"{name.replace(' ', '-')}-{number}.json"
        if not path.exists():
            path.write_text(json.dumps(self._made(name, number)))
        found: dict[str, Any] = json.loads(path.read_text())
        _progress(f"{name} {number}: {found}")
        return found

    def _made(self, name: str, number: int) -> dict[str, Any]:
        right, planted, read = CHANGES[name]
        one = Deployment(self.rig, self.prompts.panel, [self.known], begin=BLOCKS + 144 * number)
        try:
            one.connected()
            weights = f":{tuned(self.rig.folder, number)}" if planted == "tuned" else ""
            self.fault.write_text(f"{planted}{weights}")
            blocks = self._served(one, hazards=MIX if right == TRAFFIC or not read else None, read=read)
        finally:
            self.fault.write_text("")
            one.close()
        causes = [alert.cause for alert in one.alerts if alert.cause is not None]
        return {
            "change": name,
            "right": right,
            "told": causes[-1].name if causes else NONE,
            "all": sorted({cause.name for cause in causes}),
            "blocks": blocks,
            "overlap": next(iter(one.state.overlaps.values()), -1.0),
            "moved": [each.feature for each in causes[-1].moved][:3] if causes else [],
            "reason": causes[-1].reason if causes else "",
            "alarms": [f"{alert.rule} {each.statistic}" for alert in one.alerts for each in alert.evidence],
        }

    def _served(self, one: Deployment, *, hazards: float | None, read: bool) -> int:
        """Some blocks beyond the first cause; gives the blocks until it was told, 0 where none was."""
        first = 0
        for block in range(1, LONGEST + 1):
            one.serve(self.prompts.block(one.number, hazards=hazards), panel=read and block % 2 == 1)
            one.pass_on()
            if not first and any(alert.cause for alert in one.alerts):
                first = block
            if first and block >= first + SETTLE:
                break
        return first


def _progress(text: str) -> None:
    print(f"attribution: {text}", file=sys.stderr, flush=True)


Cell = Callable[[Ground, argparse.Namespace], dict[str, Any]]
CELLS: Mapping[str, Cell] = {
    "panel": lambda ground, _: drift_causes.by_itself(ground),
    **{name: partial(lambda ground, _, name: drift_causes.trials(ground, name), name=name) for name in SCENARIOS},
    "engine": through_engine,
}


# --- the result -------------------------------------------------------------------------------------------------------
def _document(
    options: argparse.Namespace, rows: Sequence[dict[str, Any]], not_run: Sequence[dict[str, str]]
) -> dict[str, Any]:
    facts = _facts(rows)
    return form.document(
        "attribution",
        facts=facts,
        correctness={"compared": int(facts.get("attribution_total", 0)), "mismatched": _wrong(rows)},
        rows=rows,
        goals={} if options.quick else _goals(facts, rows),
        not_run=not_run,
        quick=options.quick,
        seed=drift_causes.FULL.seed,
    )


def _facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of both kinds of trials, apart and together."""
    found = drift_causes.facts(rows)
    for row in (row for row in rows if row["cell"] == "engine"):
        told = row["trials"]
        found |= {
            "engine_correct": sum(one["told"] == one["right"] for one in told),
            "engine_total": len(told),
            "engine_wrong": sum(_is_wrong(one) for one in told),
        }
        found |= {f"engine_{name}": row[name] for name in ("baseline_blocks", "baseline_requests", "baseline_s")}
    found["attribution_correct"] = found.get("simulated_correct", 0) + found.get("engine_correct", 0)
    found["attribution_total"] = found.get("simulated_total", 0) + found.get("engine_total", 0)
    return found


def _is_wrong(one: Mapping[str, Any]) -> bool:
    """A cause was told, at any time, that is neither right nor 'cannot tell'."""
    return bool(set(one["all"]) - {one["right"], CANNOT_TELL}) or (one["right"] == NONE and bool(one["all"]))


def _wrong(rows: Sequence[Mapping[str, Any]]) -> int:
    facts = _facts(rows)
    return int(facts.get("simulated_wrong", 0) + facts.get("engine_wrong", 0))


def _goals(facts: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    shares = [100.0 * (1.0 - row["right"] / row["trials"]) for row in rows if "scenario" in row]
    whole = len(shares) == len(SCENARIOS)
    missed = 100.0 * (1.0 - facts["simulated_correct"] / facts["simulated_total"]) if whole else None
    null = facts.get("panel_null")
    unlocated = None if null is None else 100.0 * (1.0 - facts["panel_located_at_0_8"] / null)
    engine = facts.get("engine_total")
    return {
        "D17": form.goal("not put down to its cause, ten scenarios", missed, "%", accept=10.0, target=3.0),
        "D17b": form.goal(
            "of the worst of them", max(shares, default=0.0) if whole else None, "%", accept=30.0, target=10.0
        ),
        "D17c": form.goal("trials with a wrong cause", facts.get("simulated_wrong"), "trials", accept=0, target=0),
        "D18": form.goal(
            "rounds flagged where nothing changed", facts.get("panel_null_flagged"), "", accept=0, target=0
        ),
        "D18b": form.goal("one feature at 0.8 times its value, not located", unlocated, "%", accept=2.0, target=0.0),
        "E1": form.goal("engine: trials with a wrong cause", facts.get("engine_wrong"), "trials", accept=0, target=0),
        "E2": form.goal(
            "engine: not put down to its cause",
            None if engine is None else engine - facts["engine_correct"],
            "trials",
            accept=2,
            target=0,
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
