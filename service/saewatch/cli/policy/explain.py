"""Explain a rule on a recorded request: why it fired, or why it did not.

Each part of the rule's condition is shown with the largest value that it reached, the limit that it was held against,
and the token that came nearest. Tokens that nobody saw are counted: a rule is silent on those. A request that has not
ended when the recording does is explained with what it has so far, and that is said.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from saewatch import cli
from saewatch.cli import recordings
from saewatch.cli.dictionary import stored
from saewatch.cli.policy import recorded, resolved
from saewatch.cli.policy.recorded import Replayed, played
from saewatch.config import read_policy
from saewatch.core.batch import Reason
from saewatch.core.errors import ConfigError
from saewatch.edge.requests import ENDED, OPEN, RecordedRequest
from saewatch.monitor.alert import FIRED
from saewatch.monitor.compared import COUNTED
from saewatch.monitor.policy.condition import AtLeast, InOrder, Node, Not, One
from saewatch.monitor.policy.machine import ACTIVE
from saewatch.monitor.policy.resolve import Resolved
from saewatch.monitor.policy.trace import trace

EXCLUDED = Reason.EXCLUDED.label
SHOWN = 8
"""Positions of a part that are listed."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which request, and which rule."""
    parser.add_argument("request", metavar="REQUEST", help="the client's id of a request, or the engine's")
    parser.add_argument("rule", metavar="FILE:RULE", help="a policy, and the rule's id behind a colon")
    recorded.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Finds the request and says why."""
    path, name = resolved.named_rule(options.rule)
    policy = read_policy(path)
    if not name and len(policy.rules) > 1:
        raise cli.UsageError("FILE:RULE", found=options.rule, expected="one rule's id behind a colon")
    replayed = Replayed(options, resolved.picked(policy, name, str(path)))
    found = [
        _told(request, replayed)
        for request in replayed.requests(unfinished=True)
        if options.request in {request.identity.client_id, request.identity.engine_id}
    ]
    if not found:
        left = ", ".join(f"{count} ({why})" for why, count in replayed.left_out.items()) or "none"
        expected = "the client's id of a recorded request, or the engine's"
        hint = f"It has {replayed.told} requests; left out: {left}."
        raise ConfigError(str(options.on), found=f"no request {options.request:.80}", expected=expected, hint=hint)
    if options.json:
        print(json.dumps({"requests": found, "defects": replayed.defects}))
    else:
        stored.show([*recordings.damaged(replayed.defects), *(line for one in found for line in _lines(one))])
    return cli.GOOD


def _told(request: RecordedRequest, replayed: Replayed) -> dict[str, Any]:
    """Everything about one request and the rule."""
    programme, known, identity = replayed.programme, replayed.known, request.identity
    assert programme is not None
    assert known is not None
    [rule] = programme.rules
    told = resolved.rule_json(programme, rule, known.catalogue.features)
    for number, part in zip(rule.atoms, told["parts"], strict=True):
        found = trace(programme.atoms[number], played(request, programme.atoms[number]))
        over = found.over(part["limit"])
        value, at = found.nearest
        waits = found.at_end and _goes_on(request, programme.atoms[number].scope)
        part |= {"number": number, "tokens": len(found.level), "largest": value, "at": at, "so_far": waits}
        part |= {"over": 0 if waits else len(over), "over_at": [] if waits else over[:SHOWN].tolist()}
    changes = [one for one in request.alerts if one.kind == FIRED]
    return {
        "request": identity.client_id or identity.engine_id,
        "engine_id": identity.engine_id,
        "class": identity.traffic_class,
        "judged": identity.traffic_class in COUNTED,
        "prompt_len": identity.prompt_len,
        "end": request.end,
        "fed": len(request.seen),
        "seen": int(request.seen.sum()),
        "missed": {reason: tokens for reason, tokens in request.missed.items() if tokens},
        "fired": any(one.state == ACTIVE for one in changes),
        "history": [{"state": one.state, "position": one.position} for one in changes],
        **told,
        "condition": [*_condition(rule)],
    }


def _goes_on(request: RecordedRequest, scope: str) -> bool:
    """Whether more may come of that part of the request. A prompt ends with the first token of the reply."""
    return request.end == OPEN and not (scope == "prompt" and request.seen[request.identity.prompt_len :].any())


def _condition(rule: Resolved) -> Iterator[str]:
    """The condition, a node a line."""
    places = {number: place for place, number in enumerate(rule.atoms, 1)}
    assert rule.condition is not None, "a rule that is blind is refused"
    yield from _node(rule.condition, places, 0)


def _node(node: Node, places: dict[int, int], depth: int) -> Iterator[str]:
    lead = "  " * depth
    if isinstance(node, One):
        yield f"{lead}part {places[node.atom]}{f', for {node.within} tokens' if node.within else ''}"
    elif isinstance(node, InOrder):
        steps = ", then ".join(" or ".join(f"part {places[atom]}" for atom in step) for step in node.steps)
        yield f"{lead}in order{f' within {node.within} tokens' if node.within else ''}: {steps}"
    elif isinstance(node, Not):
        yield f"{lead}not"
        yield from _node(node.of, places, depth + 1)
    else:
        assert isinstance(node, AtLeast)
        count = "all" if node.count == len(node.of) else "any" if node.count == 1 else f"at least {node.count}"
        yield f"{lead}{count} of"
        for one in node.of:
            yield from _node(one, places, depth + 1)


# --- words ------------------------------------------------------------------------------------------------------------
def _lines(told: dict[str, Any]) -> Iterator[str]:
    named = f" ({told['engine_id']})" if told["engine_id"] != told["request"] else ""
    yield f"request {told['request']}{named}: prompt {told['prompt_len']}, {_fed(told)}"
    if told["end"] != ENDED:
        why = "the recording ends before it" if told["end"] == OPEN else "the engine was lost before it told its end"
        yield f"NOT FINISHED: {why}. This is what it has so far."
    missed = {reason: tokens for reason, tokens in told["missed"].items() if reason != EXCLUDED}
    if missed:
        words = ", ".join(f"{tokens} {reason}" for reason, tokens in missed.items())
        yield f"NOT WHOLLY SEEN: {words}. The rule is silent on those tokens."
    because = f": {told['why']}" if told["why"] else ""
    yield f"{told['rule']} v{told['version']} is {told['state'].upper()} here{because}"
    yield _outcome(told)
    if told["subject"] == "conversation":
        yield "It is about a conversation; what follows is of this request alone."
    yield from (f"  {line}" for line in told["condition"])
    for place, part in enumerate(told["parts"], 1):
        yield f"part {place}: {resolved.part_text(part)}"
        yield f"  {_reached(part)}"
        yield f"  {resolved.basis_text(part['basis'])}"
    yield "Evidence is correlational: it says what was active in the model, and not what the text means."


def _fed(told: dict[str, Any]) -> str:
    excluded = told["missed"].get(EXCLUDED, 0)
    return f"fed {told['fed']}, seen {told['seen']}{f', excluded {excluded}' if excluded else ''}"


def _outcome(told: dict[str, Any]) -> str:
    if not told["judged"]:
        return f"it does not judge requests of the class {told['class']}"
    verb = "fired" if told["state"] == resolved.ACTIVE else "would have fired"
    if told["fired"]:
        return f"it {verb}: " + ", ".join(f"{one['state']} at {one['position']}" for one in told["history"])
    over = [part for part in told["parts"] if part["over"]]
    if told["end"] == OPEN:
        return f"it has not fired so far: {len(over)} of {len(told['parts'])} parts were over their limits"
    if len(over) == len(told["parts"]):
        return "it did not fire: every part was over its limit at some token, but not as the condition asks"
    return f"it did not fire: {len(over)} of {len(told['parts'])} parts were over their limits"


def _reached(part: dict[str, Any]) -> str:
    if not part["tokens"]:
        return f"no token of its scope ({part['scope']}) was seen"
    if part["so_far"]:
        return f"{part['largest']:.4g} so far, over {part['tokens']} tokens; it is judged when its scope ends"
    if part["over"]:
        more = ", …" if part["over"] > len(part["over_at"]) else ""
        where = ", ".join(map(str, part["over_at"]))
        return f"OVER at {part['over']} tokens ({where}{more}); largest {part['largest']:.4g} at {part['at']}"
    if part["largest"] == 0.0:
        return f"nothing fired on the {part['tokens']} tokens of its scope"
    short = part["limit"] - part["largest"]
    return f"nearest {part['largest']:.4g} at {part['at']}, {short:.4g} short"
