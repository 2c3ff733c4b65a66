"""Labels from a CSV that a person keeps: a line of column names, and a line for each feature.

    feature     id of a feature; or of a new one, then with its latent
    latent      number of a latent: its features are meant, or a new one is made
    label       what it reads, in at most 512 bytes
    category, severity, concept, floor      optional; concept and floor are for new features

Of ``feature`` and ``latent`` at least one says which. Columns of other names are refused, since a misspelt one would
change nothing silently.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saewatch.core import label, limits
from saewatch.core.catalogue import SEVERITIES, check_category
from saewatch.core.errors import ManifestError, UnreachableError
from saewatch.core.label import Source
from saewatch.dictionary.labels import Proposal

COLUMNS = ("feature", "latent", "label", "category", "severity", "concept", "floor")
_FLOOR_MAX = 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSheet:
    """The proposals of a CSV, and the digest of its bytes."""

    digest: str
    proposals: tuple[Proposal, ...]


def read_label_sheet(path: Path) -> LabelSheet:
    """The labels in a CSV. UnreachableError where it cannot be read, ManifestError naming the line and column."""
    data = _data(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(path.name, found=str(error), expected="CSV in UTF-8") from error
    found = tuple(_proposals(path.name, text))
    if not found:
        raise ManifestError(path.name, found="no labels", expected="a line for each feature")
    return LabelSheet(digest=f"sha256:{hashlib.sha256(data).hexdigest()}", proposals=found)


def _data(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limits.LABEL_FILE_BYTES + 1)
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror, expected="a CSV of labels") from error
    if len(data) > limits.LABEL_FILE_BYTES:
        raise ManifestError(path.name, found="a larger file", expected=f"at most {limits.LABEL_FILE_BYTES} bytes")
    return data


def _proposals(name: str, text: str) -> Iterator[Proposal]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head: list[str] = []
    try:
        for number, cells in enumerate(reader):
            where = f"{name}:{reader.line_num}"
            if not head:
                head = _head(where, cells)
            elif number > limits.FEATURES:
                raise ManifestError(where, found="more lines", expected=f"at most {limits.FEATURES}")
            elif cells:
                yield _proposal(where, head, cells)
    except csv.Error as error:
        raise ManifestError(f"{name}:{reader.line_num}", found=str(error), expected="CSV as RFC 4180 has it") from error


def _head(where: str, cells: list[str]) -> list[str]:
    head = [cell.strip().lower() for cell in cells]
    unknown = [cell for cell in head if cell not in COLUMNS]
    if unknown or len(set(head)) < len(head):
        found = f"the column {unknown[0]!r:.60}" if unknown else "a column twice"
        raise ManifestError(where, found=found, expected=f"some of {', '.join(COLUMNS)}, each once")
    if "label" not in head or not {"feature", "latent"} & set(head):
        raise ManifestError(where, found=", ".join(head), expected="label, and feature or latent")
    return head


def _proposal(where: str, head: list[str], cells: list[str]) -> Proposal:
    if len(cells) != len(head):
        raise ManifestError(where, found=f"{len(cells)} cells", expected=f"{len(head)}, as the first line has")
    row = dict.fromkeys(COLUMNS, "") | {name: cell.strip() for name, cell in zip(head, cells, strict=True)}
    if not row["feature"] and not row["latent"]:
        raise ManifestError(where, found="no feature", expected="an id, or a latent's number")
    if row["severity"] and row["severity"] not in SEVERITIES:
        expected = f"one of {', '.join(SEVERITIES)}"
        raise ManifestError(f"{where}: severity", found=f"{row['severity']!r:.60}", expected=expected)
    if row["category"]:
        check_category(row["category"], where)
    return Proposal(
        where=where,
        source=Source(kind="csv"),
        label=label.spelt(row["label"], subject=f"{where}: label"),
        feature=row["feature"],
        latent=_latent(where, row["latent"]),
        concept=row["concept"],
        category=row["category"],
        severity=row["severity"],
        floor=_floor(where, row["floor"]),
    )


def _latent(where: str, text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ManifestError(f"{where}: latent", found=f"{text!r:.60}", expected="a latent's number")
    return int(text)


def _floor(where: str, text: str) -> float | None:
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0.0 <= found <= _FLOOR_MAX:
        raise ManifestError(f"{where}: floor", found=f"{text!r:.60}", expected="a number of 0 or more")
    return found
