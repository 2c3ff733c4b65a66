"""What went wrong? The usual ways of reading a dictionary wrongly, each with a way to try it.

Most mistakes can be undone: what was lost is put back, and if unexplained variance and L0 then are those that are
stated, that was it. "Looks like a lost normalisation: undone, FVU is 0.14 instead of 1.65" says more than "FVU 1.65".
Rows of a few other places in the model are tried too: a dictionary that explains those as stated was trained there.
What no attempt explains is named after the nearest row of a table of figures, as each mistake left them on one
dictionary (the demo's first one: FVU 0.147, L0 30.5); that is a guess, and is called one. Three mistakes move no
figure that rests on text: rounded thresholds, rounded weights and a centred residual stream. Only the dictionary's own
library shows them (`conformance`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saewatch.core.manifest import Exclusions, InputNorm
from saewatch.dictionary.coder import Coder
from saewatch.dictionary.figures import unexplained
from saewatch.dictionary.sample import Sample

FAR = 5.0
"""A row of more than so many median norms is an outlier: 63 of 405,756 tokens of SmolLM2, none of most texts."""
_FVU, _L0 = math.log(1.3), math.log(1.25)
"""How near figures have to come to the stated ones to explain a mistake."""
_FITTED = 0.3
"""A handicap for attempts with a number that is fitted to the very figures that they are judged by."""
_CELLS = 2**22  # values that are looked at together: 16 MiB


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """A dictionary that fails, rows that it read, and what should have come out."""

    coder: Coder
    rules: Exclusions
    x: Tensor  # [n, d_in] rows that take part
    plain: Tensor  # [n] bool: not the first token of a text, and none that the tokenizer calls special
    fvu: float
    l0: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attempt:
    """A dictionary and rows with one mistake undone."""

    coder: Coder
    x: Tensor
    fitted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """A mistake, and the figures that it left: FVU and L0 as multiples of the right ones, and dead latents' share."""

    says: str
    undo: Callable[[Scene], Iterator[Attempt]] | None = None
    left: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The mistake that explains the figures best."""

    trap: str
    says: str
    evidence: str
    guess: bool = False
    """Named after the nearest figures, without an attempt that explains them."""

    def __str__(self) -> str:
        return f"{'may be' if self.guess else 'looks like'} {self.says}: {self.evidence}"


# --- attempts ---------------------------------------------------------------------------------------------------------
def _thresholds(scene: Scene) -> Iterator[Attempt]:
    """One threshold for all latents, at which L0 is as stated."""
    pre = scene.coder.pre(scene.x[: max(1, _CELLS // max(1, scene.coder.sheet.latents))])
    count = round(scene.l0 * len(pre))
    if not 0 < count < pre.numel():
        return
    at = float(pre.flatten().topk(count).values[-1])
    wanted = torch.full((scene.coder.sheet.latents,), max(at, 0.0))
    yield Attempt(coder=scene.coder.with_thresholds(wanted), x=scene.x, fitted=True)


def _lost_threshold(scene: Scene) -> Iterator[Attempt]:
    if _l0(scene.coder, scene.x) > scene.l0 and not _varied(scene.coder):
        yield from _thresholds(scene)
        yield Attempt(coder=replace(scene.coder, top=max(1, round(scene.l0))), x=scene.x, fitted=True)


def _high_threshold(scene: Scene) -> Iterator[Attempt]:
    """All thresholds lower by one factor, at which L0 is as stated."""
    if _l0(scene.coder, scene.x) > scene.l0:
        return
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        lower = scene.coder.with_thresholds(middle * scene.coder.thresholds)
        low, high = (middle, high) if _l0(lower, scene.x[:512]) > scene.l0 else (low, middle)
    yield Attempt(coder=scene.coder.with_thresholds(high * scene.coder.thresholds), x=scene.x, fitted=True)


def _one_threshold(scene: Scene) -> Iterator[Attempt]:
    """Where thresholds differ, and one for all of them explains the figures: norms were folded into something else."""
    if _varied(scene.coder):
        yield from _thresholds(scene)


def _varied(coder: Coder) -> bool:
    above = coder.thresholds[coder.thresholds > 0]
    return len(above) > 1 and float(above.log().std()) > 0.05


def _fixed_number(scene: Scene) -> Iterator[Attempt]:
    """Where a fixed number wins on each row, one threshold instead."""
    if scene.coder.sheet.k is not None or scene.coder.top is not None:
        free = replace(scene.coder, sheet=replace(scene.coder.sheet, k=None), top=None)
        yield from (replace(one, fitted=False) for one in _thresholds(replace(scene, coder=free)))


def _exponential(scene: Scene) -> Iterator[Attempt]:
    wanted = scene.coder.thresholds.clamp(max=80.0).exp()
    yield Attempt(coder=scene.coder.with_thresholds(wanted), x=scene.x)


def _logarithm(scene: Scene) -> Iterator[Attempt]:
    wanted = scene.coder.thresholds
    if bool((wanted > 0).all()):
        yield Attempt(coder=scene.coder.with_thresholds(wanted.log()), x=scene.x)


def _unit(x: Tensor) -> float:
    """The constant that brings rows to the norm of the root of their width, in the mean."""
    return float(x.shape[1] ** 0.5 / torch.linalg.vector_norm(x, dim=1).mean())


def _normalised(scene: Scene) -> Iterator[Attempt]:
    yield Attempt(coder=replace(scene.coder, scale=_unit(scene.x)), x=scene.x)
    for norm in (InputNorm(kind="constant_norm_rescale"), InputNorm(kind="layer_norm", eps=1e-5)):
        if scene.coder.sheet.input_norm.kind == "none":
            yield Attempt(coder=_with_norm(scene.coder, norm), x=scene.x)


def _raw(scene: Scene) -> Iterator[Attempt]:
    yield Attempt(coder=replace(scene.coder, scale=1.0 / _unit(scene.x)), x=scene.x)
    if scene.coder.sheet.input_norm.kind != "none":
        yield Attempt(coder=_with_norm(scene.coder, InputNorm()), x=scene.x)


def _with_norm(coder: Coder, norm: InputNorm) -> Coder:
    return replace(coder, sheet=replace(coder.sheet, input_norm=norm))


def _shifted(sign: float) -> Callable[[Scene], Iterator[Attempt]]:
    def undo(scene: Scene) -> Iterator[Attempt]:
        if scene.coder.b_dec is not None and len(scene.coder.b_dec) == scene.x.shape[1]:
            yield Attempt(coder=replace(scene.coder, shift=sign * scene.coder.b_dec), x=scene.x)

    return undo


def _unit_decoder(scene: Scene) -> Iterator[Attempt]:
    if scene.coder.W_dec is not None:
        rows = torch.nn.functional.normalize(scene.coder.W_dec, dim=1)
        yield Attempt(coder=replace(scene.coder, W_dec=rows), x=scene.x)


def _later(scene: Scene) -> Iterator[Attempt]:
    if not bool(scene.plain.all()):
        yield Attempt(coder=scene.coder, x=scene.x[scene.plain])


def _nearer(scene: Scene) -> Iterator[Attempt]:
    if scene.rules.max_norm is None:
        yield Attempt(coder=scene.coder, x=scene.x[~far_rows(scene.x)])


TRAPS: Mapping[str, Trap] = {
    "threshold_lost": Trap(
        says="a threshold that is lost, or TopK read as ReLU (or a log threshold below 1 read as plain)",
        undo=_lost_threshold,
        left=(2.13, 17.8, 0.0),
    ),
    "threshold_too_high": Trap(says="thresholds higher than those it was trained with", undo=_high_threshold),
    "topk_for_threshold": Trap(
        says="a TopK of each token in place of a threshold", undo=_fixed_number, left=(1.18, 1.05, 0.0)
    ),
    "log_threshold_read_as_plain": Trap(
        says="a threshold's logarithm read as the threshold", undo=_exponential, left=(1.85, 7.9, 0.0)
    ),
    "plain_threshold_read_as_log": Trap(
        says="a threshold read as its logarithm", undo=_logarithm, left=(6.87, 0.001, 1.0)
    ),
    "normalisation_lost": Trap(
        says="a lost normalisation: it was trained on normalised rows and reads raw ones",
        undo=_normalised,
        left=(11.2, 25.0, 0.0),
    ),
    "normalised_twice": Trap(
        says="a normalisation too many: it was trained on raw rows", undo=_raw, left=(95.2, 0.78, 0.86)
    ),
    "pre_bias_lost": Trap(
        says="a lost pre-bias: b_dec is not subtracted from what it reads", undo=_shifted(-1.0), left=(14.2, 5.54, 0.0)
    ),
    "pre_bias_added": Trap(
        says="a pre-bias too many: b_dec is subtracted from what it reads", undo=_shifted(1.0), left=(5.12, 1.93, 0.0)
    ),
    "decoder_norm_not_divided": Trap(
        says="decoder norms folded into the encoder, and W_dec not divided by them", undo=_unit_decoder
    ),
    "decoder_norm_without_threshold": Trap(
        says="decoder norms folded into the encoder, and not into the threshold",
        undo=_one_threshold,
        left=(5.86, 1.6, 0.0),
    ),
    "decoder_as_encoder": Trap(says="W_dec taken for W_enc", left=(70.7, 9.74, 0.0)),
    "first_token": Trap(says="first or special tokens read, which it was not trained on", undo=_later),
    "outlier_norms": Trap(says="rows of an extreme norm read, which it was not trained on", undo=_nearer),
    "other_place": Trap(says="another place in the model than the one it was trained at"),
}
"""Mistakes by name. Figures that they left are those of the design's table of traps."""


