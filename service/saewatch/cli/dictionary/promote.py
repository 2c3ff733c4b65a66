"""Move a ref of a slot to a bundle, if it still points to the expected one. Serving engines are not touched.

A slot is a model's alias and a hook point, such as smollm2/resid_post.14. Its refs: candidate, to be evaluated; shadow,
runs beside the stable one; stable, may raise alerts. To stable the quality gate has to let it pass; where nobody
evaluated it, --reason says why it is promoted all the same. Of two operators who expect the same, one wins, and the
other is told who and when.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.cli.values import above_zero
from saewatch.core.cost import DEVICES
from saewatch.core.footprint import mib
from saewatch.dictionary.journal import Line
from saewatch.dictionary.memory import ROLES, ROWS, Needs, needs
from saewatch.dictionary.registry import NAMES, NEVER, Move, Registry, read_slot


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is moved where, by whom and why."""
    parser.add_argument("slot", metavar="SLOT", help="a model's alias and a hook point: smollm2/resid_post.14")
    parser.add_argument("--bundle", required=True, metavar="B", help=stored.NAMED)
    parser.add_argument("--ref", required=True, choices=NAMES, help="what is moved")
    expect = f"what it points to now ({NEVER}: nothing yet): {stored.NAMED}"
    parser.add_argument("--expect", required=True, metavar="OLD", help=expect)
    parser.add_argument("--override", action="store_true", help="in spite of a failed gate; needs --reason")
    moving(parser)


def moving(parser: argparse.ArgumentParser) -> None:
    """What a promotion and a rollback share."""
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the journal")
    stored.actor_argument(parser)
    budget = "refuse what takes more of the device than this, with the model's other dictionaries"
    parser.add_argument("--device-budget-mib", type=above_zero(int), metavar="N", help=budget)
    parser.add_argument(
        "--device", choices=list(DEVICES), default="H200", help="for the estimate of time (%(default)s)"
    )
    stored.store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Moves it and says what is in force."""
    registry = stored.opened(options, writes=True)
    bundle = stored.digest_of(registry, options.bundle)
    move = move_of(options)
    needed = needed_by(registry, move, bundle, options)
    line = registry.promote(move, bundle, expect=stored.expected(registry, options.expect))
    tell(registry, line, needed, as_json=options.json)
    return cli.GOOD


def move_of(options: argparse.Namespace) -> Move:
    """What is asked for."""
    return Move(
        slot=read_slot(options.slot),
        ref=options.ref,
        actor=stored.actor(options),
        time_ms=stored.now_ms(),
        reason=options.reason,
        override=options.override,
    )


def needed_by(registry: Registry, move: Move, bundle: str, options: argparse.Namespace) -> Needs | None:
    """What the model's dictionaries take with the bundle among them. ConfigError when it is over the budget."""
    if move.ref not in ROLES:
        return None
    needed = needs(registry, move.slot.alias, device=options.device, promoted=(move.slot, move.ref, bundle))
    if options.device_budget_mib is not None:
        needed.check(options.device_budget_mib)
    return needed


def tell(registry: Registry, line: Line, needed: Needs | None, *, as_json: bool) -> None:
    """What was done, what it costs, and how it comes to the engines."""
    weights = registry.store.contents(line.after).sheet.weights
    load = [
        f"saewatch dictionary export {line.after[7:19]} --out DIR",
        f"saewatch tap load --dictionary {weights[:19]} --path DIR",
    ]
    if as_json:
        found: dict[str, Any] = {**line.json(), "line": line.digest, "next": load}
        if needed:
            found |= {"dictionaries": needed.dictionaries, "device_bytes": needed.device_bytes}
            found |= {"step_us_low": needed.step.lower * 1e6, "step_us_high": needed.step.upper * 1e6}
        print(json.dumps(found))
        return
    gate = f"gate {line.gate.verdict.replace('_', ' ')}{', OVERRIDDEN' if line.gate.overridden else ''}"
    lines = [f"{line.slot}@{line.ref}: {line.before[:19] or 'nothing'} -> {line.after[:19]}, line {line.seq}, {gate}"]
    if needed:
        lines.append(f"device memory {mib(needed.device_bytes)} for {', '.join(needed.dictionaries)}")
        low, high = needed.step.lower * 1e6, needed.step.upper * 1e6
        lines.append(f"{low:.0f} to {high:.0f} µs more for a step of {ROWS} rows: an estimate, no measurement")
        lines.append("engines go on with what they have; to bring it to them:")
        lines += [f"  {command}" for command in load]
    stored.show(lines)
