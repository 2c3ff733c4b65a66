"""Ask the taps of running engines, through their sidecar, whether they see: without a restart, and beside serving."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

from saewatch import cli
from saewatch.cli.asking import address_argument, ask
from saewatch.cli.terminal import printable
from saewatch.core import limits
from saewatch.edge.pb import tap_pb2, tap_pb2_grpc

MARGIN_S = 2.0
"""For the sidecar to say who did not answer in time."""
GOOD, UNVERIFIED = tap_pb2.CHECK_STATE_GOOD, tap_pb2.CHECK_STATE_UNVERIFIED


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and whom to ask."""
    parser.add_argument("action", choices=["selftest"], help="selftest: check every stream's sink, rows and encoder")
    address_argument(parser)
    parser.add_argument("--engine", default="", metavar="NAME", help="only this engine; without it: all of them")
    parser.add_argument(
        "--timeout-s", type=_seconds, default=limits.SELF_TEST_S, help="for an engine's answer (%(default)g)"
    )


def run(options: argparse.Namespace) -> int:
    """Asks and prints; fails when a check did."""
    answer = _self_test(options.address, options.engine, options.timeout_s)
    good = all(one.good for one in answer.self_tests)
    if options.json:
        plain = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        print(json.dumps({"good": good, **plain}))
    else:
        print("\n".join(printable(line) for one in answer.self_tests for line in _lines(one)))
    return cli.GOOD if good else cli.FAILED


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0 < found <= limits.SELF_TEST_MAX_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0 and at most {limits.SELF_TEST_MAX_S:g}")
    return found


def _self_test(address: str, engine: str, timeout_s: float) -> tap_pb2.RunSelfTestResponse:
    timeout = Duration()
    timeout.FromNanoseconds(round(timeout_s * 1e9))
    request = tap_pb2.RunSelfTestRequest(engine=engine, timeout=timeout)
    service = tap_pb2_grpc.TapServiceStub
    return ask(address, lambda channel: service(channel).RunSelfTest(request, timeout=timeout_s + MARGIN_S))


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
