"""Show what fires, as it happens: a line for each token on which something fires, and whatever keeps firings away.

On a terminal the last line says how it goes: tokens a second, coverage, gaps, and what is blind. Ctrl-C ends it with
the totals. With --json each event is one object on a line of its own. When its time is over and there is no connection,
that is an error: nothing was heard, which is not the same as silence.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from saewatch import cli
from saewatch.cli import terminal
from saewatch.cli.asking import address_argument, until_ended
from saewatch.cli.screen import JsonLines, Screen
from saewatch.cli.values import above_zero
from saewatch.client import Client, Watch
from saewatch.client.decode import blind
from saewatch.core.errors import UnreachableError
from saewatch.core.records import TrafficClass


def arguments(parser: argparse.ArgumentParser) -> None:
    """Whom to ask, what for, and for how long."""
    address_argument(parser)
    several: dict[str, Any] = {"action": "append", "metavar": "NAME"}
    parser.add_argument("--feature", **several, help="only this feature; repeatable, as are the next ones")
    parser.add_argument("--category", **several, help="only this category")
    parser.add_argument("--min-value", type=float, metavar="VALUE", help="only values above this")
    parser.add_argument("--tenant", **several, help="only this tenant's requests; '' for requests without one")
    parser.add_argument("--request", **several, help="only this request: the client's id, the key or the engine's id")
    parser.add_argument("--traffic-class", action="append", choices=list(TrafficClass), help="only such requests")
    parser.add_argument("--resume-token", default="", metavar="TOKEN", help="go on where an earlier watch ended")
    parser.add_argument("--count", type=above_zero(int), metavar="N", help="end after so many slot firings")
    seconds: dict[str, Any] = {"type": above_zero(float), "metavar": "SECONDS"}
    parser.add_argument("--for", dest="seconds", **seconds, help="end after this long")
    parser.add_argument("--give-up-after", **seconds, help="fail after so long without a connection; else never")


def run(options: argparse.Namespace) -> int:
    """Watches until it is told to end, and reports."""
    shown = JsonLines(sys.stdout) if options.json else _screen()
    with Client(options.address) as client, _watch(client, options) as watch:
        try:
            with until_ended(watch, options):
                _show(client, watch, shown, count=options.count)
        except UnreachableError:
            shown.end(watch.totals, watch.resume_token)
            raise
        shown.end(watch.totals, watch.resume_token)
    return cli.GOOD


def _watch(client: Client, options: argparse.Namespace) -> Watch:
    return client.watch(
        options.feature,
        category=options.category,
        min_value=options.min_value,
        tenant=options.tenant,
        request=options.request,
        traffic_class=options.traffic_class,
        resume_token=options.resume_token,
        heartbeats=True,
        give_up_after_s=options.give_up_after,
    )


def _show(client: Client, watch: Watch, shown: Screen | JsonLines, *, count: int | None) -> None:
    """Until it is closed, or so much has fired."""
    if isinstance(shown, Screen):
        with contextlib.suppress(UnreachableError):  # the watch will say so, and go on trying
            shown.standing([blind(one) for one in client.status().blind])
    for event in watch:
        shown.show(event)
        if count is not None and watch.totals.firings >= count:
            return


def _screen() -> Screen:
    return Screen(sys.stdout, live=terminal.live(sys.stdout), colour=terminal.in_colour(sys.stdout))
