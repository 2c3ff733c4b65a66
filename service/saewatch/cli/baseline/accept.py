"""Accept that features fire more, or less, often than a baseline says: their new level is as it should be.

Writes an amendment beside the baseline's numbers: which features, by how much, who says so and why. The sidecar reads
it when it starts, and what spoke against these features begins anew. Nothing else of the baseline changes, and nothing
is ever fitted again by itself. The size is that of the alert; where several things changed, build a new baseline.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from pathlib import Path

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.core.errors import ConfigError
from saewatch.edge import amendments, baselines


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of what, by how much, and why."""
    parser.add_argument("baseline", type=Path, metavar="DIR", help="the baseline's folder")
    says = "a feature and how many times as often it fires now, as its alert says: demo.l1=2.5; repeatable"
    parser.add_argument("--level", action="append", required=True, metavar="FEATURE=TIMES", help=says)
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why it is as it should be")
    parser.add_argument("--actor", metavar="NAME", help="who says so (the user)")


def run(options: argparse.Namespace) -> int:
    """Reads, checks and writes."""
    levels = _levels(options.level)
    if not options.reason.strip():
        raise ConfigError("--reason", found="nothing", expected="why it is as it should be")
    known = baselines.read(options.baseline)
    time = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    actor = stored.actor(options)
    found = amendments.accept(options.baseline, known, levels, actor=actor, reason=options.reason, time=time)
    version = found.fitted.baseline.version
    told = {"digest": found.digest, "amends": known.digest, "version": version, "levels": levels, "actor": actor}
    if options.json:
        print(json.dumps(told))
        return cli.GOOD
    for name, times in levels.items():
        print(f"{name}: {times:g} times as often is as usual now")
    print(f"version {version} of the baseline, {found.digest[:19]}; a sidecar reads it when it starts")
    return cli.GOOD


def _levels(given: list[str]) -> dict[str, float]:
    found = dict[str, float]()
    for text in given:
        name, _, times = text.rpartition("=")
        try:
            value = float(times)
        except ValueError:
            value = float("nan")
        if not name or name in found or not amendments.TIMES_MIN <= value <= amendments.TIMES_MAX:
            expected = f"FEATURE=TIMES, each feature once, {amendments.TIMES_MIN:g} to {amendments.TIMES_MAX:g} times"
            raise ConfigError("--level", found=text, expected=expected)
        found[name] = value
    return found
