"""Where the outcome of long work goes: an attestation, into a file of its own or into a bundle made of the one read."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path

from saewatch.cli import UsageError
from saewatch.cli.output import check_place, whole
from saewatch.core.attestation import Attestation
from saewatch.core.errors import ConfigError
from saewatch.dictionary.bundle import read_parts, write_bundle
from saewatch.dictionary.folder import check_new

AHEAD_DAYS = 1
"""A day may have begun where somebody is, and not where days are counted (UTC)."""


def date_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """When ``what`` was made."""
    parser.add_argument("--date", type=dt.date.fromisoformat, help=f"of the {what}, as YYYY-MM-DD; else today")


def date(options: argparse.Namespace) -> dt.date:
    """That day. UsageError for one to come: what is dated ahead would not grow old in time."""
    today = dt.datetime.now(tz=dt.UTC).date()
    if options.date is not None and (options.date - today).days > AHEAD_DAYS:
        raise UsageError("--date", found=options.date.isoformat(), expected=f"a day that has come: it is {today}")
    return options.date or today


def arguments(parser: argparse.ArgumentParser, older: str) -> None:
    """Both places; ``older``: what the bundle loses to it."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the attestation there")
    replaced = f"write a bundle with it; it replaces older {older}"
    parser.add_argument("--into", type=Path, metavar="FOLDER", help=replaced)


def check(options: argparse.Namespace) -> None:
    """Before the work: raises `SaewatchError` where one of the places would take nothing after it."""
    check_new(options.into)
    check_place(options.out)
    if options.out is not None and options.out.is_file():
        hint = "It may be the only copy of other evidence: choose another name."
        raise ConfigError(str(options.out), found="a file that is there", expected="no such file", hint=hint)


def write(attestation: Attestation, options: argparse.Namespace, *, supersedes: Callable[[Attestation], bool]) -> None:
    """After the work: to where the options say. A bundle keeps what it is not superseded by."""
    if options.out:
        with whole(options.out) as partial:
            partial.write_bytes(attestation.data())
    if options.into:
        parts = read_parts(options.bundle)
        kept = [one for one in parts.attestations if not supersedes(one)]
        write_bundle(dataclasses.replace(parts, attestations=[*kept, attestation]), options.into)
