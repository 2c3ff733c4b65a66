"""Move a ref of a slot back to an earlier bundle of its journal. Serving engines are not touched.

Without --to it is the bundle before the current one; a second rollback goes further back, never forth. It is a move
like a promotion, with the same checks: the bundle's tensors must be there, and the gate must let it pass to stable.
"""

from __future__ import annotations

import argparse

from saewatch import cli
from saewatch.cli.dictionary import promote, stored
from saewatch.dictionary.journal import NOTHING
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
    line = registry.rollback(move, bundle, expect=expect)
    promote.tell(registry, line, needed, as_json=options.json)
    return cli.GOOD
