"""What a calibration is worth, told: a line for each feature, what was promised, and what speaks against it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from saewatch.dictionary import calibrate
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.calibrate import Estimate
from saewatch.dictionary.calibration import Calibration, HeldOut, Limit

HEAD = ("feature", "limit", "of n", "false alarms /1,000", "recall", "precision", "alerts a day", "verdict")
EXPERIMENTAL, CALIBRATED, OVER = "experimental", "calibrated", "over alpha"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the figures are for."""

    prevalence: float
    requests: float | None
    """A day; None: alerts a day are not told."""


def told(made: Calibration, asked: Asked, *, as_json: bool) -> str:
    """All of it, as text or as one JSON object."""
    if as_json:
        rows = [_plain(one, made, asked) for one in made.limits]
        rows += [{"verdict": EXPERIMENTAL, **asdict(one)} for one in made.experimental]
        attestation = made.attestation()
        document = {"digest": attestation.digest, "attestation": attestation.body, "features": rows}
        return json.dumps({**document, "warnings": list(warnings(made))})
    rows_of_text = [_cells(one, made, asked) for one in made.limits]
    rows_of_text += [
        (one.feature, "", f"{one.n}", "", "", "", "", f"{EXPERIMENTAL}: {one.why}; {_supports(one.supported)}")
        for one in made.experimental
    ]
    return "\n".join([*columns([HEAD, *rows_of_text]), "", *_promise(made, asked), *warnings(made)])


def verdict(one: Limit, made: Calibration) -> str:
    """Whether the limit keeps its promise on the requests that it was tested on."""
    over = one.held_out is not None and one.held_out.false_alarms.interval()[0] > made.promise.alpha
    return OVER if over else CALIBRATED


def warnings(made: Calibration) -> Iterator[str]:
    """What a reader of the figures has to know."""
    if made.benign.distinct < made.benign.requests:
        yield (
            f"{made.benign.requests} benign requests of {made.benign.distinct} templates, authors or texts. The promise"
            " takes each for drawn by itself: requests that resemble one another are worth less than it counts."
        )
    if not made.served.model:
        yield "The model's digest is not known: nobody will notice when another one is served."
    yield f"Read by {made.served.reader}: a served model that computes otherwise needs limits of its own."
    for one in made.limits:
        for tokens, share in _long(one, made.promise.alpha):
            yield f"{one.feature}: of requests with {tokens} tokens or more {_rate(share)} in 1,000 are over the limit."
    silent = [one.feature for one in made.limits if one.limit == 0.0]
    if silent:
        yield f"A limit of 0 is passed by whatever fires at all: {', '.join(silent)}."


def _long(one: Limit, alpha: float) -> Iterator[tuple[int, Share]]:
    """Buckets of lengths whose false alarms are over alpha."""
    for tokens, share in one.held_out.lengths if one.held_out else ():
        if share.interval()[0] > alpha:
            yield tokens, share


def _promise(made: Calibration, asked: Asked) -> Iterator[str]:
    of, each = made.promise, "each limit by itself" if made.promise.family == 1 else "all limits together"
    confidence = f"With {_percent(1 - of.delta)} confidence"
    yield f"{confidence} at most {1000 * of.alpha:g} of 1,000 requests like the benign ones are over a limit: {each}."
    if of.family == 1 and len(made.limits) > 1:
        yield f"Of {len(made.limits)} limits some {of.delta * len(made.limits):.1f} may break it; see --family."
    if made.held_out is not None:
        carry = f"{_percent(asked.prevalence)} of the requests carry the concept"
        yield f"Precision and alerts are told for traffic where {carry}; intervals are of 95 %."


# --- one feature ------------------------------------------------------------------------------------------------------
def _cells(one: Limit, made: Calibration, asked: Asked) -> tuple[str, ...]:
    tested = one.held_out
    figures = ("-", "-", "-", "-") if tested is None else _figures(tested, made, asked)
    return (one.feature, f"{one.limit:.4g}", f"{one.j} of {one.n}", *figures, verdict(one, made))


def _figures(tested: HeldOut, made: Calibration, asked: Asked) -> tuple[str, str, str, str]:
    low, high = tested.recall.interval()
    recall = f"{tested.recall.value:.2f} [{low:.2f}, {high:.2f}]" if tested.recall.n else "-"
    right = _estimate(calibrate.precision(tested, asked.prevalence), ".2f") if tested.recall.n else "-"
    alerts = "-"
    if asked.requests is not None and tested.recall.n:
        found = calibrate.alerts(tested, asked.prevalence, asked.requests)
        most = calibrate.promised(tested, asked.prevalence, asked.requests, made.promise.alpha)
        alerts = f"{_estimate(found, '.3g')}; {most:.3g} at alpha"
    return f"{_rate(tested.false_alarms)} of {tested.false_alarms.n}", recall, right, alerts


def _plain(one: Limit, made: Calibration, asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = {"feature": one.feature, "verdict": verdict(one, made), **asdict(one)}
    found |= {"limit": one.limit, "held_out": None}
    if (tested := one.held_out) is None:
        return found
    parts = {"false_alarms": _share(tested.false_alarms), "recall": _share(tested.recall)}
    lengths = [{"tokens": tokens, **_share(share)} for tokens, share in tested.lengths]
    right = _ends(calibrate.precision(tested, asked.prevalence))
    found["held_out"] = {**parts, "lengths": lengths, "precision": right}
    if asked.requests is not None:
        alerts = _ends(calibrate.alerts(tested, asked.prevalence, asked.requests))
        promised = calibrate.promised(tested, asked.prevalence, asked.requests, made.promise.alpha)
        found["held_out"] |= {"alerts_per_day": alerts, "alerts_per_day_at_alpha": _number(promised)}
    return found


def _share(share: Share) -> dict[str, Any]:
    low, high = share.interval()
    return {"hits": share.hits, "n": share.n, "value": _number(share.value), "low": low, "high": high}


def _ends(one: Estimate) -> dict[str, float | None]:
    return {"value": _number(one.value), "low": _number(one.low), "high": _number(one.high)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


# --- words ------------------------------------------------------------------------------------------------------------
def _rate(share: Share) -> str:
    low, high = share.interval()
    return f"{1000 * share.value:.1f} [{1000 * low:.1f}, {1000 * high:.1f}]" if share.n else "-"


def _estimate(one: Estimate, form: str) -> str:
    value = "-" if math.isnan(one.value) else f"{one.value:{form}}"
    return f"{value} [{one.low:{form}}, {one.high:{form}}]"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _supports(alpha: float) -> str:
    return "no alpha" if alpha == 1.0 else f"they support an alpha of {alpha:.2g}"


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows below one another, the last column as long as it likes."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
