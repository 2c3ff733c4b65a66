"""Ask a running sidecar what fired before: firings, counts by time and group, or requests.

Times are RFC 3339 (without a zone: local time), or an age such as 90s, 15m, 2h or 3d. Filters of one kind are
alternatives; different kinds must all hold.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from saewatch.cli import rows
from saewatch.cli.asking import address_argument, ask
from saewatch.cli.output import whole
from saewatch.cli.terminal import printable
from saewatch.client import Client
from saewatch.core import limits
from saewatch.core.errors import SaewatchError, UnreachableError
from saewatch.edge.pb import common_pb2, firing_pb2_grpc, history_pb2

TIMEOUT_S = 120.0
"""A single bucket over everything that is kept takes as long as it takes to read it."""
LIMIT = 100
_UNITS = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 24 * 3600 * 10**9, "ms": 10**6}
_LISTS = {
    "feature": "feature_ids",
    "category": "categories",
    "tenant": "tenants",
    "class": "traffic_classes",
    "request": "request_ids",
    "conversation": "conversations",
    "model": "model_names",
    "weights": "weights_digests",
    "catalogue": "catalogue_digests",
    "hook-point": "hook_points",
}
_MESSAGES: dict[str, type[Any]] = {
    "firings": history_pb2.StoredFiring,
    "buckets": history_pb2.Bucket,
    "requests": history_pb2.RequestSummary,
}
_BY = [rows.name(history_pb2.Grouping.DESCRIPTOR, number) for number in history_pb2.Grouping.values()[1:]]
_CLASSES = [rows.name(common_pb2.TrafficClass.DESCRIPTOR, number) for number in common_pb2.TrafficClass.values()[1:]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to ask for, and how to print it."""
    parser.add_argument(
        "what", choices=list(_MESSAGES), help="rows, counts of rows, or requests with what fired in them"
    )
    address_argument(parser)
    parser.add_argument("--since", type=_time, metavar="TIME", help="from this time, or for this long, on")
    parser.add_argument("--until", type=_time, metavar="TIME", help="up to, and not at, this time")
    for name in _LISTS:
        choices = _CLASSES if name == "class" else None
        parser.add_argument(f"--{name}", action="append", default=[], choices=choices, help="only these; repeatable")
    parser.add_argument("--min-value", type=float, help="only values above this")
    parser.add_argument("--max-value", type=float, help="only values up to this")
    parser.add_argument("--latest", action="store_true", help="the latest first (firings, requests)")
    parser.add_argument("--fields", type=lambda text: text.split(","), default=[], help="only these fields, by comma")
    parser.add_argument(
        "--bucket", type=_length, metavar="LENGTH", help="of a bucket; without it one for all (buckets)"
    )
    parser.add_argument("--by", choices=_BY, default="feature", help="what buckets count by (%(default)s)")
    parser.add_argument("--limit", type=_count, default=LIMIT, help="rows at most, 0 for all (%(default)s)")
    parser.add_argument("--format", choices=["table", "jsonl", "csv", "parquet"], default="table", help="(%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead; needed for parquet")


def run(options: argparse.Namespace) -> int:
    """Asks page by page and prints."""
    if options.format == "parquet" and options.out is None:
        raise SaewatchError("--out", found="nothing", expected="a file, since Parquet is not text")
    told = Told(options.what)
    if options.json:
        found: list[rows.Row] = []
        _read(options, told, found.extend)
        print(json.dumps({options.what: [rows.plain(one) for one in found], **told.plain()}))
        return 0
    with _output(options) as write:
        _read(options, told, write)
    text = options.format == "table" and options.out is None
    print("\n".join(told.lines()), file=sys.stdout if text else sys.stderr)
    if not told.rows:
        _warn_of_unknown(options)
    return 0


