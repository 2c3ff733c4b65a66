"""A mapping of YAML read member by member, as `core.fields.Fields` reads JSON: with defaults, and as configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.core.spelling import near

_TIME = re.compile(
    r"(?P<local>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:Z|(?P<sign>[+-])(?P<hours>\d\d):(?P<minutes>\d\d))", re.ASCII
)

_HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which YAML's escapes can spell and no encoding can write."""
_EXPONENT = re.compile(r"\d+(\.\d*)?[eE]\d+", re.ASCII)
"""A number to people, and to YAML 1.1 none: it wants a point and a sign."""
_COMPARED = 32
"""Members among which a misspelt key is looked for."""


class Mapped:
    """One mapping being read; each member is taken once, and `close` refuses what nobody asked for."""

    def __init__(self, value: object, subject: str) -> None:
        if not isinstance(value, Mapping):
            raise ConfigError(subject, found=_kind(value), expected="a mapping of keys to values")
        self._left: dict[str, Any] = dict(value)
        self._asked: dict[str, None] = {}
        self._subject = subject

    def path(self, key: str) -> str:
        """How a member is named in messages."""
        return f"{self._subject}{'.' if ': ' in self._subject else ': '}{key}"

    def has(self, key: str) -> bool:
        """Whether it is there."""
        return key in self._left

    def members(self) -> list[str]:
        """Those that are left, in the order in which they stand."""
        return list(map(str, self._left))

    def take(self, key: str) -> Any:
        """The member as it is."""
        self._asked[key] = None
        if key not in self._left:
            hint = f"It is required. {self.misspelt([key])}".rstrip()
            raise ConfigError(self.path(key), found="nothing", expected="this key", hint=hint)
        return self._left.pop(key)

    def close(self) -> None:
        """Refuses every member that was not taken."""
        for key in sorted(map(str, self._left)):
            hint, expected = self.misspelt(self._asked), f"one of {', '.join(self._asked)}"
            raise ConfigError(self.path(f"{key:.40}"), found="an unknown key", expected=expected, hint=hint)

    def misspelt(self, wanted: Iterable[str]) -> str:
        """A question about a member that is left and is spelt nearly like one of these; empty without one."""
        for key in self.members()[:_COMPARED]:
            like = near(key, wanted, alike=0.75)
            if like and like[0] != key:
                return f"Is {key:.80} meant to be {like[0]}?"
        return ""

    def text(self, key: str, *, pattern: str = r"(?s).{1,2048}", default: str | None = None) -> str:
        """Text that matches ``pattern`` as a whole."""
        value = self._or(key, default)
        if not isinstance(value, str):
            self.refuse(key, _kind(value), "text")
        if _HALF.search(value):
            self.refuse(key, f"{value!a:.80}", "text without half a letter")
        if value != default and re.fullmatch(pattern, value) is None:
            self.refuse(key, f"{value!r:.80}", f"text like {pattern}")
        return value

    def choice(self, key: str, options: Sequence[str], default: str | None = None) -> str:
        """One of ``options``."""
        value = self._or(key, default)
        if value != default and value not in options:
            self.refuse(key, f"{value!r:.80}", f"one of {', '.join(options)}")
        return str(value)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """An integer within bounds."""
        if default is not None and not self._there(key):
            return default
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool):
            self.refuse(key, _kind(value), "an integer")
        if not low <= value <= high:
            self.refuse(key, value, f"{low} to {high}")
        return value

    def flag(self, key: str) -> bool:
        """true or false; false where it is not there."""
        value = self._or(key, False)  # noqa: FBT003 - the default
        if not isinstance(value, bool):
            self.refuse(key, _kind(value), "true or false")
        return value

    def above(self, key: str) -> float | None:
        """A finite number from 0 on, or ``calibrated``."""
        value = self._or(key, "calibrated")
        if value == "calibrated":
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 <= value < 1e30:
            said = "YAML takes this for text: write 1.0e+5." if _EXPONENT.fullmatch(str(value)) else ""
            self.refuse(key, f"{value!r:.40}", "calibrated, or a finite number from 0 on", said)
        return float(value)

    def items(self, key: str, count: int) -> list[Any]:
        """A list of at most ``count``."""
        value = self.take(key)
        if not isinstance(value, list | tuple):
            self.refuse(key, _kind(value), "a list")
        if len(value) > count:
            self.refuse(key, f"{len(value)} items", f"at most {count}")
        return list(value)

    def names(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of texts, one at least."""
        if default is not None and not self._there(key):
            return default
        value = self.items(key, limits.POLICY_LEAVES)
        if not value or not all(isinstance(one, str) and one for one in value):
            self.refuse(key, f"{value!r:.80}", "a list of names")
        if any(map(_HALF.search, value)):
            self.refuse(key, f"{value!a:.80}", "text without half a letter")
        twice = next((one for number, one in enumerate(value) if one in value[:number]), None)
        if twice is not None:
            self.refuse(key, f"{twice!r:.80} twice", "names that differ")
        return tuple(value)

    def each(self, key: str, count: int, *, optional: bool = False) -> Iterator[Mapped]:
        """A list of mappings."""
        if optional and not self._there(key):
            return
        for number, one in enumerate(self.items(key, count)):
            yield Mapped(one, f"{self.path(key)}[{number}]")

    def section(self, key: str) -> Mapped | None:
        """A member that is a mapping; None where it is not there."""
        return Mapped(self.take(key), self.path(key)) if self._there(key) else None

    def time_ns(self, key: str) -> int:
        """A time with its zone, in nanoseconds since 1970. YAML gives an object for what looks like one."""
        value = self.take(key)
        text = value.isoformat() if hasattr(value, "isoformat") else value
        found = _TIME.fullmatch(text) if isinstance(text, str) else None
        try:
            seconds = int(np.datetime64(found["local"], "s").astype(np.int64)) if found else None
        except ValueError:  # the 31st of February
            seconds = None
        if found is None or seconds is None:
            self.refuse(key, f"{text!r:.80}", "a time with its zone, such as 2026-11-22T18:00:00Z")
        sign, hours, minutes = found["sign"] or "+", int(found["hours"] or 0), int(found["minutes"] or 0)
        ahead = (3600 * hours + 60 * minutes) * (1 if sign == "+" else -1)
        return (seconds - ahead) * 10**9

    def refuse(self, key: str, found: object, expected: str, hint: str = "") -> NoReturn:
        """Raises `ConfigError` for a member."""
        raise ConfigError(self.path(key), found=found, expected=expected, hint=hint)

    def _or(self, key: str, default: Any) -> Any:
        return self.take(key) if default is None or self._there(key) else default

    def _there(self, key: str) -> bool:
        self._asked[key] = None
        return key in self._left


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
