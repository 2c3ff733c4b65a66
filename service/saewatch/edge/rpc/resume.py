"""Resume tokens: where in the events of one run of the sidecar a subscriber was. Opaque to clients."""

from __future__ import annotations

import re
from dataclasses import dataclass

from saewatch.edge.rpc.refusals import invalid
from saewatch.edge.rpc.ring import Cursor

_TOKEN = re.compile(r"1((?:\.[0-9a-f]{1,16}){4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the events of ``run``."""

    run: int
    cursor: Cursor


def token(run: int, cursor: Cursor) -> str:
    """The token of a place."""
    return f"1.{run:x}.{cursor.event:x}.{cursor.tokens:x}.{cursor.firings:x}"


def read_token(text: str) -> Place:
    """The place of a token. Raises `Refusal` for what is none of ours."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise invalid("resume_token", found=repr(text[:80]), expected="a token that this service gave")
    run, event, tokens, firings = (int(part, 16) for part in match[1][1:].split("."))
    if event < 1:
        raise invalid("resume_token", found=repr(text[:80]), expected="a token that this service gave")
    return Place(run, Cursor(event, tokens, firings))