# --- asking ---------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Told:
    """What the pages said beside their rows."""

    what: str
    rows: int = 0
    more: bool = False
    seen: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    start_ns: int = 0
    end_ns: int = 0
    losses: history_pb2.HistoryLosses = field(default_factory=history_pb2.HistoryLosses)
    damaged: list[history_pb2.HistoryLoss] = field(default_factory=list)

    def page(self, answer: Any) -> None:
        """Takes a page."""
        self.losses = answer.losses
        damaged = [one for one in answer.losses.losses if one.cause == history_pb2.LOSS_CAUSE_DAMAGED]
        self.damaged += [one for one in damaged if one not in self.damaged]  # two pages may meet the same block
        if self.what == "requests":
            return
        covered = answer.coverage
        self.seen += covered.tokens_seen
        self.missed.update(rows.missed(covered.missed))
        times = (covered.start_time.ToNanoseconds(), covered.end_time.ToNanoseconds())
        self.start_ns = min(self.start_ns or times[0], times[0])
        self.end_ns = max(self.end_ns, times[1])

    def all_losses(self) -> list[history_pb2.HistoryLoss]:
        """Those of the asked time, and what was found damaged on any page."""
        named = [one for one in self.losses.losses if one.cause != history_pb2.LOSS_CAUSE_DAMAGED]
        return named + self.damaged

    def lines(self) -> Iterator[str]:
        """For people: how much there was to see, and what is not stored."""
        since = self.losses.kept_since_time.ToNanoseconds()
        uncovered = self.more and not self.seen  # the first rows are all of one time, which is covered with its last
        if 0 < self.start_ns < self.end_ns and not uncovered:
            lost = ", ".join(f"{reason} {tokens}" for reason, tokens in self.missed.items())
            span = f"{rows.time_text(self.start_ns)} to {rows.time_text(self.end_ns)}"
            yield f"{span}: {self.seen} tokens seen, missed {lost or 'none'}"
        for one in self.all_losses():
            cause = rows.name(history_pb2.LossCause.DESCRIPTOR, one.cause)
            times = " to ".join(rows.time_text(time.ToNanoseconds()) for time in (one.start_time, one.end_time))
            yield f"not stored ({cause}): {one.tokens} tokens, {one.firings} firings, {times}"
        if not self.rows:
            kept = f"What is kept begins at {rows.time_text(since)}." if since else "Nothing is kept yet."
            yield f"No {self.what} match. {kept} What fired within the last second may still be on its way."
        elif self.more:
            yield f"There are more than these {self.rows}: --limit 0 gives all."

    def plain(self) -> dict[str, Any]:
        """For programs."""
        found: dict[str, Any] = {"more": self.more}
        if self.what != "requests":
            times = {"start_time": rows.time_text(self.start_ns), "end_time": rows.time_text(self.end_ns)}
            found["coverage"] = {**times, "tokens_seen": self.seen, "missed": dict(self.missed)}
        since = rows.time_text(self.losses.kept_since_time.ToNanoseconds())
        fields = rows.columns(history_pb2.HistoryLoss)
        return {
            **found,
            "kept_since": since,
            "losses": [rows.plain(rows.row(one, fields)) for one in self.all_losses()],
        }


def _read(options: argparse.Namespace, told: Told, write: Callable[[list[rows.Row]], None]) -> None:
    """Every page up to the limit."""
    asked, fields = _asked(options), rows.columns(_MESSAGES[options.what], options.fields)
    while True:
        left = options.limit - told.rows if options.limit else limits.PAGE_ITEMS
        asked.page_size = min(left, limits.PAGE_ITEMS)
        answer = ask(options.address, lambda channel: _page(channel, asked))
        found = [rows.row(one, fields) for one in getattr(answer, options.what)]
        told.page(answer)
        told.rows += len(found)
        write(found)
        asked.page_token = answer.next_page_token
        told.more = bool(asked.page_token)
        if not told.more or (options.limit and told.rows >= options.limit):
            return


def _warn_of_unknown(options: argparse.Namespace) -> None:
    """Nothing fired, or nobody knows the name: yesterday's dictionary may be gone, so it is no error."""
    if not options.feature and not options.category:
        return
    with Client(options.address) as client:
        known = list(client.features())
    names = {"feature": {one.id for one in known}, "category": {one.category for one in known}}
    for kind, there in names.items():
        for name in sorted({*getattr(options, kind)} - there):
            print(f"No dictionary of this sidecar has the {kind} {printable(name)}. Is it misspelt?", file=sys.stderr)


