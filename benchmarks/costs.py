"""From the blocks of `bench_serving` to what watching costs, and to what was wrong with the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import form
from benchmarks.blocks import PARTS, SEEN, TAPPED, Block, Load
from benchmarks.paired import ratio

Rounds = Sequence[Mapping[str, Block]]
"""The blocks of each round, by arm."""

RATIOS: Mapping[str, tuple[str, str]] = {
    "ratio": ("watching", "bare"),
    "ratio_after_sink": ("watching", "off"),
    "ratio_sink": ("off", "bare"),
    "ratio_all": ("all", "bare"),
    "ratio_same": ("again", "bare"),
}
"""Fact to the two arms. The last one is 1 but for noise, and its interval says how much of that there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What ran beside the engine: the sidecar, and what had nothing to do with us."""

    rows: int
    told: int
    """Of the engine's last books: encoded and reused."""
    refused: Mapping[str, int]
    blind: str
    sidecar_cpu: float
    """Share of all cores that the sidecar took."""
    others_cpu: float
    """Share of all cores that neither engine nor sidecar took: what made the run noisy."""


def faults(load: Load, rounds: Rounds, beside: Beside) -> Iterator[str]:
    """What makes a run wrong: no figure of it may be shown then."""
    for number, found in enumerate(rounds):
        for arm, block in found.items():
            where = f"round {number}, {arm}"
            if block.mismatched:
                yield f"{where}: {block.mismatched} answers differ from those of the first block"
            if block.calls != (len(block.steps) if arm in TAPPED else 0):
                yield f"{where}: the sink was called {block.calls} times in {len(block.steps)} steps"
            fed = load.fed if arm in SEEN else 0
            if not block.fed == block.encoded + block.reused + sum(block.missed.values()) == fed:
                books = f"encoded {block.encoded}, reused {block.reused}, missed {dict(block.missed)}"
                yield f"{where}: fed {block.fed}, {books}, not {fed}"
            if arm in SEEN and load.shared and not block.reused:
                yield f"{where}: nothing was replayed of {load.shared} tokens that each prompt begins with"
    if beside.blind:
        yield f"the stream was blind: {beside.blind}"
    if beside.refused:
        yield f"the sidecar refused {dict(beside.refused)}"
    if beside.rows != beside.told:
        yield f"the sidecar heard {beside.rows} rows, and {beside.told} are in the books"


def facts_of(load: Load, rounds: Rounds, beside: Beside) -> dict[str, float]:
    """Ratios and shares, of all rounds."""
    facts: dict[str, float] = {"rounds": len(rounds)}
    facts |= accounted(rounds, "watching")
    for name, (over, under) in RATIOS.items():
        if not {over, under} <= {*load.arms}:
            continue
        found = ratio(seconds(rounds, over), seconds(rounds, under))
        facts |= {f"{name}_median": found.median, f"{name}_lower95": found.lower95, f"{name}_upper95": found.upper95}
    for share in (50, 99) if load.decodes else ():
        bare, watching = (np.percentile(decoding(rounds, arm), share) for arm in ("bare", "watching"))
        facts[f"inter_token_p{share}_ratio"] = float(watching / bare)
    watched = [found["watching"] for found in rounds]
    fed, excluded = sum(one.fed for one in watched), sum(one.missed.get("excluded", 0) for one in watched)
    encoded, reused = (sum(getattr(one, name) for one in watched) for name in ("encoded", "reused"))
    facts["coverage_without_excluded"] = (encoded + reused) / (fed - excluded)
    facts["reused_share"] = reused / fed
    facts["blocks_with_loss"] = sum(bool(found[arm].lost) for found in rounds for arm in SEEN if arm in found)
    facts["firings_per_token"] = sum(one.firings for one in watched) / (encoded + reused)
    facts |= {"sidecar_cpu_share": beside.sidecar_cpu, "others_cpu_share": beside.others_cpu}
    return facts


def accounted(rounds: Rounds, arm: str) -> dict[str, float]:
    """What the tap spent over the time of the steps, in all and by part."""
    whole = sum(seconds(rounds, arm))
    parts = {part: sum(found[arm].spent[part] for found in rounds) / whole for part in PARTS}
    return {"accounted": sum(parts.values()), **{f"accounted_{part}": share for part, share in parts.items()}}


def rows_of(load: Load, rounds: Rounds) -> list[dict[str, Any]]:
    """A row for each arm, with the seconds of each block: times of one machine, and no claim."""
    return [_row(load, rounds, arm) for arm in load.arms]


def _row(load: Load, rounds: Rounds, arm: str) -> dict[str, Any]:
    shares = (50, 99) if load.decodes else ()
    between = {f"inter_token_ms_p{share}": 1e3 * float(np.percentile(decoding(rounds, arm), share)) for share in shares}
    return {
        "arm": arm,
        "steps": sum(len(found[arm].steps) for found in rounds),
        **{name: round(value, 3) for name, value in between.items()},
        "us_per_step": {part: round(share, 1) for part, share in _us_per_step(rounds, arm).items()},
        "lost": sum(found[arm].lost for found in rounds),
        "seconds": [round(value, 5) for value in seconds(rounds, arm)],
    }


def _us_per_step(rounds: Rounds, arm: str) -> dict[str, float]:
    steps = sum(len(found[arm].steps) for found in rounds)
    return {part: 1e6 * sum(found[arm].spent[part] for found in rounds) / steps for part in PARTS}


def seconds(rounds: Rounds, arm: str) -> list[float]:
    """Of each block of ``arm``, in the order of the rounds."""
    return [found[arm].seconds for found in rounds]


def decoding(rounds: Rounds, arm: str) -> list[float]:
    """Seconds of each step but the prompts': between two tokens of a request."""
    return [step for found in rounds for step in found[arm].steps[1:]]


def goals(facts: Mapping[str, float]) -> dict[str, Any]:
    """What is to be reached, judged: of the larger model."""
    model = "323 million parameters, 64 features watched:"
    return {
        "S1": form.goal(
            f"{model} sink, snapshot, encode, host and the shipper's CPU over step time",
            facts.get("accounted"),
            "",
            accept=0.01,
            target=0.005,
        ),
        "S2": form.goal(
            f"{model} upper 95 % bound of the paired ratio of block times, watching over an engine without the tap",
            facts.get("ratio_upper95"),
            "",
            accept=1.03,
            target=1.01,
        ),
    }
