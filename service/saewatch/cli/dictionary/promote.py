"""Move a ref of a slot to a bundle, if it still points to the expected one; with --apply, in running engines too.

A slot is a model's alias and a hook point, such as smollm2/resid_post.14. Its refs: candidate, to be evaluated; shadow,
runs beside the stable one; stable, may raise alerts. To stable the quality gate has to let it pass; where nobody
evaluated it, --reason says why it is promoted all the same. Of two operators who expect the same, one wins, and the
other is told who and when. --policy names rules that are to stay as they are: a promotion that would make an active one
blind, or put it into shadow, is refused. So is one that takes away the feature of a canary that --canaries names.

--apply first asks the sidecar whether engines have a place for the bundle, then moves the ref, then brings the bundle
to them between two of their steps. Where the ref points to it already, the bundle is brought all the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from saewatch import cli
from saewatch.cli import changes as told
from saewatch.cli.dictionary import apply, stored
from saewatch.cli.policy import breaking
from saewatch.cli.policy.resolved import known_of
from saewatch.cli.terminal import printable
from saewatch.cli.values import above_zero
from saewatch.core.cost import DEVICES
from saewatch.core.errors import ConfigError, SaewatchError, UnreachableError
from saewatch.core.footprint import mib
from saewatch.dictionary import serving, signatures
from saewatch.dictionary.journal import Line
from saewatch.dictionary.memory import ROLES, ROWS, Needs, needs
from saewatch.dictionary.registry import NAMES, NEVER, STABLE, Move, Registry, read_slot
from saewatch.edge.pb import tap_pb2


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is moved where, by whom and why."""
    parser.add_argument("slot", metavar="SLOT", help="a model's alias and a hook point: smollm2/resid_post.14")
    parser.add_argument("--bundle", required=True, metavar="B", help=stored.NAMED)
    parser.add_argument("--ref", required=True, choices=NAMES, help="what is moved")
    expect = f"what it points to now ({NEVER}: nothing yet): {stored.NAMED}"
    parser.add_argument("--expect", required=True, metavar="OLD", help=expect)
    says = "in spite of a failed gate, or of rules that it breaks; needs --reason"
    parser.add_argument("--override", action="store_true", help=says)
    breaking.arguments(parser)
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
    parser.add_argument("--apply", action="store_true", help="bring it to running engines: stable and shadow")
    apply.where(parser)
    stored.store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Moves it and says what is in force."""
    registry = stored.opened(options, writes=True)
    bundle = stored.digest_of(registry, options.bundle)
    move = move_of(options)
    needed = needed_by(registry, move, bundle, options)
    _check_breaking(registry, move, bundle, options)

    def promote() -> Line:
        current, expect = registry.journal(move.slot).last(move.ref), stored.expected(registry, options.expect)
        if options.apply and current and current.after == bundle:  # as a call did that was broken off
            _check_same(move, current, expect)
            return current
        return registry.promote(move, bundle, expect=expect)

    return moved(registry, move, bundle, promote, needed=needed, options=options)


def _check_same(move: Move, line: Line, expect: str) -> None:
    """Raises `ConfigError` unless the call is the one that made ``line``: what it says besides is recorded nowhere."""
    where, hint = f"{move.slot}@{move.ref}", "`saewatch dictionary apply` brings what the ref points to."
    if expect not in {line.before, line.after}:
        expected = f"{line.after}, or {line.before or 'nothing'} before it"
        raise ConfigError(where, found=f"{expect or 'nothing'}, as --expect says", expected=expected, hint=hint)
    if move.reason not in {"", line.reason}:
        found = f"line {line.seq} of {line.actor}, for another reason"
        raise ConfigError(where, found=found, expected="a move to record the reason of", hint=hint)


def _check_breaking(registry: Registry, move: Move, bundle: str, options: argparse.Namespace) -> None:
    """Rules and canaries that the move would break: a refusal, or where it is overridden a line for each."""
    if not options.policy and not options.canaries:
        return
    if move.ref != STABLE:
        raise cli.UsageError(
            "--policy, --canaries", found=move.ref, expected=f"{STABLE}: no other ref raises alerts or is judged"
        )
    current = registry.current(move.slot).get(STABLE)
    before = known_of(registry.store.contents(current), current) if current else None
    for one in breaking.check(options, before, known_of(registry.store.contents(bundle), bundle)):
        print(f"saewatch: {printable(str(one))}", file=sys.stderr)


def moved(
    registry: Registry,
    move: Move,
    bundle: str,
    act: Callable[[], Line],
    *,
    needed: Needs | None,
    options: argparse.Namespace,
) -> int:
    """Moves the ref, brings the bundle to engines where that was asked for, and says what came of both."""
    if not options.apply:
        tell(act(), needed, options, relabelled(registry, move, bundle))
        return cli.GOOD
    apply.check(options)
    if move.ref not in ROLES:
        raise cli.UsageError("--apply", found=move.ref, expected=f"{' or '.join(ROLES)}: engines run no other ref")
    with serving.alone(registry.store):
        apply.rehearse(registry, move.ref, bundle, options)
        line = act()
        try:
            found = apply.bring(registry, move.slot, move.ref, bundle, options)
        except SaewatchError as error:
            tell(line, needed, options, relabelled(registry, move, bundle), failed=error)
            return cli.UNREACHED if isinstance(error, UnreachableError) else cli.FAILED
    tell(line, needed, options, relabelled(registry, move, bundle), changes=found)
    return apply.exit_code(found)


def relabelled(registry: Registry, move: Move, bundle: str) -> list[str]:
    """Refs of other slots that engines run, with the same weights under other labels.

    A sidecar knows one catalogue for a weights digest: where it serves both, what is applied last names both.
    """
    if move.ref not in ROLES:
        return []
    sheet, found = registry.store.contents(bundle).sheet, []
    for slot in registry.slots():
        for ref, other in registry.current(slot).items() if slot != move.slot else ():
            there = registry.store.contents(other).sheet
            if ref in ROLES and there.weights == sheet.weights and there.catalogue != sheet.catalogue:
                found.append(f"{slot}@{ref}")
    return found


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


def tell(
    line: Line,
    needed: Needs | None,
    options: argparse.Namespace,
    shared: Sequence[str],
    *,
    changes: Sequence[tap_pb2.Change] | None = None,
    failed: SaewatchError | None = None,
) -> None:
    """What was done, what it costs, and how it comes to the engines, or what came of that."""
    bringing = changes is not None or failed is not None
    good = changes is not None and apply.exit_code(changes) == cli.GOOD
    command = f"saewatch dictionary apply {line.slot} --ref {line.ref}{apply.repeated(options)}"
    again = [] if good or line.ref not in ROLES else [command]
    if options.json:
        found: dict[str, Any] = {**line.json(), "line": line.digest, "next": again, "same_weights": list(shared)}
        if bringing:
            error = {"error": str(failed)} if failed else {}
            found["applied"] = {**apply.said(changes or ()), "good": good, **error}
        if needed:
            found |= {"dictionaries": needed.dictionaries, "device_bytes": needed.device_bytes}
            found |= {"step_us_low": needed.step.lower * 1e6, "step_us_high": needed.step.upper * 1e6}
        print(json.dumps(found))
        return
    gate = f"gate {line.gate.verdict.replace('_', ' ')}{', OVERRIDDEN' if line.gate.overridden else ''}"
    names = signatures.names_of(stored.place(options), line.signed_by)
    signed = f", signed by {names}" if names else ""
    lines = [
        f"{line.slot}@{line.ref}: {line.before[:19] or 'nothing'} -> {line.after[:19]}, line {line.seq}, {gate}{signed}"
    ]
    if needed:
        lines.append(f"device memory {mib(needed.device_bytes)} for {', '.join(needed.dictionaries)}")
        low, high = needed.step.lower * 1e6, needed.step.upper * 1e6
        lines.append(f"{low:.0f} to {high:.0f} µs more for a step of {ROWS} rows: an estimate, no measurement")
    if shared:
        lines.append(
            f"the same weights with other labels are at {', '.join(shared)}: one sidecar shows one set of labels"
        )
    if failed:
        lines.append(f"NOT APPLIED: {failed}")
    lines += told.lines("load", changes or ())
    if again:
        lines.append(
            "the ref has moved; engines go on with what they have. To bring it to them:"
            if not bringing
            else "the ref has moved, and not every engine has followed. Once the cause is mended:"
        )
        lines += [f"  {command}" for command in again]
    stored.show(lines)