# --- judging ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    trap: str
    fvu: float
    l0: float
    distance: float
    cost: float
    where: str = ""


def diagnose(scene: Scene, elsewhere: Iterable[tuple[str, Tensor]] = ()) -> Diagnosis | None:
    """The mistake that explains why figures are not those of ``scene``; None where nothing comes near.

    ``elsewhere``: rows ``[n, d_in]`` of other places in the model, by hook point.
    """
    found = _figures(scene.coder, scene.x)
    tied = _tied(scene.coder)
    if tied:
        return tied
    tried = [_tried(name, one, scene) for name, trap in TRAPS.items() if trap.undo for one in trap.undo(scene)]
    for place, x in elsewhere:
        one = _tried("other_place", Attempt(coder=scene.coder, x=x), scene)
        tried.append(replace(one, where=place))
    near = [one for one in tried if one.distance <= min(1.0, _distance(found, scene) - 0.2)]
    best = min(near, key=lambda one: one.cost, default=None)
    if best is not None:
        return _explained(best, found)
    return _nearest(found, scene)


def _explained(best: _Tried, found: tuple[float, float, float]) -> Diagnosis:
    undone = f"at {best.where}" if best.where else "undone"
    evidence = (
        f"{undone}, FVU is {best.fvu:.3g} instead of {found[0]:.3g} and L0 {best.l0:.3g} instead of {found[1]:.3g}"
    )
    says = TRAPS[best.trap].says + (f" ({best.where})" if best.where else "")
    return Diagnosis(trap=best.trap, says=says, evidence=evidence)


