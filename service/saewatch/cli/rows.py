"""Stored firings, buckets and requests as flat rows, and as lines for people, JSON lines and CSV.

A row has a column for each field of its message; those of a request's identity are beside the others. Columns that are
asked for come in the order in which they are. Times are nanoseconds since 1970 in a row, and RFC 3339 with nine digits
wherever they are printed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saewatch.cli import UsageError
from saewatch.cli.terminal import printable
from saewatch.client.plain import time_text
from saewatch.core import label
from saewatch.edge.pb import common_pb2, history_pb2

Row = Mapping[str, Any]
TIMES = ("time", "start_time", "end_time", "first_time", "last_time")
LISTED = 3
"""Features of a request in a table's cell."""
SHOWN: Mapping[str, Sequence[str]] = {
    "firings": (
        "time",
        "feature_id",
        "value",
        "position",
        "prompt",
        "client_id",
        "tenant",
        "model_name",
        "hook_point",
        "fit",
    ),
    "buckets": ("start_time", "group", "firings", "requests", "max_value", "mean_value", "tokens_seen", "missed"),
    "requests": ("first_time", "state", "engine_id", "client_id", "tenant", "tokens_seen", "missed", "features", "fit"),
}
"""What a table has without ``--fields``: the columns that say most."""


def columns(message: type[Any], wanted: Sequence[str] = ()) -> list[Any]:
    """The fields that rows of a message have, or those of them that are ``wanted``, in that order.

    Raises `UsageError` for a name that is none of them.
    """
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        own = field.message_type == common_pb2.Request.DESCRIPTOR
        found |= {one.name: one for one in (field.message_type.fields if own else [field])}
    for one in wanted:
        if one not in found:
            raise UsageError("--fields", found=repr(one), expected=f"some of {', '.join(found)}")
    return [found[one] for one in dict.fromkeys(wanted or found)]


def row(message: Any, fields: Sequence[Any]) -> Row:
    """One message as a row."""
    return {field.name: _value(_owner(message, field), field) for field in fields}


def missed(tokens: Iterable[common_pb2.MissedTokens]) -> dict[str, int]:
    """Tokens by reason, as metrics spell it."""
    return {name(common_pb2.MissedReason.DESCRIPTOR, one.reason): one.tokens for one in tokens}


def name(enum: Any, number: int) -> str:
    """The short name of an enum's value: ``gap`` for ``MISSED_REASON_GAP``."""
    known = enum.values_by_number.get(number)
    if known is None:
        return str(number)
    first: str = enum.values[0].name
    return str(known.name).removeprefix(first.removesuffix("UNSPECIFIED")).lower()


def plain(one: Row) -> dict[str, Any]:
    """A row for JSON."""
    return {key: time_text(value) if key in TIMES else value for key, value in one.items()}


def csv_lines(rows: Iterable[Row], fields: Sequence[Any], *, head: bool) -> str:
    """Rows as CSV; what is not one value is JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields], lineterminator="\n")
    if head:
        writer.writeheader()
    for one in rows:
        told = plain(one)
        writer.writerow(
            {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in told.items()}
        )
    return out.getvalue()


def table(rows: Sequence[Row], shown: Sequence[str]) -> list[str]:
    """Lines for people: some columns, each as wide as it has to be."""
    cells = [list(shown), *([_cell(key, _marked(key, one)) for key in shown] for one in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(shown))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _marked(key: str, one: Row) -> Any:
    """The value; a label's with its mark."""
    return label.shown(one[key], one.get("label_review")) if key == "label" else one[key]


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key in TIMES:
        return time_text(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ",".join(f"{reason} {tokens}" for reason, tokens in value.items())
    if isinstance(value, list):
        more = [f"{len(value) - LISTED} more"] if len(value) > LISTED else []
        listed = [f"{one['feature_id']} {one['max_value']:.3g}x{one['count']}" for one in value[:LISTED]]
        return ", ".join(listed + more)
    return printable(str(value))


def _owner(message: Any, field: Any) -> Any:
    """The message itself, or its request."""
    return message if field.containing_type == message.DESCRIPTOR else message.request


def _value(message: Any, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type == common_pb2.MissedTokens.DESCRIPTOR:
        return missed(value)
    if field.message_type == history_pb2.FeatureSummary.DESCRIPTOR:
        return [{one.name: getattr(item, one.name) for one in field.message_type.fields} for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    if field.message_type is not None:
        return value.ToNanoseconds()
    return name(field.enum_type, value) if field.enum_type is not None else value
