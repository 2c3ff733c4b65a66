"""Ask the taps of running engines, through their sidecar, whether they see, and change what they watch.

Nothing is restarted, and serving goes on. What is switched off, or not in force, is blind and counted; never silent.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping

from google.protobuf.json_format import MessageToDict

from saewatch import cli
from saewatch.cli import changes
from saewatch.cli.asking import address_argument
from saewatch.cli.terminal import printable
from saewatch.client import Client
from saewatch.core import limits
from saewatch.edge.pb import tap_pb2

GOOD, UNVERIFIED = tap_pb2.CHECK_STATE_GOOD, tap_pb2.CHECK_STATE_UNVERIFIED
WAITS: Mapping[str, tuple[int, int]] = {
    "selftest": (limits.SELF_TEST_S, limits.SELF_TEST_MAX_S),
    "off": (limits.CHANGE_S, limits.CHANGE_MAX_S),
    "on": (limits.CHANGE_S, limits.CHANGE_MAX_S),
    "watch": (limits.CHANGE_S, limits.CHANGE_MAX_S),
    "load": (limits.LOAD_S, limits.CHANGE_MAX_S),
}
"""How long an engine's answer to each action is waited for, and how long it may be."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and whom to ask."""
    says = (
        "selftest: check every stream's sink, rows and encoder; off, on: stop and go on watching; "
        "watch: other features; load: another dictionary in the place of one"
    )
    parser.add_argument("action", choices=list(WAITS), help=says)
    address_argument(parser)
    parser.add_argument("--engine", default="", metavar="NAME", help="only this engine; without it: all of them")
    parser.add_argument(
        "--timeout-s", type=float, help=f"for an engine's answer ({limits.SELF_TEST_S}; load: {limits.LOAD_S})"
    )
    changes.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Asks and prints; fails when a check did, or an engine refused."""
    changes.check(options)
    usual, at_most = WAITS[options.action]
    options.timeout_s = usual if options.timeout_s is None else options.timeout_s
    if not 0.0 < options.timeout_s <= at_most:
        found, expected = f"{options.timeout_s:g}", f"above 0 and at most {at_most}"
        raise cli.UsageError("--timeout-s", found=found, expected=expected)
    with Client(options.address) as client:
        if options.action == "selftest":
            tests = client.self_test(options.engine, timeout_s=options.timeout_s)
            answer: tap_pb2.RunSelfTestResponse | tap_pb2.SetWatchingResponse
            answer, good = tap_pb2.RunSelfTestResponse(self_tests=tests), all(one.good for one in tests)
            lines = [line for one in tests for line in _lines(one)]
        else:
            found_changes = changes.ask(client, options)
            answer = tap_pb2.SetWatchingResponse(changes=found_changes)
            good = all(one.good for one in found_changes)
            lines = [*changes.lines(options.action, found_changes)]
    if options.json:
        plain = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        print(json.dumps({"good": good, **plain}))
    else:
        print("\n".join(map(printable, lines)))
    return cli.GOOD if good else cli.FAILED


def _lines(test: tap_pb2.SelfTest) -> Iterator[str]:
    """The stream and its figures, and each check that is not good."""
    sink = next((check for check in test.checks if check.name == "sink"), None)
    idle = test.good and sink is not None and sink.state == UNVERIFIED
    stream = f" {test.stream.hook_point} {test.stream.weights_digest[:19]}" if test.HasField("stream") else ""
    word = "idle" if idle else "ok" if test.good else "FAILED"
    yield f"{word:<8}{test.engine}{stream}: {_figures(test) if sink else 'not tested'}"
    for check in test.checks:
        if check.state != GOOD:
            state = "not verified" if check.state == UNVERIFIED else "FAILED"
            hint = f". {check.hint}" if check.hint else ""
            yield f"        {check.name} {state}: found {check.found}, expected {check.expected}{hint}"


def _figures(test: tap_pb2.SelfTest) -> str:
    parts = [f"{test.calls_since} calls for {test.steps_since} steps, {test.sink_calls} in all"]
    if test.rows:
        parts.append(f"{test.rows_not_finite} of {test.rows} rows not finite")
    if test.oracle:
        parts.append(
            f"{test.mismatched} of {test.compared} firings differ from {test.oracle}, values by {test.error_max:.1e}"
        )
    return "; ".join(parts)