def _nearest(found: tuple[float, float, float], scene: Scene) -> Diagnosis | None:
    """By the logarithms of FVU and L0 over the stated ones, and dead latents' share."""
    fvu, l0, dead = found
    if not (math.isfinite(fvu) and fvu > 0) or _distance(found, scene) <= 1.0:
        return None
    own = (math.log(fvu / scene.fvu), math.log(max(l0, 1e-3) / scene.l0), 3.0 * dead)
    distances = {
        name: math.dist(own, (math.log(trap.left[0]), math.log(trap.left[1]), 3.0 * trap.left[2]))
        for name, trap in TRAPS.items()
        if trap.left is not None
    }
    name = min(distances, key=lambda one: distances[one])
    evidence = f"of the known mistakes it leaves the nearest figures (FVU {fvu:.3g}, L0 {l0:.3g}, {dead:.0%} dead)"
    return Diagnosis(trap=name, says=TRAPS[name].says, evidence=evidence, guess=True)


def _tied(coder: Coder) -> Diagnosis | None:
    """Where the encoder is the decoder, row by row."""
    if coder.W_dec is None or coder.W_dec.shape[1] != coder.W.shape[1] or not len(coder.W_dec):
        return None
    latents = coder.W[: len(coder.W_dec)]
    cosine = torch.nn.functional.cosine_similarity(latents, coder.W_dec, dim=1)
    if float(cosine.min()) < 0.9999:
        return None
    evidence = "both have the same rows"
    return Diagnosis(trap="decoder_as_encoder", says=TRAPS["decoder_as_encoder"].says, evidence=evidence)


