"""Page tokens of the history: what the first page was about, and where the next one begins. Opaque to clients.

A token names its query by a digest, so that it is refused with any other one, and with another store. It is no secret
and no permission: whatever is in it, the principal's tenants are filtered again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import astuple, dataclass
from typing import Any

from google.protobuf.message import Message

from saewatch.core import limits
from saewatch.edge.access import Principal
from saewatch.edge.history.reading import Snapshot
from saewatch.edge.rpc.refusals import Refusal, invalid

_VERSION = 1
_TOKEN_BYTES = 4096
_SNAPSHOT = tuple(Snapshot.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class PageToken:
    """The snapshot that all pages share, and the place behind the last one."""

    snapshot: Snapshot
    place: tuple[Any, ...]


def query_digest(request: Any, principal: Principal, store: int) -> str:
    """Of everything but the size of a page and the token itself."""
    query: Message = type(request)()
    query.CopyFrom(request)
    query.ClearField("page_token")
    query.ClearField("page_size")
    tenants = None if principal.tenants is None else sorted(principal.tenants)
    data = query.SerializeToString(deterministic=True) + json.dumps([tenants, store]).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def page_token(query: str, token: PageToken) -> str:
    """The token of a place in ``query``."""
    text = json.dumps([_VERSION, query, list(astuple(token.snapshot)), list(token.place)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode()


def read_page_token(text: str, query: str, *, shape: tuple[type, ...]) -> PageToken:
    """The place of a token, whose parts are of these types. Raises `Refusal` for what is none of this query."""
    try:
        if len(text) > _TOKEN_BYTES:
            raise _refused(text)
        version, named, snapshot, place = json.loads(base64.b64decode(text, altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise _refused(text) from None  # its text would be the token's
    good = (
        (version, named) == (_VERSION, query)
        and _numbers(snapshot, len(_SNAPSHOT))
        and isinstance(place, list)
        and len(place) == len(shape)
        and all(_is(part, kind) for part, kind in zip(place, shape, strict=True))
    )
    if not good:
        raise _refused(text)
    return PageToken(Snapshot(**dict(zip(_SNAPSHOT, snapshot, strict=True))), tuple(place))


def _numbers(items: Any, count: int) -> bool:
    return isinstance(items, list) and len(items) == count and all(_is(item, int) and item >= 0 for item in items)


def _is(part: Any, kind: type) -> bool:
    if kind is int:
        return type(part) is int and abs(part) <= limits.COUNT_MAX
    return part is None or isinstance(part, kind)


def _refused(text: str) -> Refusal:
    return invalid("page_token", found=repr(text[:80]), expected="the next_page_token of this very query")
