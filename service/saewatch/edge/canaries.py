"""The file of canaries: one JSON object a line, checked whole before any of them is sent.

    {"id": "threat.1", "feature": "threat.p1", "fires": true, "prompt": "…",
     "above": 1.5, "value": 4.2, "tolerance": 0.25, "tokens": 12}                (on one line)

Members of the second line may be left out. Empty lines and lines that begin with ``#`` say nothing. The file of a panel
has only ``{"prompt": "…"}`` on each line.

A canary is of a feature of a dictionary that is known at start: configured, or applied to an engine out of the store.
One whose feature goes later, with a bundle that is applied, fails from then on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from saewatch.core import limits
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.spelling import near
from saewatch.core.wire import each_once
from saewatch.monitor.canary import Canary
from saewatch.monitor.drift.panel import PROMPTS_MAX, PROMPTS_MIN
from saewatch.monitor.tables import KnownDictionary

_KEYS = frozenset({"id", "feature", "fires", "prompt", "above", "value", "tolerance", "tokens"})
NAMED = 5
"""Features that a refusal lists: enough to see how they are spelt."""


def configured(file: str, known: Iterable[KnownDictionary]) -> tuple[Canary, ...]:
    """The canaries of a configuration; none without a file.

    Raises as `load` does, and `ConfigError` for one whose feature none of the dictionaries has. Where no dictionary is
    known there is nothing to compare with.
    """
    if not file:
        return ()
    found, there = load(Path(file)), set[str]()
    wanted = {one.feature for one in found}
    for each in known:  # no further than it has to be: a store has many
        there |= {feature.id for feature in each.catalogue.features}
        if wanted <= there:
            break
    for one in found if there else ():
        if one.feature not in there:
            names = sorted(there)
            like = near(one.feature, names, NAMED, alike=0.5) or names[:NAMED]
            rest = f" or one of {len(there) - len(like)} others" if len(there) > len(like) else ""
            expected = f"a feature of a dictionary: {', '.join(like)}{rest}"
            hint = "Mend its feature, take the canary out, or name the dictionary's bundle in `dictionaries`."
            raise ConfigError(f"{file}: canary {one.id!r}: feature", found=one.feature, expected=expected, hint=hint)
    return found


def load(path: Path) -> tuple[Canary, ...]:
    """All canaries of a file. `ConfigError` for a line that is wrong, `UnreachableError` without a file."""
    found: dict[str, Canary] = {}
    for where, line in _lines(path):
        one = _canary(where, line)
        if one.id in found:
            raise ConfigError(f"{where}: id", found=f"{one.id!r} twice", expected="ids that differ")
        if len(found) == limits.CANARIES:
            raise ConfigError(where, found="one more", expected=f"at most {limits.CANARIES} canaries")
        found[one.id] = one
    if not found:
        raise ConfigError(str(path), found="no canaries", expected="one JSON object a line")
    return tuple(found.values())


def load_panel(path: Path) -> tuple[str, ...]:
    """The prompts of a panel, as `load` does it."""
    found = dict[str, None]()
    for where, line in _lines(path):
        text = _text(where, _object(where, line, frozenset({"prompt"})), "prompt", limits.CANARY_BYTES)
        if text in found:
            raise ConfigError(f"{where}: prompt", found="the same text twice", expected="prompts that differ")
        found[text] = None
        if len(found) > PROMPTS_MAX:
            raise ConfigError(where, found="one more", expected=f"at most {PROMPTS_MAX} prompts")
    if len(found) < PROMPTS_MIN:
        raise ConfigError(str(path), found=f"{len(found)} prompts", expected=f"at least {PROMPTS_MIN}")
    return tuple(found)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(limits.CANARY_BYTES + 1):
                number += 1
                where = f"{path}, line {number}"
                if len(line) > limits.CANARY_BYTES:
                    raise ConfigError(where, found="a longer line", expected=f"at most {limits.CANARY_BYTES} bytes")
                if line.strip() and not line.startswith(b"#"):
                    yield where, line
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror, expected="a file of canaries") from error


def _object(where: str, line: bytes, keys: frozenset[str]) -> dict[str, Any]:
    try:
        found: Any = json.loads(line.decode(), object_pairs_hook=each_once, parse_constant=lambda _: math.nan)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, found="no JSON", expected="one JSON object in UTF-8, each member once") from error
    if not isinstance(found, dict):
        raise ConfigError(where, found=type(found).__name__, expected="a JSON object")
    for key in sorted(found.keys() - keys):
        raise ConfigError(f"{where}: {key:.40}", found="an unknown key", expected=f"one of {', '.join(sorted(keys))}")
    return found


def _canary(where: str, line: bytes) -> Canary:
    found = _object(where, line, _KEYS)
    if not isinstance(found.get("fires"), bool):
        raise ConfigError(f"{where}: fires", found=f"{found.get('fires')!r:.40}", expected="true or false")
    value = None if found.get("value") is None else _number(where, found, "value", 0.0)
    if value is not None and not found["fires"]:
        raise ConfigError(f"{where}: value", found="a value", expected="none, where the feature is not to fire")
    return Canary(
        id=_text(where, found, "id", 128),
        feature=_text(where, found, "feature", 128),
        fires=found["fires"],
        prompt=_text(where, found, "prompt", limits.CANARY_BYTES),
        above=_number(where, found, "above", 0.0),
        value=value,
        tolerance=_number(where, found, "tolerance", 0.25),
        tokens=_tokens(where, found),
    )


def _tokens(where: str, found: dict[str, Any]) -> int | None:
    value = found.get("tokens")
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 < value <= limits.CANARY_BYTES):
        return value
    expected = f"an integer of 1 to {limits.CANARY_BYTES}"
    raise ConfigError(f"{where}: tokens", found=f"{value!r:.40}", expected=expected)


def _text(where: str, found: dict[str, Any], key: str, most: int) -> str:
    value = found.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= most or any("\ud800" <= one <= "\udfff" for one in value):
        raise ConfigError(f"{where}: {key}", found=f"{value!r:.40}", expected=f"text of 1 to {most} characters")
    return value


def _number(where: str, found: dict[str, Any], key: str, default: float) -> float:
    value = found.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
        raise ConfigError(f"{where}: {key}", found=f"{value!r:.40}", expected="a finite number from 0 on")
    return float(value)
