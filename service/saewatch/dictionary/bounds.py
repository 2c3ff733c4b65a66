"""The quality gate: what a dictionary has to be to raise alerts, as a table of bounds.

A row looks at what was measured and says whether it is inside its bound. What is asked for and could not be measured
is not passed: "not enough data" fails the gate like a bad figure, since nobody knows. What does not apply (no stated
figure, nothing to compare with) is left out, and the verdict lists it. Concept scores alone let a broken decoder
through, and reconstruction alone lets a random dictionary's features through: both are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from saewatch.dictionary.area import Area
from saewatch.dictionary.discern import GOOD, Discerned, Told
from saewatch.dictionary.figures import ENOUGH, Figures

PASSED, FAILED, TOO_LITTLE, LEFT_OUT = "passed", "failed", "not enough data", "not asked"
WIDE = 0.1
"""A difference whose interval is wider says nothing."""
LESS = -0.02
"""A feature that is worse by more, surely, is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The same requests and texts through the dictionary that is in force."""

    name: str
    bundle: str
    weights: str
    catalogue: str
    figures: Figures
    ce: float | None = None
    discerned: Discerned | None = None
    differences: Mapping[str, Area] = field(default_factory=dict)
    """AUROC of a feature less that of the one in force with the same id."""
    mean: Area | None = None
    """Their mean."""
    worse: tuple[str, ...] = ()
    """Features that are worse by more than `LESS`, with Holm's correction over those that may alert."""
    gone: tuple[str, ...] = ()
    """Concepts that the one in force covers, and this one does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that is judged."""

    figures: Figures
    kind: str
    competes: bool
    """A fixed number of latents fires on each token."""
    stated: Mapping[str, float] = field(default_factory=dict)
    ce: float | None = None
    """Share of the cross entropy that is recovered; None: not measured."""
    far: float | None = None
    """Share of the variance that rows of an extreme norm hold, which nothing excludes."""
    discerned: Discerned | None = None
    against: Compared | None = None
    alerting: tuple[str, ...] = ()
    """Features that a calibration gives a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A row of the table, judged."""

    metric: str
    says: str
    verdict: str
    found: str
    bound: str

    @property
    def bad(self) -> bool:
        """Whether it fails the gate."""
        return self.verdict in {FAILED, TOO_LITTLE}


def judge(measured: Measured) -> tuple[Finding, ...]:
    """Every row of the table, in its order."""
    found = []
    for metric, (says, row) in GATE.items():
        verdict, seen, bound = row(measured)
        found.append(Finding(metric=metric, says=says, verdict=verdict, found=seen, bound=bound))
    return tuple(found)


Judged = tuple[str, str, str]
"""Verdict, what was found, the bound."""


# --- absolute ---------------------------------------------------------------------------------------------------------
def _fvu(of: Measured) -> Judged:
    if of.kind != "sae":
        return LEFT_OUT, f"of a {of.kind} it is not measured", ""
    return _under(of.figures.fvu["kept"], 0.35)


def _fvu_stated(of: Measured) -> Judged:
    if of.kind != "sae" or "fvu" not in of.stated:
        return LEFT_OUT, "none is stated", ""
    return _under(of.figures.fvu["kept"], 1.1 * of.stated["fvu"], f" (1.1 times the stated {of.stated['fvu']:.3g})")


def _l0_stated(of: Measured) -> Judged:
    if "l0" not in of.stated or of.figures.latents == 0:
        return LEFT_OUT, "none is stated", ""
    return _near(of.figures.l0, of.stated["l0"], "stated")


def _sd_l0(of: Measured) -> Judged:
    """Latents that compete fire in a fixed number; others never do."""
    spread = of.figures.sd_l0
    if spread is None:
        return (LEFT_OUT, "no latents", "") if of.figures.latents == 0 else (TOO_LITTLE, "no tokens", "")
    fixed = of.stated["sd_l0"] == 0 if "sd_l0" in of.stated else of.competes
    bound = "0, a fixed number of latents" if fixed else "above 0"
    good = spread < 0.5 if fixed else spread > 1e-6
    return (PASSED if good else FAILED), f"{spread:.3g}", bound


