"""What an evaluation came to, told: the verdict first, then what failed, then figures and features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from saewatch.cli.dictionary.worth import columns
from saewatch.cli.terminal import printable
from saewatch.dictionary import quality as qualities
from saewatch.dictionary.area import Area
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.bounds import LEFT_OUT
from saewatch.dictionary.discern import GOOD, Told
from saewatch.dictionary.quality import Quality

NAMES = {"words": "bag of words", "probe": "dense probe", "random": "random dictionary", "feature": "the feature"}
"""Methods in words."""
HEAD = ("feature", "n", "AUROC", "words", "probe", "random", "recall at limit", "best")


def document(quality: Quality) -> dict[str, Any]:
    """For programs."""
    return {"digest": quality.attestation().digest, "bundle": quality.bundle, **quality.plain()}


def told(quality: Quality) -> str:
    """For people."""
    lines = [*_verdict(quality), "", *_rows(quality), "", *_figures(quality), *_features(quality), "", *quality.notes]
    return "\n".join(printable(line) for line in (*lines, *qualities.CAVEATS))


def _verdict(quality: Quality) -> Iterator[str]:
    against = quality.measured.against
    beside = f", compared with {against.bundle[:19]}" if against else ", compared with no other"
    yield f"gate {'PASSED' if quality.passed else 'FAILED: ' + ', '.join(quality.failed)}{beside}"
    if quality.looks_like is not None:
        yield f"{quality.looks_like}"


def _rows(quality: Quality) -> Iterator[str]:
    rows = [(one.metric, one.verdict, one.found, one.bound) for one in quality.rows if one.verdict != LEFT_OUT]
    yield from columns([("metric", "verdict", "found", "bound"), *rows])
    left = [f"{one.metric} ({one.found})" for one in quality.rows if one.verdict == LEFT_OUT]
    if left:
        yield f"not asked: {', '.join(left)}"


def _figures(quality: Quality) -> Iterator[str]:
    of = quality.measured.figures
    fvu = ", ".join(f"{name} {value:.3g}" for name, value in of.fvu.items() if value is not None)
    yield f"{of.tokens} of {quality.texts.tokens} tokens took part, {of.outliers} had too great a norm"
    yield f"FVU {fvu or 'not measured'}"
    if of.l0 is not None and of.sparsity is not None:
        yield f"L0 {of.l0:.3g} (deviation {of.sd_l0:.3g}), of {of.latents} latents {of.sparsity:.2%} fire on a token"
        yield f"dead {of.dead:.1%}, dense {of.dense:.1%}, of {of.tokens} tokens"
    reviewed = qualities.labels(quality.features)
    states = ", ".join(f"{count} {state}" for state, count in sorted(reviewed["review"].items())) or "none"
    yield f"labels: {states}; {reviewed['scored']} with a score of their own"


def _features(quality: Quality) -> Iterator[str]:
    found = quality.measured.discerned
    if found is None:
        return
    covered = [name for name, value in found.covered.items() if value >= GOOD]
    yield f"concepts told by some feature with an AUROC of {GOOD:g}: {len(covered)} of {len(found.covered)}"
    if found.lift is not None:
        yield f"lift of latents over random directions {area(found.lift)}, in the mean"
    yield f"baselines are fitted on {quality.fitted_on}"
    yield ""
    yield from columns([HEAD, *(_cells(one) for one in found.told)])


def _cells(one: Told) -> Sequence[str]:
    n = f"{one.positives}+{one.negatives}"
    if one.auroc is None:
        return (one.feature, n, "not measured", "", "", "", "", "")
    baselines = [f"{found.value:.2f}" if found else "-" for found in one.baselines.values()]
    return (one.feature, n, area(one.auroc), *baselines, share(one.recall), NAMES[one.wins])


def area(one: Area | None) -> str:
    """A figure with its interval."""
    return "-" if one is None else f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def share(one: Share | None) -> str:
    """A share with its interval."""
    if one is None or not one.n:
        return "-"
    low, high = one.interval()
    return f"{one.value:.2f} [{low:.2f}, {high:.2f}]"
