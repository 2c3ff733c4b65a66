"""What a fidelity certificate says, told: the verdict, a line for each feature, worst first, and all latents."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saewatch.core.canonical import Json
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.certificate import GOOD, QUARANTINED, UNMEASURED, Certificate, Survival
from saewatch.dictionary.rules import Rule

HEAD = ("feature", "fired", "corr", "Jaccard", "rate", "shift", "95 % point", "texts over it", "verdict")
ENOUGH = 25_000
"""Tokens: most latents of the demo fire on 30 of so many."""
POINTS: Mapping[str, str] = {
    "corr_median": "median corr",
    "corr_5": "5 % below",
    "jaccard_median": "median Jaccard",
    "jaccard_5": "5 % below",
    "rate_ratio_5": "rate ratio, 5 % below",
    "rate_ratio_95": "5 % above",
    "shift_median": "median shift",
}
"""Of latents that fired often enough."""
_ORDER = (QUARANTINED, UNMEASURED, GOOD)


def told(made: Certificate, left_out: Mapping[str, int], *, as_json: bool) -> str:
    """All of it, as text or as one JSON object. ``left_out``: texts that were not compared, by why."""
    ordered = sorted(made.features, key=lambda one: (_ORDER.index(made.judged(one)), _worst(one), one.feature))
    if as_json:
        return json.dumps(_document(made, ordered, left_out))
    rows = [_cells(one, made) for one in ordered]
    return "\n".join([*_table(rows), "", *_whole(made), *_latents(made), *warnings(made, left_out)])


def warnings(made: Certificate, left_out: Mapping[str, int]) -> Iterator[str]:
    """What a reader of the figures has to know."""
    if made.scope == "watched":
        yield "A recording holds what was watched, above its floors: other latents and FVU were not compared."
    for why, texts in sorted(left_out.items()):
        yield f"{texts} texts were left out: {why}."
    if made.excluded_apart:
        yield f"{made.excluded_apart} tokens were excluded on one side only; nothing fired there."
    if made.tokens < ENOUGH:
        yield f"{made.tokens} tokens; {ENOUGH} are recommended, so that most latents fire on enough of them."
    if not made.served.model:
        yield "The served model's digest is not known: nobody will notice when another one is served."
    yield "Limits are not part of this: calibrate on what serves. A feature's claim is correlational."


# --- as text ----------------------------------------------------------------------------------------------------------
def _cells(one: Survival, made: Certificate) -> tuple[str, ...]:
    figures = one.figures
    low, high = one.firings.interval()
    jaccard = f"{_number(figures['jaccard'], '.2f')} [{low:.2f}, {high:.2f}]" if one.firings.n else "-"
    shift = "-" if one.shift is None else f"{100 * one.shift:+.1f} %"
    point = f"{one.point95:.4g} → {one.point95_served:.4g}" if one.scored else "-"
    over = f"{one.over_both} of {one.over_either}" if one.over_either else "-"
    corr, ratio = _number(figures["corr"], ".3f"), _number(figures["rate_ratio"], ".2f")
    return (one.feature, f"{one.reference}", corr, jaccard, ratio, shift, point, over, _verdict(one, made))


def _verdict(one: Survival, made: Certificate) -> str:
    judged = made.judged(one)
    if judged == UNMEASURED:
        return f"{judged}, may not back an alert: {one.unmeasured}"
    if judged == QUARANTINED:
        return f"{judged}: may not back an alert: {', '.join(rule.figure for rule in made.broken(one))}"
    return judged


def _whole(made: Certificate) -> Iterator[str]:
    yield f"{made.verdict.upper()}: {made.served.reader} beside {made.reference.reader}, {_size(made)}"
    for rule in made.why:
        yield f"  {_refusal(rule, made)}"
    if made.why:
        yield "  No feature of it may back an alert."
    counts = {verdict: sum(made.judged(one) == verdict for one in made.features) for verdict in _ORDER}
    yield "features: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    if made.fvu is not None and made.fvu_served is not None:
        yield f"FVU {made.fvu:.4f}, served {made.fvu_served:.4f}"


def _refusal(rule: Rule, made: Certificate) -> str:
    return f"{rule.figure} {_number(made.figures[rule.figure], '.3g')}, {rule.text()} is asked for: {rule.why}"


def _latents(made: Certificate) -> Iterator[str]:
    all_of, points = made.latents, made.latents.points
    if not all_of.live:
        return
    share = Share(all_of.quarantined, all_of.live)
    yield (
        f"latents: {all_of.live} of {all_of.count} fired often enough, {all_of.quarantined} of them"
        f" ({100 * share.value:.1f} %) would be quarantined"
    )
    shown = {name: f"{float(value):.3f}" for name, value in points.items()}
    told_of = [f"{words} {shown[name]}" for name, words in POINTS.items() if name in shown]
    yield f"  Jaccard of all {Share(all_of.both, all_of.either).value:.3f}; " + ", ".join(told_of)


def _size(made: Certificate) -> str:
    return f"{made.texts.requests} texts, {made.tokens} tokens"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in [HEAD, *rows]) for i in range(len(HEAD) - 1)]
    for row in [HEAD, *rows]:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()


def _worst(one: Survival) -> float:
    """Where a feature stands among those of its verdict: what it kept, least first."""
    return min(one.corr, -math.inf if one.figures["jaccard"] is None else one.firings.value)


# --- for programs -----------------------------------------------------------------------------------------------------
def _document(made: Certificate, ordered: Sequence[Survival], left_out: Mapping[str, int]) -> dict[str, Any]:
    attestation = made.attestation()
    return {
        "digest": attestation.digest,
        "attestation": attestation.body,
        "verdict": made.verdict,
        "why": [_plain_rule(rule, made.figures) for rule in made.why],
        "without_alert": list(made.without_alert),
        "texts": made.texts.requests,
        "tokens": made.tokens,
        "left_out": dict(left_out),
        "fvu": {"reference": made.fvu, "served": made.fvu_served},
        "latents": _plain_latents(made),
        "features": [_plain(one, made) for one in ordered],
        "warnings": list(warnings(made, left_out)),
    }


def _plain(one: Survival, made: Certificate) -> dict[str, Any]:
    counts = {name: getattr(one, name) for name in ("reference", "served", "both", "scored")}
    return {
        "feature": one.feature,
        "verdict": made.judged(one),
        "why": [_plain_rule(rule, one.figures) for rule in made.broken(one)],
        "unmeasured": one.unmeasured,
        **counts,
        **one.figures,
        "shift": one.shift,
        "jaccard_interval": one.firings.interval(),
        "agreement_interval": one.requests.interval(),
        "point95": one.point95,
        "point95_served": one.point95_served,
        "over_both": one.over_both,
        "over_either": one.over_either,
    }


def _plain_rule(rule: Rule, figures: Mapping[str, float | None]) -> dict[str, Any]:
    return {"figure": rule.figure, "found": figures[rule.figure], "expected": rule.text(), "why": rule.why}


def _plain_latents(made: Certificate) -> dict[str, Any]:
    sheet: Json = made.latents.json()
    assert isinstance(sheet, dict), "all latents are an object"
    points = {name: float(value) for name, value in made.latents.points.items()}
    return {**{name: value for name, value in sheet.items() if name != "points"}, **points}
