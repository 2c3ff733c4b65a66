"""The one byte form of every digested JSON object, and its digest.

RFC 8785 (JSON Canonicalization Scheme), restricted so that its hard parts do not occur: keys are
``[A-Za-z0-9_.-]{1,64}`` (so UTF-16 order is byte order), numbers are integers below 2**53 in magnitude (so no
ECMAScript float printing), strings are NFC without lone surrogates. Within the restriction the standard library's
sorted compact JSON writes exactly the bytes that RFC 8785 asks for. A decimal travels as a string in the shortest
form that reads back (``decimal_text``).

Reading parses, writes again and compares bytes: duplicate keys, trailing data, other spellings of the same value
and a final newline are all refused by that one comparison. A digest is ``sha256:`` and 64 hex digits over the bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import NoReturn, TypeAlias

from saewatch.core.errors import ManifestError
from saewatch.core.limits import JSON_DEPTH, MANIFEST_BYTES

Json: TypeAlias = "bool | int | str | list[Json] | tuple[Json, ...] | Mapping[str, Json] | None"

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_INTEGER_BOUND = 2**53


def dump(value: Json, *, subject: str = "object") -> bytes:
    """The canonical bytes of ``value``; ManifestError when it lies outside the restriction."""
    _check(value, subject, JSON_DEPTH)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def parse(data: bytes, *, subject: str, limit: int = MANIFEST_BYTES) -> Json:
    """The value whose canonical bytes are ``data``; anything else is a ManifestError that names ``subject``."""
    if len(data) > limit:
        raise ManifestError(subject, found=f"{len(data)} bytes", expected=f"at most {limit} bytes")
    value = _loads(data, subject)
    if dump(value, subject=subject) != data:
        hint = "Duplicate keys, spaces, another key order or trailing data; write it again with saewatch."
        raise ManifestError(subject, found="another spelling of its value", expected="RFC 8785 bytes", hint=hint)
    return value


def digest(data: bytes | bytearray | memoryview) -> str:
    """``sha256:<hex>`` over ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: object) -> bool:
    """Whether ``text`` is spelt like a digest of ours."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def decimal_text(value: float) -> str:
    """The shortest text that reads back as the float64 ``value`` (Python's repr); refuses NaN and infinities."""
    if not math.isfinite(value):
        raise ManifestError("decimal", found=value, expected="a finite number")
    return repr(float(value))


def decimal_value(text: str, *, subject: str) -> float:
    """The float64 that ``decimal_text`` wrote as ``text``; any other spelling of it is refused."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or repr(value) != text:
        raise ManifestError(subject, found=repr(text), expected='a decimal in its shortest form, such as "0.5"')
    return value


def _loads(data: bytes, subject: str) -> Json:
    def refuse(text: str) -> NoReturn:
        hint = "Write decimals as strings."
        raise ManifestError(subject, found=f"the number {text[:40]}", expected="integers below 2**53", hint=hint)

    def integer(text: str) -> int:
        return int(text) if len(text) <= 17 else refuse(text)

    try:
        value: Json = json.loads(data.decode("utf-8"), parse_float=refuse, parse_constant=refuse, parse_int=integer)
    except (ValueError, RecursionError) as error:
        found = "nesting without end" if isinstance(error, RecursionError) else str(error)
        raise ManifestError(subject, found=found, expected="JSON in UTF-8") from error
    return value


def _check(value: object, subject: str, depth: int) -> None:
    if depth == 0:
        raise ManifestError(subject, found="deeper nesting", expected=f"at most {JSON_DEPTH} levels")
    if isinstance(value, str):
        _check_text(value, subject)
    elif isinstance(value, Mapping):
        for key, member in value.items():
            _check(member, f"{subject}.{_checked_key(key, subject)}", depth - 1)
    elif isinstance(value, (list, tuple)):
        for index, member in enumerate(value):
            _check(member, f"{subject}[{index}]", depth - 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= _INTEGER_BOUND:
            raise ManifestError(subject, found=value, expected="an integer below 2**53 in magnitude")
    elif value is not None and not isinstance(value, bool):
        raise ManifestError(
            subject,
            found=type(value).__name__,
            expected="null, a boolean, an integer, text, a list or an object",
            hint="Write decimals as strings.",
        )


def _checked_key(key: object, subject: str) -> str:
    if not isinstance(key, str) or _KEY.fullmatch(key) is None:
        raise ManifestError(subject, found=f"the key {key!r}", expected=f"keys like {_KEY.pattern}")
    return key


def _check_text(text: str, subject: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ManifestError(subject, found="a lone surrogate", expected="text that UTF-8 can hold")
    if not unicodedata.is_normalized("NFC", text):
        raise ManifestError(subject, found=f"{text[:60]!r}", expected="text in Unicode form NFC")
