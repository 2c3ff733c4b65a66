"""Tell beforehand what watching will cost: device memory, time, bytes, series and disk, and which bound comes first.

Nothing is run. Memory is what the tap itself computes before it allocates. Times are estimates, from the formula in
saewatch.core.cost and a device's data sheet; they are never measurements, and a CPU is not modelled. Bytes are those of
frames and messages. What depends on how many features fire is a range where that is not known. Exit 2: the tap would
refuse to start.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from saewatch import cli
from saewatch.cli import costs
from saewatch.cli.costs import DEFAULTS, DTYPES, Asked, Plan, Range
from saewatch.cli.values import above_zero, bundle, from_zero
from saewatch.core import cost
from saewatch.core.cost import DEVICES
from saewatch.core.errors import ConfigError
from saewatch.core.footprint import mib
from saewatch.dictionary.model import facts_at
from saewatch.edge.dictionaries import load_one
from saewatch.monitor.tables import KnownDictionary

AUTO = "auto"
CPU = "cpu"
GB = 1e9


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model, what is watched, and what is asked of the engine."""
    default, count = Asked(), above_zero(int)
    largest = "vLLM's max-num-batched-tokens (%(default)s)"
    at_once = "sequences that decode at a time, vLLM's max-num-seqs (%(default)s)"
    fires = "of the watched features; auto: a range from what the bundle states (%(default)s)"
    device = f"whose data sheet is taken: {', '.join(DEVICES)}; {CPU} is not modelled (%(default)s)"
    parser.add_argument("--model", type=Path, required=True, help="the model's folder, or its config.json")
    parser.add_argument("--dictionary", type=Path, required=True, action="append", help="a bundle's folder; repeatable")
    parser.add_argument("--watch", type=count, metavar="N", help="rows of each that are watched; else: the catalogue's")
    parser.add_argument("--max-num-batched-tokens", type=count, default=default.rows_max, metavar="N", help=largest)
    parser.add_argument("--max-num-seqs", type=count, default=default.rows, metavar="N", help=at_once)
    parser.add_argument("--dtype", choices=list(DTYPES), default=default.dtype, help="of activations (%(default)s)")
    parser.add_argument("--device", choices=[*DEVICES, CPU], default=default.device, help=device)
    parser.add_argument(
        "--tokens-per-s", type=above_zero(float), default=default.tokens_per_s, metavar="X", help="(%(default)g)"
    )
    parser.add_argument("--firings-per-token", type=_fires, default=AUTO, metavar="X", help=fires)
    parser.add_argument(
        "--subscribers", type=from_zero(int), default=1, metavar="N", help="without a filter (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Plans and prints."""
    asked = _asked(options)
    model = facts_at(options.model, digests=False)
    streams = [costs.stream(folder, one, model, asked) for folder, one in _known(options.dictionary)]
    planned = costs.plan(streams, asked)
    if options.json:
        bounds = [{**dataclasses.asdict(one), "share": one.share} for one in planned.uses]
        found = {"facts": planned.facts(), "bounds": bounds, "first": cost.first(planned.uses).name}
        print(json.dumps({**found, "refused": planned.refused, "asked": dataclasses.asdict(asked)}))
    else:
        print("\n".join(lines(planned, asked)))
    return cli.FAILED if planned.refused else cli.GOOD


def _known(folders: Sequence[Path]) -> Iterable[tuple[Path, KnownDictionary]]:
    """The dictionary of each folder. Raises `ConfigError` for one that comes twice, which the tap refuses too."""
    found: dict[str, KnownDictionary] = {}
    for folder in folders:
        one = load_one(bundle(folder))
        if one.weights_digest in found:
            again = "the same dictionary as one before it"
            raise ConfigError(f"--dictionary {folder}", found=again, expected="each dictionary once")
        found[one.weights_digest] = one
    return zip(folders, found.values(), strict=True)


def _asked(options: argparse.Namespace) -> Asked:
    return Asked(
        watch=options.watch,
        rows_max=options.max_num_batched_tokens,
        rows=options.max_num_seqs,
        dtype=options.dtype,
        device=options.device,
        tokens_per_s=options.tokens_per_s,
        firings_per_token=options.firings_per_token,
        subscribers=options.subscribers,
    )


def _fires(text: str) -> float | None:
    return None if text == AUTO else from_zero(float)(text)


# --- for people -------------------------------------------------------------------------------------------------------
def lines(planned: Plan, asked: Asked) -> Iterator[str]:
    """The table."""
    ranges = planned.ranges
    for one in planned.streams:
        what = f"{one.features} features, {one.slots} rows watched on {one.known.manifest.hook_point}"
        yield f"{one.name}: {what}; {between(one.firings)} firings a token, {one.source}"
    yield ""
    parts = ", ".join(f"{name} {mib(size)}" for name, size in planned.memory.items() if size)
    yield _line("device memory", f"{mib(planned.device_bytes)} ({parts})")
    kept = between(ranges["reuse_tokens"])
    yield _line("host memory", f"at most {mib(DEFAULTS.reuse_bytes)} for firings of {kept} tokens that may come again")
    yield from _times(planned, asked)
    rate = f"at {asked.tokens_per_s:g} tokens/s in steps of {asked.rows} rows"
    yield _line("on the socket", f"{between(ranges['socket_bytes_per_s'], 1e3)} kB/s {rate}")
    yield _line(
        "to subscribers", f"{between(ranges['subscriber_bytes_per_s'], 1e3)} kB/s each, {asked.subscribers} of them"
    )
    yield _line("replay window", f"{between(ranges['replay_window_s'])} s that a subscriber may be away")
    yield _line("series", f"at most {planned.series}, of them {planned.features} in each metric of features")
    recorded = between(ranges["recording_bytes_per_day"], GB)
    yield _line(
        "disk a day", f"{between(ranges['history_bytes_per_day'], GB)} GB of history; {recorded} GB if recorded"
    )
    yield ""
    yield "bounds, and how much of each is used at most:"
    for use in sorted(planned.uses, key=lambda one: -one.share):
        yield f"  {use.share:7.1%}  {use.name}: {_short(use.used)} of {_short(use.bound)}"
    first = cost.first(planned.uses)
    yield f"first to be hit: {first.name}. {first.hint}"
    yield from (f"REFUSED by the tap: {why}" for why in planned.refused)


def _times(planned: Plan, asked: Asked) -> Iterator[str]:
    if asked.device == CPU:
        yield _line("added time", "not modelled for a CPU: measure it, with the tap on and off")
        return
    for name, rows in (("decode", asked.rows), ("prefill", asked.rows_max)):
        step, token = between(planned.ranges[f"{name}_step_us"]), between(planned.ranges[f"{name}_token_us"])
        yield _line(f"added, {name}", f"{step} µs a step of {rows} rows, {token} µs a token")
    yield _line(
        "", f"(estimates from an {asked.device}'s data sheet, no measurement; part of it beside the forward pass)"
    )


def between(ends: Range, unit: float = 1.0) -> str:
    """``2.6 to 55``, or one number where the ends are the same to two digits."""
    low, high = (_short(end / unit) for end in ends)
    return low if low == high else f"{low} to {high}"


def _short(number: float) -> str:
    """Two digits after the first, and no more than are needed."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _line(name: str, text: str) -> str:
    return f"{name:<16} {text}"
