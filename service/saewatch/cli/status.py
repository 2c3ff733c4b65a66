"""Ask a running sidecar what it watches, how completely, and what is blind."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict

from saewatch.cli.asking import address_argument, ask
from saewatch.cli.changes import SHORT
from saewatch.cli.terminal import printable
from saewatch.edge.pb import common_pb2, status_pb2, status_pb2_grpc

TIMEOUT_S = 5.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Whom to ask."""
    address_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Asks and prints."""
    status = _ask(options.address)
    if options.json:
        print(json.dumps(_plain(status)))
    else:
        print("\n".join(map(printable, _lines(status))))
    return 0


def _ask(address: str) -> status_pb2.GetStatusResponse:
    service, request = status_pb2_grpc.StatusServiceStub, status_pb2.GetStatusRequest()
    return ask(address, lambda channel: service(channel).GetStatus(request, timeout=TIMEOUT_S))


def _plain(status: status_pb2.GetStatusResponse) -> dict[str, Any]:
    """As the message has it, with no coverage where there was nothing to cover."""
    found = MessageToDict(status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    for stream, plain in zip(status.streams, found["streams"], strict=True):
        if stream.HasField("books") and not stream.books.fed:
            plain["books"]["coverage"] = None
    return found


def _lines(status: status_pb2.GetStatusResponse) -> list[str]:
    rates = status.rates
    first = (
        f"saewatch {status.version}: {len(status.streams)} streams, {status.open_requests} requests, "
        f"{rates.tokens_per_second:.0f} tokens/s, {rates.firings_per_second:.0f} slot firings/s, "
        f"lag {rates.lag_seconds * 1000:.1f} ms"
    )
    lines = [first, *(line for one in status.streams for line in (_stream_line(one), *_evidence_lines(one)))]
    lines += [line for one in status.policies for line in _policy_lines(one)]
    lines += [_silences_line(status.active_silences)] if status.active_silences else []
    lines += [f"BLIND {one.scope} {one.reason} {one.subject}: {one.hint}" for one in status.blind]
    lines += [f"{name} {count}" for name, count in sorted(status.counters.items()) if count]
    return lines


def _stream_line(status: status_pb2.StreamStatus) -> str:
    stream = status.stream
    state = f"ended: {status.ended}" if status.ended else "connected" if status.connected else "not connected"
    books = _books_text(status.books) if status.HasField("books") else "no beat yet"
    role = " shadow" if stream.role == common_pb2.ROLE_SHADOW else ""
    what = f"{stream.hook_point}{role} {stream.weights_digest[:SHORT]}"
    return f"{stream.engine} {what} {stream.model_name} ({state}): {books}"


def _evidence_lines(status: status_pb2.StreamStatus) -> Iterator[str]:
    """What is attested, and what may not rest on it. A stream that has ended needs none."""
    for one in () if status.ended else status.evidence:
        state = status_pb2.EvidenceState.Name(one.state).removeprefix("EVIDENCE_STATE_").lower()
        yield f"  {one.kind} {one.digest[:19]}: {state}{': ' if one.reasons else ''}{'; '.join(one.reasons)}"
        if one.without_alert:
            yield f"    may not back an alert: {', '.join(one.without_alert)}"


def _policy_lines(policy: status_pb2.PolicyStatus) -> Iterator[str]:
    """Which of its rules act, and why the others do not. Those of another dictionary are only counted."""
    elsewhere = sum(1 for one in policy.others if one.state == status_pb2.RULE_STATE_ELSEWHERE)
    on = f"{policy.hook_point} {policy.weights_digest[:SHORT]}" if policy.weights_digest else "no dictionary yet"
    here = f", {elsewhere} of another dictionary" if elsewhere else ""
    yield f"policy {policy.name} on {on}: {policy.acting} rules act{here}"
    for one in policy.others:
        if one.state != status_pb2.RULE_STATE_ELSEWHERE:
            state = status_pb2.RuleState.Name(one.state).removeprefix("RULE_STATE_").lower()
            yield f"  {one.id}: {state}: {one.why}"


def _silences_line(silences: int) -> str:
    are = "1 silence is" if silences == 1 else f"{silences} silences are"
    return f"SILENCED {are} in force, whose alerts nobody is told of: `saewatch alerts silences` lists them"


def _books_text(books: common_pb2.StreamBooks) -> str:
    if not books.fed:
        return "nothing fed yet"
    lost = ", ".join(f"{common_pb2.MissedReason.Name(one.reason)[14:].lower()} {one.tokens}" for one in books.missed)
    return (
        f"fed {books.fed}, coverage {books.coverage:.4f}, missed {lost or 'none'}, in flight {books.in_flight}, "
        f"imbalance {books.imbalance}, slot firings {books.firings}"
    )
