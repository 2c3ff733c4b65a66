"""Ask a running sidecar what fired before: feature firings, counts of them by time and group, or requests.

A feature firing is one feature on one token: a latent that serves two features gives two. Times are RFC 3339, to the
nanosecond (without a zone: local time), or an age such as 90s, 15m, 2h or 3d. Filters of one kind are alternatives;
different kinds must all hold.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
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

from saewatch import cli
from saewatch.cli import rows
from saewatch.cli.asking import address_argument, ask
from saewatch.cli.output import whole
from saewatch.cli.terminal import printable
from saewatch.cli.values import length_ns
from saewatch.client import Client, questions
from saewatch.client.plain import time_text
from saewatch.client.questions import GROUPS
from saewatch.core import limits
from saewatch.core.errors import SaewatchError, UnreachableError
from saewatch.core.records import TrafficClass
from saewatch.edge.pb import common_pb2, firing_pb2_grpc, history_pb2

_MOMENT = re.compile(r"(.*:\d\d)\.(\d{1,9})(Z|[+-]\d\d:?\d\d)?", re.ASCII)
"""A time with a fraction of a second: datetime itself holds six digits of nine."""
LIMIT = 100
BY = "feature"
TABLE = "table"
_LISTS = (
    "feature",
    "category",
    "tenant",
    "class",
    "request",
    "conversation",
    "model",
    "weights",
    "catalogue",
    "hook-point",
)
_MESSAGES: dict[str, type[Any]] = {
    "firings": history_pb2.StoredFiring,
    "buckets": history_pb2.Bucket,
    "requests": history_pb2.RequestSummary,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to ask for, and how to print it."""
    parser.add_argument(
        "what", choices=list(_MESSAGES), help="feature firings, counts of them, or requests with what fired in them"
    )
    address_argument(parser)
    parser.add_argument("--since", type=_time, metavar="TIME", help="from this time, or for this long, on")
    parser.add_argument("--until", type=_time, metavar="TIME", help="up to, and not at, this time")
    for name in _LISTS:
        choices = list(TrafficClass) if name == "class" else None
        parser.add_argument(f"--{name}", action="append", default=[], choices=choices, help="only these; repeatable")
    parser.add_argument("--min-value", type=_value, metavar="VALUE", help="only values above this")
    parser.add_argument("--max-value", type=_value, metavar="VALUE", help="only values up to this")
    parser.add_argument("--latest", action="store_true", help="the latest first (not buckets)")
    parser.add_argument(
        "--fields", type=_names, default=[], metavar="A,B", help="only these, in this order (not buckets)"
    )
    parser.add_argument("--bucket", type=_bucket, metavar="LENGTH", help="of each; without it one for all (buckets)")
    parser.add_argument("--by", choices=GROUPS, help=f"what is counted by (buckets; {BY})")
    parser.add_argument("--limit", type=_count, default=LIMIT, help="rows at most, 0 for all (%(default)s)")
    parser.add_argument("--format", choices=[TABLE, "jsonl", "csv", "parquet"], help=f"({TABLE})")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead; needed for parquet")


def run(options: argparse.Namespace) -> int:
    """Asks page by page and prints."""
    _check(options)
    told = Told(options.what)
    if options.json:
        found: list[rows.Row] = []
        _read(options, told, found.extend)
        print(json.dumps({options.what: [rows.plain(one) for one in found], **told.plain()}))
        return cli.GOOD
    with _output(options) as write:
        _read(options, told, write)
    text = options.format in {None, TABLE} and options.out is None
    print("\n".join(told.lines()), file=sys.stdout if text else sys.stderr)
    if not told.rows:
        _warn_of_unknown(options)
    return cli.GOOD