def _ce(of: Measured) -> Judged:
    return (LEFT_OUT, "not measured", "") if of.ce is None else _over(of.ce, 0.9)


def _dead(of: Measured) -> Judged:
    if of.figures.latents == 0:
        return LEFT_OUT, "no latents", ""
    verdict, found, bound = _under(of.figures.dead, 0.2)
    found = f"{found} of {of.figures.tokens} tokens"
    few = verdict == FAILED and of.figures.tokens < ENOUGH
    return (
        (TOO_LITTLE, f"{found}, {ENOUGH} are needed to call a latent dead", bound) if few else (verdict, found, bound)
    )


def _dense(of: Measured) -> Judged:
    return (LEFT_OUT, "no latents", "") if of.figures.latents == 0 else _under(of.figures.dense, 0.1)


def _far(of: Measured) -> Judged:
    return (LEFT_OUT, "not measured", "") if of.far is None else _under(of.far, 0.1)


def _auroc(of: Measured) -> Judged:
    return _alerting(of, lambda one: one.auroc.low if one.auroc else None, GOOD, "AUROC")


def _recall(of: Measured) -> Judged:
    return _alerting(of, lambda one: one.recall.interval()[0] if one.recall and one.recall.n else None, 0.5, "recall")


def _alerting(of: Measured, low: Callable[[Told], float | None], least: float, what: str) -> Judged:
    if not of.alerting:
        return LEFT_OUT, "no feature has a limit, so none may alert", ""
    bound = f"lower end of each alerting feature's {what} at least {least:g}"
    told = {one.feature: one for one in of.discerned.told} if of.discerned else {}
    found = {name: low(told[name]) if name in told else None for name in of.alerting}
    without = sorted(name for name, value in found.items() if value is None)
    under = sorted(name for name, value in found.items() if value is not None and value < least)
    if under:
        return FAILED, _named(under), bound
    return (TOO_LITTLE, f"no labelled requests for {_named(without)}", bound) if without else (PASSED, "all", bound)


def _lift(of: Measured) -> Judged:
    found = of.discerned.lift if of.discerned else None
    if found is None:
        return LEFT_OUT, "no latents on labelled requests", ""
    seen = f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    wide = found.high > 0 and found.high - found.low > WIDE
    verdict = PASSED if found.low > 0 else TOO_LITTLE if wide else FAILED
    return verdict, seen, "above 0, and so the whole interval"


# --- against the one in force -----------------------------------------------------------------------------------------
def _fvu_regression(of: Measured) -> Judged:
    if of.against is None or of.kind != "sae":
        return LEFT_OUT, "nothing to compare with", ""
    before = of.against.figures.fvu["kept"]
    return _more(of.figures.fvu["kept"], before, 0.02)


def _l0_regression(of: Measured) -> Judged:
    if of.against is None or not of.against.figures.l0:
        return LEFT_OUT, "nothing to compare with", ""
    return _near(of.figures.l0, of.against.figures.l0, "of the one in force")


def _ce_regression(of: Measured) -> Judged:
    if of.against is None or of.ce is None or of.against.ce is None:
        return LEFT_OUT, "nothing to compare with", ""
    return _more(-of.ce, -of.against.ce, 0.01)


def _dead_regression(of: Measured) -> Judged:
    before = of.against.figures.dead if of.against else None
    return (LEFT_OUT, "nothing to compare with", "") if before is None else _more(of.figures.dead, before, 0.05)


def _dense_regression(of: Measured) -> Judged:
    before = of.against.figures.dense if of.against else None
    return (LEFT_OUT, "nothing to compare with", "") if before is None else _more(of.figures.dense, before, 0.05)


def _coverage_regression(of: Measured) -> Judged:
    if of.against is None or of.against.discerned is None or of.discerned is None:
        return LEFT_OUT, "nothing to compare with", ""
    gone = of.against.gone
    return (FAILED if gone else PASSED), f"lost: {_named(gone)}" if gone else "none lost", "no concept lost"


