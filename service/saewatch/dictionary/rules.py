"""What a feature, and a dictionary as a whole, has to keep of the reference's numerics to be trusted on a served model.

Thresholds are those of the measurements in docs/fidelity.md: rounding to bfloat16 or to 8 bits for each row breaks
nearly nothing, 4 bits nearly everything. They are data, and part of each certificate: a later version reads an old one
by the rules that it was made with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from saewatch.core import canonical
from saewatch.core.canonical import Json
from saewatch.core.fields import Fields

_NUMBER_MAX = 1e300


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A figure that has to lie between ``least`` and ``most``; a figure that is not known breaks nothing."""

    figure: str
    least: float = -math.inf
    most: float = math.inf
    why: str

    def broken(self, value: float | None) -> bool:
        """Whether ``value`` lies outside."""
        return value is not None and not self.least <= value <= self.most

    def text(self) -> str:
        """What is asked for."""
        ends = [f"at least {self.least:g}"] * (self.least > -math.inf) + [f"at most {self.most:g}"] * (
            self.most < math.inf
        )
        return " and ".join(ends)

    def json(self) -> Json:
        """As in the file."""
        found: dict[str, Json] = {"figure": self.figure, "why": self.why}
        ends = {"least": self.least, "most": self.most}
        return found | {name: canonical.decimal_text(end) for name, end in ends.items() if math.isfinite(end)}


QUARANTINE = (
    Rule(figure="corr", least=0.9, why="its values no longer follow the reference's"),
    Rule(figure="jaccard", least=0.7, why="it fires on other tokens"),
    Rule(figure="rate_ratio", least=0.75, most=1.25, why="it fires more or less often, and so do alerts"),
    Rule(figure="agreement", least=0.6, why="other requests are high"),
)
"""On a feature. On a latent without a label, the first three: what it says of requests nobody asks."""
REFUSAL = (
    Rule(figure="quarantined", most=0.25, why="too much of the dictionary broke to trust the rest"),
    Rule(figure="fvu_ratio", most=1.5, why="the dictionary explains much less of the served model"),
    Rule(figure="not_finite", most=0.0, why="the served model gave rows that are no numbers"),
    Rule(figure="measured", least=1.0, why="nothing fired often enough to be compared"),
)
"""On the whole."""
RULES: Mapping[str, Sequence[Rule]] = {"quarantine": QUARANTINE, "refusal": REFUSAL}
"""By what they do."""


def read_rules(sheet: Fields) -> Mapping[str, Sequence[Rule]]:
    """The rules that a certificate was made with. ManifestError for one on a figure that there is not."""
    found: dict[str, Sequence[Rule]] = {}
    for name, known in RULES.items():
        figures = {rule.figure for rule in known}
        found[name] = tuple(_read_rule(one, figures) for one in sheet.objects(name, len(known)))
    sheet.close()
    return found


def _read_rule(sheet: Fields, figures: set[str]) -> Rule:
    ends = dict(_ends(sheet))
    rule = Rule(figure=sheet.choice("figure", figures), why=sheet.text("why"), **ends)
    sheet.close()
    return rule


def _ends(sheet: Fields) -> Iterator[tuple[str, float]]:
    for name in ("least", "most"):
        if sheet.has(name):
            yield name, sheet.decimal(name, -_NUMBER_MAX, _NUMBER_MAX)
