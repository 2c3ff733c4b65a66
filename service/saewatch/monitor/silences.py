"""Silences: those that stand in policies, and those that somebody gave for a while.

An alert that one covers is made, marked and kept, and not delivered. A silence is in force before its ``until_ns`` and
no longer at that very instant. It is told when it begins and when it is over, so that nobody takes it for peace.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from saewatch.core.errors import RecordError
from saewatch.monitor.policy.rule import Policy, Silence

SILENCE_NS_MAX = 7 * 24 * 3600 * 10**9
"""Of one that is given: nothing is silenced for ever and forgotten. What is to stay quiet for longer belongs in its
policy, which people review."""
SILENCES_GIVEN = 100
"""At a time: more than people on call keep in their heads, and each new alert is held against every one."""
ENDED, EXPIRED, UNKNOWN = "ended", "expired", "unknown"
"""Why one is over: somebody ended it, its time has come, or its rules are configured no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A silence of one policy, and who gave it."""

    id: str
    policy: str
    what: Silence
    by: str = ""
    """Empty: it stands in the policy."""
    given_ns: int = 0
    held_back: int = 0
    """Alerts that it covered since the start."""

    def covers(self, policy: str, rule: str, tenant: str, now_ns: int) -> bool:
        """Whether it holds back a new alert of that rule about that tenant."""
        what = self.what
        named = self.policy == policy and (not what.rules or rule in what.rules)
        return named and what.tenant in {"", tenant} and now_ns < what.until_ns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SilenceChanged:
    """A silence is in force, or it is ``over`` and why."""

    silence: Given
    over: str = ""
    by: str = ""
    """Who ended it."""


class Silences:
    """Those of some policies."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._rules = {policy.name: frozenset(rule.id for rule in policy.rules) for policy in policies}
        own = (
            Given(id=f"{policy.name}#{number}", policy=policy.name, what=silence)
            for policy in policies
            for number, silence in enumerate(policy.silences)
        )
        self._given = {one.id: one for one in own}
        self._untold = list(self._given)
        self._held: Counter[str] = Counter()

    # --- what happens ---------------------------------------------------------------------------------------------
    def hold(self, policy: str, rule: str, tenant: str, now_ns: int) -> bool:
        """Whether a new alert is held back. Each silence that covers it counts it."""
        covering = [one.id for one in self._given.values() if one.covers(policy, rule, tenant, now_ns)]
        self._held.update(covering)
        return bool(covering)

    def give(self, one: Given, now_ns: int) -> SilenceChanged:
        """Puts one in force. Raises `RecordError` for a policy or a rule that there is not, a time, or one too many."""
        self._check(one, now_ns)
        given = sum(1 for each in self._given.values() if each.by and now_ns < each.what.until_ns)
        if given >= SILENCES_GIVEN:
            hint = "End one with `saewatch alerts unsilence`, or silence a whole policy."
            raise RecordError("silences", found=f"{given} in force", expected=f"at most {SILENCES_GIVEN}", hint=hint)
        self._given[one.id] = one
        return SilenceChanged(silence=one)

    def end(self, name: str, by: str, now_ns: int) -> SilenceChanged:
        """Ends one that was given before its time. Raises `RecordError` where it is not in force."""
        one = self.find(name, now_ns)
        assert one.by, "what stands in a policy ends with it"
        return self._over(one, ENDED, by)

    def tick(self, now_ns: int) -> list[SilenceChanged]:
        """Time has passed: some are over. The policies' own are told the first time, unless they are over by then."""
        untold, self._untold = self._untold, []
        due = [one for one in self._given.values() if one.what.until_ns <= now_ns]
        over = [self._over(one, EXPIRED) for one in due]
        begun = [SilenceChanged(silence=self._given[name]) for name in untold if name in self._given]
        return [*begun, *(one for one in over if one.silence.id not in untold)]

    def remember(self, kept: Iterable[Given], now_ns: int) -> list[SilenceChanged]:
        """Those of an earlier run go on; what is over by now, or can be held against nothing, is told so."""
        found = list[SilenceChanged]()
        for one in kept:
            try:
                found.append(self.give(one, now_ns))
            except RecordError:
                over = EXPIRED if one.what.until_ns <= now_ns else UNKNOWN
                found.append(SilenceChanged(silence=one, over=over))
        return found

    # --- what others ask ------------------------------------------------------------------------------------------
    def find(self, name: str, now_ns: int) -> Given:
        """The one of that id. Raises `RecordError` where it is not in force."""
        one = self._given.get(name)
        if one is None or one.what.until_ns <= now_ns:
            raise RecordError("id", found=f"{name!r:.80}", expected="the id of a silence that is in force")
        return self._counted(one)

    def all(self, now_ns: int) -> list[Given]:
        """Those in force, what ends first before the others."""
        found = [self._counted(one) for one in self._given.values() if now_ns < one.what.until_ns]
        return sorted(found, key=lambda one: (one.what.until_ns, one.id))

    @property
    def due_ns(self) -> float:
        """When the next one is over; infinity: there is none."""
        return min((one.what.until_ns for one in self._given.values()), default=math.inf)

    # --- inside ---------------------------------------------------------------------------------------------------
    def _check(self, one: Given, now_ns: int) -> None:
        there = self._rules.get(one.policy)
        if there is None:
            expected = f"one of {', '.join(sorted(self._rules))}" if self._rules else "a policy: none is configured"
            raise RecordError("policy", found=f"{one.policy!r:.80}", expected=expected)
        for rule in one.what.rules:
            if rule not in there:
                hint = f"`saewatch policy check` lists the rules of {one.policy}."
                raise RecordError("rule", found=f"{rule!r:.80}", expected=f"a rule of {one.policy}", hint=hint)
        if not now_ns < one.what.until_ns <= now_ns + SILENCE_NS_MAX:
            found, most = f"{(one.what.until_ns - now_ns) / 1e9:g} s", SILENCE_NS_MAX // 10**9
            raise RecordError("duration", found=found, expected=f"above 0 and at most {most} s")

    def _over(self, one: Given, why: str, by: str = "") -> SilenceChanged:
        told = SilenceChanged(silence=self._counted(one), over=why, by=by)
        del self._given[one.id], self._held[one.id]
        return told

    def _counted(self, one: Given) -> Given:
        return replace(one, held_back=self._held[one.id])
