"""Preview rules on a recording: how often they would have fired, how many alerts a day that is, and the top examples.

What fires is what the sidecar would have said beside the engine, rules in shadow with the others. Alerts a day are
those of the recording's pace, or of --requests-per-day; both intervals are exact, and assume that requests are like the
recorded ones and do not hang together. Rules over what was not recorded are refused.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from saewatch import cli
from saewatch.cli import recordings
from saewatch.cli.dictionary import stored
from saewatch.cli.policy import recorded, resolved
from saewatch.cli.policy.recorded import Replayed, played
from saewatch.cli.sidecar import clock_time
from saewatch.cli.values import above_zero
from saewatch.config import read_policy
from saewatch.core.batch import Reason
from saewatch.dictionary import poisson
from saewatch.dictionary.binomial import Share
from saewatch.edge.requests import RecordedRequest
from saewatch.monitor.alert import FIRED
from saewatch.monitor.compared import COUNTED
from saewatch.monitor.policy.machine import ACTIVE
from saewatch.monitor.policy.resolve import Programme, Resolved
from saewatch.monitor.policy.trace import trace

DAY_S = 86_400.0
EXCLUDED = Reason.EXCLUDED.label


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which rules, on what."""
    parser.add_argument("rules", metavar="FILE[:RULE]", help="a policy, or one rule of it")
    recorded.arguments(parser)
    parser.add_argument(
        "--top", type=above_zero(int), default=5, metavar="N", help="examples of each rule (%(default)s)"
    )
    says = "tell alerts a day for this traffic (the recording's pace)"
    parser.add_argument("--requests-per-day", type=above_zero(float), metavar="N", help=says)


def run(options: argparse.Namespace) -> int:
    """Replays, and says what would have been."""
    path, rule = resolved.named_rule(options.rules)
    policy = resolved.picked(read_policy(path), rule, str(path))
    replayed, found = Replayed(options, policy), _Found(options.top)
    for request in replayed.requests():
        assert replayed.programme is not None, "the first request comes after its watch set"
        found.add(request, replayed.programme)
    told = _told(replayed, found, options)
    if options.json:
        print(json.dumps(told))
    else:
        stored.show([*_lines(told)])
    return cli.GOOD


@dataclass(slots=True)
class _Found:
    """What was seen so far."""

    top: int
    requests: int = 0
    others: Counter[str] = field(default_factory=Counter)
    """Requests that no rule judges, by class."""
    incomplete: int = 0
    fed: int = 0
    seen: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    """Tokens, by reason."""
    fired: Counter[str] = field(default_factory=Counter)
    """Alerts by rule."""
    held: dict[str, Counter[str]] = field(default_factory=dict)
    examples: dict[str, list[tuple[float, int, dict[str, Any]]]] = field(default_factory=dict)
    _order: Iterator[int] = field(default_factory=itertools.count)

    def add(self, request: RecordedRequest, programme: Programme) -> None:
        """One more request."""
        if request.identity.traffic_class not in COUNTED:
            self.others[request.identity.traffic_class] += 1
            return
        self.requests += 1
        self.fed += len(request.seen)
        self.seen += int(request.seen.sum())
        self.missed.update(request.missed)
        # What is neither seen nor told as missed was in frames that the recording has lost.
        self.incomplete += int(request.seen.sum()) + request.missed.get(EXCLUDED, 0) < len(request.seen)
        active = {one.id: one for one in request.alerts if one.kind == FIRED and one.state == ACTIVE}
        rules = {one.rule.id: one for one in programme.rules}
        for alert in active.values():
            self.fired[alert.rule] += 1
            self.held.setdefault(alert.rule, Counter())[alert.held_back] += 1
            shown = _example(request, programme, rules[alert.rule], alert.position)
            kept = self.examples.setdefault(alert.rule, [])
            heapq.heappush(kept, (shown["margin"], -next(self._order), shown))
            if len(kept) > self.top:
                heapq.heappop(kept)


def _example(request: RecordedRequest, programme: Programme, rule: Resolved, position: int) -> dict[str, Any]:
    """How far its parts were over their limits: the margin is that of the part that was over by the least."""
    parts: list[dict[str, Any]] = []
    for number in rule.atoms:
        atom = programme.atoms[number]
        value, at = trace(atom, played(request, atom)).nearest
        if value > atom.limit:
            margin = value / atom.limit - 1.0 if atom.limit else value
            parts.append({"part": list(atom.features), "value": value, "limit": atom.limit, "at": at, "margin": margin})
    return {
        "request": request.identity.client_id or request.identity.engine_id,
        "engine_id": request.identity.engine_id,
        "position": position,
        "margin": min((one["margin"] for one in parts), default=0.0),
        "parts": parts,
    }


