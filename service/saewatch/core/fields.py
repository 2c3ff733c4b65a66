"""Strict reading of a JSON object, member by member.

``Fields`` takes each expected member once, checks its type and bounds, and ``close`` refuses what nobody asked for.
So a schema is the list of its reads, an unknown key is an error like a missing one, and every refusal names the
member by its path (``dictionary.json: encoder.d_in``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NoReturn

from saewatch.core.canonical import decimal_value, is_digest
from saewatch.core.errors import ManifestError
from saewatch.core.limits import TEXT_BYTES


class Fields:
    """One JSON object being read; ``subject`` is its path in messages."""

    def __init__(self, value: object, subject: str) -> None:
        if not isinstance(value, dict):
            raise ManifestError(subject, found=_kind(value), expected="an object")
        self._left: dict[str, object] = dict(value)
        self.subject = subject

    def take(self, key: str) -> object:
        """The member as it is; ManifestError when it is missing."""
        if key not in self._left:
            raise ManifestError(self._path(key), found="nothing", expected="this member", hint="It is required.")
        return self._left.pop(key)

    def close(self) -> None:
        """Refuses every member that was not taken."""
        for key in sorted(self._left):
            hint = "It may belong to a later version of saewatch, or be misspelt."
            raise ManifestError(self._path(key), found="an unknown member", expected="no such member", hint=hint)

    def text(self, key: str, *, pattern: str = r"(?s).*", empty: bool = False, limit: int = TEXT_BYTES) -> str:
        """Text of at most ``limit`` bytes that matches ``pattern`` as a whole."""
        value = self.take(key)
        if not isinstance(value, str) or not (value or empty):
            self._refuse(key, value, "text")
        if len(value.encode()) > limit:
            self._refuse(key, f"{len(value.encode())} bytes", f"at most {limit} bytes")
        if re.fullmatch(pattern, value) is None:
            self._refuse(key, f"{value!r:.80}", f"text like {pattern}")
        return value

    def choice(self, key: str, options: Collection[str]) -> str:
        """One of ``options``."""
        value = self.take(key)
        if not isinstance(value, str) or value not in options:
            self._refuse(key, f"{value!r:.80}", "one of " + ", ".join(sorted(options)))
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer, ``low <= value <= high``."""
        return self._bounded(key, self.take(key), low, high)

    def integers(self, key: str, low: int, high: int, count: int) -> tuple[int, ...]:
        """At most ``count`` integers, each ``low <= value <= high``."""
        return tuple(self._bounded(key, value, low, high) for value in self.items(key, count))

    def decimal(self, key: str, low: float, high: float) -> float:
        """A decimal written as text, ``low <= value <= high``."""
        return self._decimal(key, self.take(key), low, high)

    def decimals(self, key: str, low: float, high: float, count: int) -> tuple[float, ...]:
        """One to ``count`` decimals, each ``low <= value <= high``."""
        values = tuple(self._decimal(key, value, low, high) for value in self.items(key, count))
        if not values:
            self._refuse(key, "no items", "at least one")
        return values

    def digest(self, key: str) -> str:
        """A ``sha256:<hex>`` digest."""
        value = self.take(key)
        if not isinstance(value, str) or not is_digest(value):
            self._refuse(key, repr(value), "sha256: and 64 hex digits")
        return value

    def items(self, key: str, count: int) -> list[object]:
        """A list of at most ``count`` members."""
        value = self.take(key)
        if not isinstance(value, list):
            self._refuse(key, _kind(value), "a list")
        if len(value) > count:
            self._refuse(key, f"{len(value)} items", f"at most {count} items")
        return value

    def objects(self, key: str, count: int) -> list[Fields]:
        """A list of at most ``count`` objects."""
        return [Fields(value, f"{self._path(key)}[{i}]") for i, value in enumerate(self.items(key, count))]

    def section(self, key: str) -> Fields:
        """A member that is an object."""
        return Fields(self.take(key), self._path(key))

    def mapping(self, key: str) -> dict[str, Fields]:
        """An object whose members are all objects, under names that the schema does not fix."""
        inner = self.section(key)
        return {name: inner.section(name) for name in inner.names()}

    def names(self) -> list[str]:
        """The members that were not taken yet."""
        return sorted(self._left)

    def has(self, key: str) -> bool:
        """Whether an optional member is there."""
        return key in self._left

    def absent(self, key: str) -> bool:
        """Takes the member and says True when it is null; else leaves it for the next read."""
        value = self.take(key)
        if value is not None:
            self._left[key] = value
        return value is None

    def _decimal(self, key: str, text: object, low: float, high: float) -> float:
        if not isinstance(text, str):
            self._refuse(key, _kind(text), 'a decimal as text, such as "0.5"')
        value = decimal_value(text, subject=self._path(key))
        if not low <= value <= high:
            self._refuse(key, text, f"{low} to {high}")
        return value

    def _bounded(self, key: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse(key, _kind(value), "an integer")
        if not low <= value <= high:
            self._refuse(key, value, f"{low} to {high}")
        return value

    def _path(self, key: str) -> str:
        return f"{self.subject}{'' if self.subject.endswith(': ') else '.'}{key}"

    def _refuse(self, key: str, found: object, expected: str) -> NoReturn:
        raise ManifestError(self._path(key), found=found, expected=expected)


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
