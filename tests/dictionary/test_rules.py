from __future__ import annotations

import json

import pytest

from saewatch.core import canonical
from saewatch.core.errors import ManifestError
from saewatch.core.fields import Fields
from saewatch.dictionary.rules import QUARANTINE, REFUSAL, RULES, Rule, read_rules


def as_stored() -> dict[str, list[dict[str, str]]]:
    sheet: dict[str, list[dict[str, str]]] = json.loads(
        canonical.dump({name: [rule.json() for rule in rules] for name, rules in RULES.items()})
    )
    return sheet


def test_they_are_those_of_the_measurements() -> None:
    """dictionaries.md 8: corr < 0.9, Jaccard < 0.7, ratio outside [0.75, 1.25], agreement < 0.6; 25 %, 1.5 times."""
    ends = {rule.figure: (rule.least, rule.most) for rule in (*QUARANTINE, *REFUSAL)}
    assert ends["corr"][0] == 0.9
    assert ends["jaccard"][0] == 0.7
    assert ends["rate_ratio"] == (0.75, 1.25)
    assert ends["agreement"][0] == 0.6
    assert ends["quarantined"][1] == 0.25
    assert ends["fvu_ratio"][1] == 1.5


@pytest.mark.parametrize(("value", "broken"), [(0.74, True), (0.75, False), (1.25, False), (1.26, True), (None, False)])
def test_both_ends_belong_to_what_is_good(value: float | None, *, broken: bool) -> None:
    (rule,) = (one for one in QUARANTINE if one.figure == "rate_ratio")
    assert rule.broken(value) is broken
    assert rule.text() == "at least 0.75 and at most 1.25"


def test_they_come_back_as_they_were_written() -> None:
    assert read_rules(Fields(as_stored(), "rules")) == RULES


def test_another_version_s_thresholds_are_kept() -> None:
    sheet = as_stored()
    sheet["quarantine"][0]["least"] = "0.8"
    first = read_rules(Fields(sheet, "rules"))["quarantine"][0]
    assert first == Rule(figure="corr", least=0.8, why=QUARANTINE[0].why)


@pytest.mark.parametrize(
    ("name", "value"), [("figure", "charm"), ("least", "NaN"), ("least", "nine"), ("colour", "red")]
)
def test_what_is_refused(name: str, value: str) -> None:
    sheet = as_stored()
    sheet["quarantine"][0][name] = value
    with pytest.raises(ManifestError, match=name):
        read_rules(Fields(sheet, "rules"))
