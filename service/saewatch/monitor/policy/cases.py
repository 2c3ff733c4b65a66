"""Tests of rules, as their author writes them: requests token by token, and the states that each rule is to take.

    cases:
      - name: a threat in the prompt
        prompt: 2
        tokens:
          - {}                                # nothing fires
          - {threat.p1: 7.5}                  # a feature and its value
          - {repeat: 30}                      # 30 tokens of the same
          - null                              # a token that nobody saw
        expect:
          threat_in_prompt: [{active: 1}, {resolved: 33}]
          other_rule: []                      # it stays inactive

A group's value is that of its first latent; ``{d.g1: {"0": 2.0, "1": 3.0}}`` says which of its latents, from 0.
``turns``, a list of ``prompt`` and ``tokens``, are the requests of one conversation. ``request`` names one of a
recording instead. Rules that are not named may do what they like. ``limits`` of the file are taken as if they were
calibrated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.monitor.policy.machine import ACTIVE, INACTIVE, PENDING, RESOLVED
from saewatch.monitor.policy.mapped import Mapped

STATES = (PENDING, ACTIVE, RESOLVED, INACTIVE)
_VALUE_MAX = 1e30
_TOKENS_MAX = 2**20
"""Tokens of all cases of a file: some seconds, and 8 MiB before they are played. A case of `turns` has 64 requests."""

Fired = Mapping[str, Mapping[int, float]]
"""What fires on a token: feature → which of its latents → value."""
History = tuple[tuple[str, int], ...]
"""States with their positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request; None: a token that nobody saw."""

    prompt_len: int
    tokens: tuple[Fired | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``turns`` of one conversation, or a recorded ``request``, and the states that rules are to take."""

    name: str
    turns: tuple[Turn, ...]
    request: str
    expect: Mapping[str, History]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """A file of them."""

    cases: tuple[Case, ...]
    limits: Mapping[str, float]


def read(values: object, subject: str) -> Cases:
    """The cases in what YAML gave. Raises `ConfigError` with the path of the field that is wrong."""
    fields = Mapped(values, subject)
    known = fields.section("limits")
    assumed = {} if known is None else dict(_values(known))
    found: dict[str, Case] = {}
    tokens = 0
    for one in fields.each("cases", limits.POLICY_CASES):
        made = _case(one)
        tokens += sum(len(turn.tokens) for turn in made.turns)
        if made.name in found:
            one.refuse("name", f"{made.name!r:.80} twice", "names that differ")
        if tokens > _TOKENS_MAX:
            one.refuse("tokens", f"{tokens} up to here", f"at most {_TOKENS_MAX} in all cases of a file")
        found[made.name] = made
    fields.close()
    if not found:
        raise ConfigError(f"{subject}: cases", found="none", expected="at least one case")
    return Cases(limits=assumed, cases=tuple(found.values()))


def _case(fields: Mapped) -> Case:
    name = fields.text("name")
    request = fields.text("request", default="")
    if request:
        turns: tuple[Turn, ...] = ()
    elif fields.has("turns"):
        turns = tuple(_turn(one, closes=True) for one in fields.each("turns", limits.POLICY_LEAVES))
    else:
        turns = (_turn(fields, closes=False),)
    if not request and not any(turn.tokens for turn in turns):
        fields.refuse("tokens", "none", "at least one token; `{}` is one on which nothing fires")
    expect = fields.section("expect")
    if expect is None or not expect.members():
        fields.refuse("expect", "nothing", "states by rule; `[]` is a rule that stays inactive")
    states = {rule: _history(expect, rule) for rule in expect.members()}
    made = Case(name=name, turns=turns, request=request, expect=states)
    fields.close()
    return made


def _turn(fields: Mapped, *, closes: bool) -> Turn:
    tokens: list[Fired | None] = []
    for number, one in enumerate(fields.items("tokens", limits.POLICY_CASE_TOKENS)):
        if one is None:
            tokens.append(None)
            continue
        token = Mapped(one, f"{fields.path('tokens')}[{number}]")
        repeat = token.integer("repeat", 1, limits.POLICY_CASE_TOKENS, default=1)
        tokens += [_fired(token)] * repeat
        if len(tokens) > limits.POLICY_CASE_TOKENS:
            fields.refuse("tokens", f"{len(tokens)} tokens", f"at most {limits.POLICY_CASE_TOKENS}")
    made = Turn(prompt_len=fields.integer("prompt", 0, 2**31 - 1, default=0), tokens=tuple(tokens))
    if closes:
        fields.close()
    return made


def _fired(token: Mapped) -> Fired:
    found: dict[str, Mapping[int, float]] = {}
    for name in token.members():
        value = token.take(name)
        if isinstance(value, Mapping):
            units = Mapped(value, token.path(name))
            found[name] = {_unit(units, unit): _value(units, unit, units.take(unit)) for unit in units.members()}
        else:
            found[name] = {0: _value(token, name, value)}
    return found


def _values(fields: Mapped) -> Iterator[tuple[str, float]]:
    for name in fields.members():
        value = fields.above(name)
        if value is None:
            fields.refuse(name, "calibrated", "a number")
        yield name, value


def _unit(fields: Mapped, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        fields.refuse(text[:40], "no number", "which latent of the group, from 0, in quotes")
    return int(text)


def _value(fields: Mapped, name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 < value < _VALUE_MAX:
        fields.refuse(name, f"{value!r:.40}", "a finite number above 0")
    return float(value)


def _history(fields: Mapped, rule: str) -> History:
    found: list[tuple[str, int]] = []
    for one in fields.each(rule, limits.POLICY_CASE_TOKENS):
        states = [state for state in STATES if one.has(state)]
        if len(states) != 1:
            found_states, hint = " and ".join(states) or "none", "" if states else one.misspelt(STATES)
            expected = f"one of {', '.join(STATES)}"
            raise ConfigError(fields.path(rule), found=found_states, expected=expected, hint=hint)
        found.append((states[0], one.integer(states[0], 0, 2**31 - 1)))
        one.close()
    return tuple(found)
