"""Move a ref of a slot back to an earlier bundle of its journal; with --apply, in running engines too.

Without --to it is the bundle before the current one; a second rollback goes further back, never forth. It is a move
like a promotion, with the same checks: the bundle's tensors must be there, and the gate must let it pass to stable.
"""

from __future__ import annotations

import argparse

from saewatch.cli.dictionary import promote, stored
from saewatch.core.errors import ConfigError
from saewatch.dictionary.journal import NOTHING, Line
from saewatch.dictionary.registry import NAMES, STABLE


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is moved, and where to."""
    parser.add_argument("slot", metavar="SLOT", help="a model's alias and a hook point: smollm2/resid_post.14")
    parser.add_argument("--ref", choices=NAMES, default=STABLE, help="what is moved (%(default)s)")
    parser.add_argument("--to", metavar="B", help=f"an earlier bundle: {stored.NAMED}")
    parser.add_argument("--expect", metavar="OLD", help="what it points to now; without it: whatever that is")
    parser.add_argument("--override", action="store_true", help="in spite of a failed gate")
    promote.moving(parser)


def run(options: argparse.Namespace) -> int:
    """Moves it and says what is in force."""
    registry = stored.opened(options, writes=True)
    move = promote.move_of(options)
    bundle = stored.digest_of(registry, options.to) if options.to else NOTHING
    expect = stored.expected(registry, options.expect) if options.expect else None
    earlier = registry.journal(move.slot).earlier(move.ref)
    target = bundle or (earlier[-1] if earlier else NOTHING)
    needed = promote.needed_by(registry, move, target, options) if target else None
    if options.apply and not target:
        found, expected = "no earlier bundle", "an earlier bundle of its journal"
        raise ConfigError(f"{move.slot}@{move.ref}", found=found, expected=expected)
    before = expect if expect is not None else registry.journal(move.slot).current(move.ref)

    def back() -> Line:
        return registry.rollback(move, target, expect=before if options.apply else expect)

    return promote.moved(registry, move, target, back, needed=needed, options=options)
