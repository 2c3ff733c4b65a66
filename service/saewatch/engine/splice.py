"""Adds members to a JSON object while it passes by: it may be of any size, and nothing waits for its end. Stdlib only.

A JSON text whose last byte, white space aside, is ``}`` is an object, and that byte closes it (RFC 8259, 2 to 4). So
``,"name":"value"`` before that byte adds a member, whatever else the object holds. Of two members with one name the
last one counts for Python's parser, as for most (RFC 8259, 4), so it also replaces one that the client gave. What was
not JSON before is none after it: brackets stay as unbalanced, and a string as open, as they were.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

WHITE = b" \t\n\r"


class Splice:
    """One request's body. ``done``: its last byte has passed, and with it the members. Without any it does nothing."""

    def __init__(self, members: Mapping[str, str]) -> None:
        self.members = members
        self.done = False
        self._kept = bytearray()  # from the last but one byte that is no white space: the end may be here

    def passes(self, message: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """An ASGI event of the request, with what of the body may go on by now."""
        if not self.members or message["type"] != "http.request":
            return message
        body = self._grown(message.get("body", b""))
        if not message.get("more_body", False):
            body += self._end()
        return {**message, "body": body}

    def _grown(self, more: bytes) -> bytes:
        """All but what could be the object's end."""
        self._kept += more
        if not more.strip(WHITE):
            return b""
        last = len(self._kept.rstrip(WHITE)) - 1
        before = max(len(self._kept[:last].rstrip(WHITE)) - 1, 0)
        passed = bytes(self._kept[:before])
        del self._kept[:before]
        return passed

    def _end(self) -> bytes:
        end = bytes(self._kept.rstrip(WHITE))
        if not end.endswith(b"}") or b"\0" in end:  # NUL: UTF-16 or UTF-32, where our bytes would be other characters
            return bytes(self._kept)
        self.done = True
        comma = b"" if end[:-1].rstrip(WHITE) == b"{" else b","
        return end[:-1] + comma + json.dumps(self.members)[1:-1].encode() + b"}"