def _check(options: argparse.Namespace) -> None:
    """Raises `UsageError` for options that would change nothing, and for ranges that hold nothing."""
    what, counted = options.what, options.what == "buckets"
    for name, wrong, found, expected in (
        ("--latest", options.latest and counted, what, "firings or requests"),
        ("--fields", options.fields and counted, what, "firings or requests"),
        ("--bucket", options.bucket is not None and not counted, what, "buckets"),
        ("--by", options.by is not None and not counted, what, "buckets"),
        ("--format", options.format is not None and options.json, f"{options.format} and --json", "one of them"),
        ("--out", options.out is not None and options.json, f"{options.out} and --json", "one of them"),
    ):
        if wrong:
            raise cli.UsageError(name, found=found, expected=expected)
    if options.format == "parquet" and options.out is None:
        raise cli.UsageError("--out", found="nothing", expected="a file, since Parquet is not text")
    low, high = options.min_value, options.max_value
    if low is not None and high is not None and low >= high:
        raise cli.UsageError("--max-value", found=f"{high:g}", expected=f"above --min-value, {low:g}")
    if options.since is not None and options.until is not None and options.since >= options.until:
        expected = f"after --since, {time_text(options.since)}"
        raise cli.UsageError("--until", found=time_text(options.until), expected=expected)
    rows.columns(_MESSAGES[what], options.fields)


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
            span = f"{time_text(self.start_ns)} to {time_text(self.end_ns)}"
            yield f"{span}: {self.seen} tokens seen, missed {lost or 'none'}"
        for one in self.all_losses():
            cause = rows.name(history_pb2.LossCause.DESCRIPTOR, one.cause)
            times = " to ".join(time_text(time.ToNanoseconds()) for time in (one.start_time, one.end_time))
            yield f"not stored ({cause}): {one.tokens} tokens, {one.firings} slot firings, {times}"
        if not self.rows:
            kept = f"What is kept begins at {time_text(since)}." if since else "Nothing is kept yet."
            yield f"No {self.what} match. {kept} What fired within the last second may still be on its way."
        elif self.more:
            yield f"There are more than these {self.rows}: --limit 0 gives all."

    def plain(self) -> dict[str, Any]:
        """For programs."""
        found: dict[str, Any] = {"more": self.more}
        if self.what != "requests":
            times = {"start_time": time_text(self.start_ns), "end_time": time_text(self.end_ns)}
            found["coverage"] = {**times, "tokens_seen": self.seen, "missed": dict(self.missed)}
        since = time_text(self.losses.kept_since_time.ToNanoseconds())
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
    return call(asked, timeout=limits.QUERY_WAIT_S)


def _asked(options: argparse.Namespace) -> Any:
    wanted: Any = {"traffic_class": getattr(options, "class")}
    for name in ("since", "until", "min_value", "max_value", *_LISTS):
        if name != "class":
            wanted[name.replace("-", "_")] = getattr(options, name.replace("-", "_"))
    if options.what == "buckets":
        bucket_s = None if options.bucket is None else options.bucket / 1e9
        return questions.counts(options.by or BY, bucket_s=bucket_s, **wanted)
    asked: Any = (questions.firings if options.what == "firings" else questions.requests)(
        latest=options.latest, **wanted
    )
    asked.read_mask.paths.extend(_paths(options.what, options.fields))
    return asked


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
        if options.format in {None, TABLE}:
            kept: list[rows.Row] = []
            yield kept.extend
            if kept:
                print("\n".join(rows.table(kept, options.fields or rows.SHOWN[options.what])), file=out)
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
        return max(0, time.time_ns() - length_ns(text))
    match = _MOMENT.fullmatch(text)
    try:
        found = datetime.fromisoformat(f"{match[1]}{match[3] or ''}" if match else text).astimezone()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither RFC 3339 nor an age such as 15m") from None
    rest_ns = int(match[2].ljust(9, "0")) if match else found.microsecond * 1000
    time_ns = int(found.replace(microsecond=0).timestamp()) * 10**9 + rest_ns
    if not 0 <= time_ns < limits.COUNT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 1970 to 2262")
    return time_ns


def _bucket(text: str) -> int:
    found = length_ns(text)
    if not limits.BUCKET_NS_MIN <= found <= limits.BUCKET_NS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 100ms and 366d")
    return found


def _value(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if math.isnan(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return found


def _names(text: str) -> list[str]:
    """Columns, each once; a label is never without what a person said of it."""
    found = [one.strip() for one in text.split(",")]
    return list(dict.fromkeys(name for one in found for name in ((one, "label_review") if one == "label" else (one,))))


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no count")
    return int(text)
