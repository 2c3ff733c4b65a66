"""Resume tokens: where in the events of one run of the sidecar a subscriber was. Opaque to clients.

``2.RUN.EVENT.TOKENS.FIRINGS`` in hexadecimal, then for each stream ``~NAME.TOKENS.FIRINGS``, its place in the engine's
own account, or ``!`` in front of one whose gap after a restart is still to be told; and ``?SECONDS`` until when.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from saewatch.edge.rpc.places import Owed, Place, Places
from saewatch.edge.rpc.refusals import invalid
from saewatch.edge.rpc.ring import Cursor

_HEAD = re.compile(
    r"2((?:\.[0-9a-f]{1,16}){4})((?:[~!][0-9a-f]{12}\.[0-9a-f]{1,16}\.[0-9a-f]{1,16}){0,128})"
    r"(?:\?([0-9a-f]{1,16}))?",
    re.ASCII,
)
_PLACE = re.compile(r"([~!])([0-9a-f]{12})\.([0-9a-f]+)\.([0-9a-f]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Resumed:
    """A place in the events of ``run``."""

    run: int
    cursor: Cursor
    owed: Owed


def token(run: int, cursor: Cursor, owed: Owed) -> str:
    """The token of a place. What is still owed of a stream stands in for where it is."""
    head = f"2.{run:x}.{cursor.event:x}.{cursor.tokens:x}.{cursor.firings:x}"
    at = {name: place for name, place in cursor.places.items() if name not in owed.places}
    return head + _written("~", at) + _written("!", owed.places) + (f"?{owed.until_s:x}" if owed.until_s else "")


def read_token(text: str) -> Resumed:
    """The place of a token. Raises `Refusal` for what is none of ours."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise invalid("resume_token", found=repr(text[:80]), expected="a token that this service gave")
    run, event, tokens, firings = (int(part, 16) for part in match[1][1:].split("."))
    if event < 1:
        raise invalid("resume_token", found=repr(text[:80]), expected="a token that this service gave")
    found: dict[str, dict[str, Place]] = {"~": {}, "!": {}}
    for mark, name, at_tokens, at_firings in _PLACE.findall(match[2]):
        found[mark][name] = Place(int(at_tokens, 16), int(at_firings, 16))
    owed = Owed(found["!"], known=found["~"], until_s=int(match[3] or "0", 16))
    return Resumed(run, Cursor(event, tokens, firings, found["~"]), owed)


def _written(mark: str, at: Places) -> str:
    return "".join(f"{mark}{name}.{place.tokens:x}.{place.firings:x}" for name, place in at.items())