def _mean_regression(of: Measured) -> Judged:
    mean = of.against.mean if of.against else None
    if mean is None:
        return LEFT_OUT, "nothing to compare with", ""
    bound = f"upper end of the mean difference at least {LESS:g}"
    return (FAILED if mean.high < LESS else PASSED), f"{mean.value:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]", bound


def _feature_regression(of: Measured) -> Judged:
    if of.against is None or of.against.discerned is None:
        return LEFT_OUT, "nothing to compare with", ""
    if not of.alerting:
        return LEFT_OUT, "no feature has a limit, so none may alert", ""
    bound = f"no alerting feature surely worse by more than {-LESS:g}, no interval wider than {WIDE:g}"
    if of.against.worse:
        return FAILED, _named(of.against.worse), bound
    there = of.against.differences
    wide = sorted(name for name in of.alerting if name in there and there[name].high - there[name].low > WIDE)
    wide += sorted(name for name in of.alerting if name not in there and name in of.against.discerned.samples)
    return (TOO_LITTLE, _named(wide), bound) if wide else (PASSED, "none is worse", bound)


GATE: Mapping[str, tuple[str, Callable[[Measured], Judged]]] = {
    "fvu": ("share of the variance that is not explained", _fvu),
    "fvu.stated": ("the same, against what its authors state", _fvu_stated),
    "l0.stated": ("latents that fire on a token, against what its authors state", _l0_stated),
    "sd_l0": ("deviation of L0: 0 where latents compete, and only there", _sd_l0),
    "ce": ("cross entropy recovered with the reconstruction in the residual's place", _ce),
    "dead": ("latents that never fired", _dead),
    "dense": ("latents that fired on more than a tenth of the tokens", _dense),
    "outliers": ("variance held by rows of more than five times the median norm that nothing excludes", _far),
    "auroc": ("alerting features tell their concept", _auroc),
    "recall": ("alerting features catch their concept at their limit", _recall),
    "lift": ("features of latents beat those of random directions, in the mean", _lift),
    "fvu.regression": ("unexplained variance, more than of the one in force", _fvu_regression),
    "l0.regression": ("L0, against the one in force", _l0_regression),
    "ce.regression": ("cross entropy recovered, less than by the one in force", _ce_regression),
    "dead.regression": ("dead latents, more than of the one in force", _dead_regression),
    "dense.regression": ("dense latents, more than of the one in force", _dense_regression),
    "coverage.regression": ("concepts that some feature tells", _coverage_regression),
    "auroc.regression": ("AUROC of features with the same id, in the mean", _mean_regression),
    "features.regression": ("AUROC of each alerting feature", _feature_regression),
}
"""What is judged, by its name in verdicts. Bounds are those of the design's quality gate."""


OF_READING = frozenset(
    {"fvu", "fvu.stated", "l0.stated", "sd_l0", "ce", "dead", "dense", "outliers", "fvu.regression", "l0.regression"}
)
"""Rows that a dictionary fails where it is read wrongly, and not only where its features are poor."""


# --- words ------------------------------------------------------------------------------------------------------------
def _under(value: float | None, most: float, why: str = "") -> Judged:
    bound = f"at most {most:.3g}{why}"
    return (TOO_LITTLE, "no tokens", bound) if value is None else (_is(value <= most), f"{value:.4g}", bound)


def _over(value: float, least: float) -> Judged:
    return _is(value >= least), f"{value:.4g}", f"at least {least:.3g}"


def _near(value: float | None, other: float, whose: str) -> Judged:
    bound = f"{0.8 * other:.4g} to {1.2 * other:.4g} (the {other:.4g} {whose}, within 20 %)"
    if value is None:
        return TOO_LITTLE, "no tokens", bound
    return _is(0.8 * other <= value <= 1.2 * other), f"{value:.4g}", bound


def _more(value: float | None, before: float | None, most: float) -> Judged:
    bound = f"at most {most:g} more"
    if value is None or before is None:
        return TOO_LITTLE, "no tokens", bound
    return _is(value - before <= most), f"{abs(value):.4g}, from {abs(before):.4g}", bound


def _is(good: bool) -> str:  # noqa: FBT001 - a comparison's outcome, and nothing else
    return PASSED if good else FAILED


def _named(names: Iterator[str] | tuple[str, ...] | list[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