def _page(channel: grpc.Channel, asked: Any) -> Any:
    service: Any = firing_pb2_grpc.FiringServiceStub(channel)
    call = service.ListRequests if isinstance(asked, history_pb2.ListRequestsRequest) else service.QueryFirings
    return call(asked, timeout=TIMEOUT_S)


def _asked(options: argparse.Namespace) -> Any:
    wanted = history_pb2.HistoryFilter(
        start_time=_timestamp(options.since),
        end_time=_timestamp(options.until),
        min_value=options.min_value,
        max_value=options.max_value,
    )
    for name, of in _LISTS.items():
        getattr(wanted, of).extend(_items(name, getattr(options, name.replace("-", "_"))))
    if options.what == "buckets":
        by = history_pb2.Grouping.Value(f"GROUPING_{options.by.upper()}")
        bucket = Duration(seconds=options.bucket // 10**9, nanos=options.bucket % 10**9) if options.bucket else None
        return history_pb2.QueryFiringsRequest(filter=wanted, aggregate=history_pb2.Aggregate(bucket=bucket, by=by))
    kind: Any = history_pb2.QueryFiringsRequest if options.what == "firings" else history_pb2.ListRequestsRequest
    mask = FieldMask(paths=_paths(options.what, options.fields)) if options.fields else None
    return kind(filter=wanted, read_mask=mask, descending=options.latest)


def _items(name: str, given: Sequence[str]) -> list[Any]:
    if name != "class":
        return list(given)
    return [common_pb2.TrafficClass.Value(f"TRAFFIC_CLASS_{one.upper()}") for one in given]


def _paths(what: str, fields: Sequence[str]) -> list[str]:
    """A request's identity is a message of its own there, and beside the others here."""
    own = {one.name for one in common_pb2.Request.DESCRIPTOR.fields}
    return [f"request.{one}" if what == "requests" and one in own else one for one in fields]


# --- printing -------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _output(options: argparse.Namespace) -> Iterator[Callable[[list[rows.Row]], None]]:
    """Where rows go, page by page; a table waits for the last one."""
    fields = rows.columns(_MESSAGES[options.what], options.fields)
    if options.format == "parquet":
        with whole(options.out) as path, contextlib.closing(_parquet(path, fields)) as file:
            yield file.write
        return
    with _opened(options.out) as out:
        if options.format == "table":
            kept: list[rows.Row] = []
            yield kept.extend
            if kept:
                print("\n".join(rows.table(options.what, kept, fields)), file=out)
        elif options.format == "csv":
            print(rows.csv_lines([], fields, head=True), end="", file=out)
            yield lambda page: print(rows.csv_lines(page, fields, head=False), end="", file=out)
        else:
            yield lambda page: print("".join(f"{json.dumps(rows.plain(one))}\n" for one in page), end="", file=out)


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    with whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


def _parquet(path: Path, fields: Sequence[Any]) -> Any:
    try:
        module = importlib.import_module("saewatch.cli.parquet")
    except ImportError as error:
        hint = "pip install 'saewatch[tables]', or ask for jsonl or csv."
        raise SaewatchError("--format parquet", found="no pyarrow", expected="the extra tables", hint=hint) from error
    try:
        return module.ParquetFile(path, fields)
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror, expected="a file that can be written") from error


# --- arguments ------------------------------------------------------------------------------------------------------
def _time(text: str) -> int:
    """A time, or an age, in nanoseconds since 1970."""
    with contextlib.suppress(argparse.ArgumentTypeError):
        return time.time_ns() - _length(text)
    try:
        found = datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither RFC 3339 nor an age such as 15m") from None
    return int(found.replace(microsecond=0).timestamp()) * 10**9 + found.microsecond * 1000


def _length(text: str) -> int:
    """A length of time in nanoseconds."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no length such as 90s, 15m, 2h or 3d")
    return round(float(match[1]) * _UNITS[match[2]])


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no count")
    return int(text)


def _timestamp(time_ns: int | None) -> Timestamp | None:
    if time_ns is None:
        return None
    return Timestamp(seconds=time_ns // 10**9, nanos=time_ns % 10**9)