def _tried(name: str, one: Attempt, scene: Scene) -> _Tried:
    found = _figures(one.coder, one.x)
    distance = _distance(found, scene)
    cost = distance + (_FITTED if one.fitted else 0.0)
    return _Tried(trap=name, fvu=found[0], l0=found[1], distance=distance, cost=cost)


def _distance(found: tuple[float, float, float], scene: Scene) -> float:
    """0: as stated; up to 1: near enough."""
    fvu, l0, _ = found
    if not (math.isfinite(fvu) and fvu > 0 and l0 > 0):
        return math.inf
    return max(abs(math.log(fvu / scene.fvu)) / _FVU, abs(math.log(l0 / scene.l0)) / _L0)


def _figures(coder: Coder, x: Tensor) -> tuple[float, float, float]:
    """FVU, L0 and the share of dead latents on rows."""
    if len(x) < 2:
        return math.nan, 0.0, 1.0
    parts = [(values[:, : coder.sheet.latents], decoded) for _, values, decoded in coder.both(x)]
    values = torch.cat([one for one, _ in parts])
    decoded = torch.cat([one for _, one in parts if one is not None])
    fires = values > 0
    fvu = unexplained(x, decoded) if len(decoded) else None
    return math.nan if fvu is None else fvu, float(fires.sum(1).double().mean()), float((~fires.any(0)).double().mean())


def _l0(coder: Coder, x: Tensor) -> float:
    fired = sum(int((values[:, : coder.sheet.latents] > 0).sum()) for _, values, _ in coder.both(x))
    return fired / max(len(x), 1)


# --- rows -------------------------------------------------------------------------------------------------------------
def far_rows(x: Tensor) -> Tensor:
    """Rows ``[n, d]`` of more than `FAR` median norms, ``[n]`` bool."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=1)
    return norms > FAR * norms.median() if len(norms) else norms.bool()


def far_share(x: Tensor) -> float | None:
    """The share of the variance that those rows hold; None without variance."""
    if len(x) < 2:
        return None
    squares = (x - x.mean(0)).double().square().sum(1)
    return float(squares[far_rows(x)].sum() / squares.sum()) if float(squares.sum()) > 0 else None


def scene_of(
    coder: Coder, rules: Exclusions, sample: Sample, *, special: Sequence[int], fvu: float, l0: float
) -> Scene:
    """Of the kept rows those that take part, so many that their values fit. ``special``: of the model's tokenizer."""
    norms = torch.linalg.vector_norm(sample.x, dim=1)
    taken = (sample.positions >= rules.exclude_first) & ~torch.isin(sample.ids, torch.tensor(rules.special))
    if rules.max_norm is not None:
        taken &= norms <= rules.max_norm
    rows = taken.nonzero().flatten()[: max(256, _CELLS // max(1, coder.sheet.rows))]
    plain = (sample.positions > 0) & ~torch.isin(sample.ids, torch.tensor(list(special), dtype=torch.int64))
    return Scene(coder=coder, rules=rules, x=sample.x[rows], plain=plain[rows], fvu=fvu, l0=l0)
