"""Canonical JSON: the bytes of RFC 8785, and nothing but them."""

from __future__ import annotations

import json
import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import rfc8785

from saewatch.core import canonical
from saewatch.core.errors import ManifestError

KEYS = st.text(alphabet="abcXYZ019_.-", min_size=1, max_size=8)
TEXT = st.text(max_size=12).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@hypothesis.given(VALUES)
def test_the_bytes_are_those_of_rfc_8785(value: Any) -> None:
    try:
        data = canonical.dump(value)
    except ManifestError as error:
        if "NFC" not in str(error):  # the one rule of ours that random text breaks
            raise
        return
    assert data == rfc8785.dumps(value)
    assert canonical.parse(data, subject="x") == value


OUTSIDE = {
    "a float": {"a": 0.5},
    "NaN": {"a": math.nan},
    "a large integer": {"a": 2**53},
    "a very negative integer": {"a": -(2**53)},
    "an empty key": {"": 1},
    "a key with a space": {"a b": 1},
    "a key of 65": {"a" * 65: 1},
    "a key that is no text": {1: 1},
    "a lone surrogate": {"a": "\ud800"},
    "a decomposed letter": {"a": "e\u0301"},
    "bytes": {"a": b"x"},
    "nesting": json.loads("[" * 17 + "]" * 17),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_lies_outside_is_not_written(case: str) -> None:
    with pytest.raises(ManifestError) as refused:
        canonical.dump(OUTSIDE[case], subject="sheet")
    assert refused.value.subject.startswith("sheet")


OTHER_SPELLINGS = {
    "spaces": b'{"a": 1}',
    "key order": b'{"b":1,"a":1}',
    "a duplicate key": b'{"a":1,"a":1}',
    "a final newline": b'{"a":1}\n',
    "an escaped letter": b'{"a":"\\u0061"}',
    "an escaped slash": b'{"a":"\\/"}',
    "minus zero": b'{"a":-0}',
}
NOT_JSON = {
    "trailing data": b'{"a":1}{"a":1}',
    "a byte order mark": b'\xef\xbb\xbf{"a":1}',
    "a float": b'{"a":1.0}',
    "an exponent": b'{"a":1e3}',
    "NaN": b'{"a":NaN}',
    "an integer of 5,000 digits": b'{"a":' + b"9" * 5000 + b"}",
    "latin-1": b'{"a":"\xe9"}',
    "nothing": b"",
    "deep nesting": b"[" * 100_000,
    "deep closed nesting": b"[" * 200 + b"]" * 200,
}


@pytest.mark.parametrize("case", OTHER_SPELLINGS)
def test_another_spelling_of_a_value_is_refused(case: str) -> None:
    with pytest.raises(ManifestError, match="sheet: found another spelling of its value, expected RFC 8785 bytes"):
        canonical.parse(OTHER_SPELLINGS[case], subject="sheet")


@pytest.mark.parametrize("case", NOT_JSON)
def test_what_is_not_json_is_refused(case: str) -> None:
    with pytest.raises(ManifestError, match="sheet"):
        canonical.parse(NOT_JSON[case], subject="sheet")


@hypothesis.given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = canonical.parse(data, subject="sheet")
    except ManifestError:
        return
    assert canonical.dump(value) == data


def test_a_long_file_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ManifestError, match="found 11 bytes, expected at most 10 bytes"):
        canonical.parse(b'"123456789"', subject="sheet", limit=10)


@hypothesis.given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimals_read_back(value: Any) -> None:
    text = canonical.decimal_text(value)
    assert canonical.decimal_value(text, subject="x") == value


@pytest.mark.parametrize("text", ["0.50", "1", "1e3", "inf", "nan", " 0.5", "0x1p3", "", "1_0.0"])
def test_only_the_shortest_spelling_of_a_decimal_is_read(text: str) -> None:
    with pytest.raises(ManifestError, match="a decimal in its shortest form"):
        canonical.decimal_value(text, subject="x")


def test_an_infinite_decimal_is_not_written() -> None:
    with pytest.raises(ManifestError, match="a finite number"):
        canonical.decimal_text(math.inf)


def test_digests() -> None:
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert canonical.digest(b"") == empty
    assert canonical.is_digest(empty)
    for other in (None, empty.upper(), empty[:-1], empty + "0", "sha1:" + empty[7:], empty + "\n"):
        assert not canonical.is_digest(other)