# --- told -------------------------------------------------------------------------------------------------------------
def _told(replayed: Replayed, found: _Found, options: argparse.Namespace) -> dict[str, Any]:
    programme, known = replayed.programme, replayed.known
    assert programme is not None
    assert known is not None
    return {
        "policy": replayed.policy.name,
        "recording": str(options.on),
        "dictionary": known.weights_digest,
        "seconds": replayed.seconds,
        "requests": found.requests,
        "not_judged": dict(found.others),
        "left_out": replayed.left_out,
        "defects": replayed.defects,
        "incomplete": found.incomplete,
        "coverage": recordings.coverage(found.seen, found.fed),
        "missed": dict(+found.missed),
        "requests_per_day": options.requests_per_day,
        "rules": [_rule(one, programme, replayed, found, options) for one in programme.rules],
    }


def _rule(
    rule: Resolved, programme: Programme, replayed: Replayed, found: _Found, options: argparse.Namespace
) -> dict[str, Any]:
    assert replayed.known is not None
    name = rule.rule.id
    fired, held = found.fired[name], found.held.get(name, Counter())
    share = Share(fired, found.requests)
    low, high = share.interval()
    return {
        **resolved.rule_json(programme, rule, replayed.known.catalogue.features),
        "fired": fired,
        "delivered": held[""],
        "held_back": {why: count for why, count in sorted(held.items()) if why},
        "share": share.value if share.n else None,
        "share_low": low,
        "share_high": high,
        **_per_day(share, replayed.seconds, options.requests_per_day),
        "examples": [shown for _, _, shown in sorted(found.examples.get(name, []), reverse=True)],
    }


def _per_day(share: Share, seconds: float, requests_per_day: float | None) -> dict[str, float | None]:
    """Alerts a day with a 95 % interval: of so many requests, or at the recording's pace."""
    if requests_per_day is not None:
        low, high = share.interval()
        scale, value = requests_per_day, share.value if share.n else None
    else:
        low, high = poisson.interval(share.hits)
        scale, value = (DAY_S / seconds, float(share.hits)) if seconds > 0 else (0.0, None)
    if value is None:
        return {"per_day": None, "per_day_low": None, "per_day_high": None}
    return {"per_day": scale * value, "per_day_low": scale * low, "per_day_high": scale * high}


def _lines(told: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{told['recording']}: {told['requests']} requests in {clock_time(told['seconds'])},"
        f" {recordings.covered(told['coverage'], told['missed'])},"
        f" {told['incomplete']} not wholly seen"
    )
    yield from recordings.damaged(told["defects"])
    left = {**told["left_out"], **{f"class {name}": count for name, count in told["not_judged"].items()}}
    if left:
        yield "left out: " + "; ".join(f"{count} ({why})" for why, count in sorted(left.items()))
    for rule in told["rules"]:
        yield from resolved.rule_lines(rule)
        yield from _rates(rule, told)
    yield "Alerts are correlational evidence. Intervals are of 95 %, for requests like these that come one by one."


def _rates(rule: dict[str, Any], told: dict[str, Any]) -> Iterator[str]:
    interval = f"[{1000 * rule['share_low']:.1f}, {1000 * rule['share_high']:.1f}] of 1,000"
    held = "".join(f", {count} held back ({why})" for why, count in rule["held_back"].items())
    share = f"{rule['fired']} of {told['requests']} requests, {interval}"
    yield f"    fired in {share}; {rule['delivered']} delivered{held}"
    if rule["per_day"] is not None:
        of = told["requests_per_day"]
        basis = f"with {of:,g} requests a day" if of else "at the recording's pace"
        day, low, high = (_rounded(rule[name]) for name in ("per_day", "per_day_low", "per_day_high"))
        yield f"    {day} [{low}, {high}] a day {basis}"
    for one in rule["examples"]:
        parts = ", ".join(map(_part, one["parts"]))
        yield f"      {one['margin']:+.0%}  {one['request']}  from {one['position']}  {parts}"


def _rounded(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def _part(one: dict[str, Any]) -> str:
    return f"{'+'.join(one['part'])} {one['value']:.4g} of {one['limit']:.4g} at {one['at']}"
