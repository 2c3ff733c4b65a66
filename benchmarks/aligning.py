"""Dictionaries that resemble the fixture's more and less, and what its features are worth on each of them.

``permuted``     the same latents in another order, each with values of another scale
``continued``    trained on from the fixture's own, at a low rate, on other dialogues
``other_seed``   the fixture's own recipe and text, from another seed
``wider``        the same with twice as many latents
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from dictionaries.bundles import SHIPPED
from dictionaries.train import build, dataset, evaluate, sae, source
from dictionaries.train.build import SETTINGS, Settings
from dictionaries.train.capture import Reader
from dictionaries.train.corpus import Generator
from dictionaries.train.dataset import Example
from dictionaries.train.sae import Autoencoder
from saewatch.core import aggregate
from saewatch.core.aggregate import Firings
from saewatch.core.batch import F64
from saewatch.dictionary.area import RESAMPLES, Resamples, auroc, interval, resampled
from saewatch.dictionary.bundle import Parts, read_parts
from saewatch.dictionary.convert import import_source
from saewatch.score import Exchange, Scorer
from tests.dictionary.aligned import permuted

SEED = 21
STEPS, RATE = 300, 3e-4
"""Of training on: a quarter of the steps from nothing, at a fifth of the rate."""
OF = SHIPPED["fixture"]


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """The old dictionary, and the texts that it is compared on."""

    settings: Settings
    old: Parts
    reader: Reader
    model: Any
    shared: Sequence[tuple[list[int], Tensor]]
    """Tokens and rows of texts that both dictionaries read."""
    labelled: Sequence[Example]
    held_out: Tensor
    """Their rows, ``[T, d_in]``."""
    before: Scored
    """The old dictionary's features on them."""


def prepared(*, quick: bool) -> Ground:
    """Half b of the phrases, whose lines no probe was fitted to: one draw to compare on, another to judge with."""
    settings = SETTINGS["fixture"]
    if quick:
        recipe = replace(settings.recipe, steps=60)
        settings = replace(settings, recipe=recipe, hazards=4, innocents=40, tested=(4, 60, 0))
    scorer = Scorer.load(OF.model, OF.bundle, progress=False)
    reader, old = Reader(OF.model, settings.layer), read_parts(OF.bundle)
    drawn = Generator("b", seed=SEED)
    hazards, innocents, _ = settings.tested
    shared = dataset.examples(reader, drawn.hazards(hazards) + drawn.innocents(innocents))
    labelled = dataset.examples(reader, build.tested_requests(settings))
    rows = dataset.captured(reader, labelled, max_norm=old.manifest.exclusions.max_norm).capture.x
    before = scored(scorer.model, OF.bundle, labelled)
    read = list(scorer.rows([one.ids for one in shared]))
    return Ground(settings, old, reader, scorer.model, read, labelled, rows, before)


# --- new dictionaries -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A new dictionary. ``went``: where each old latent is, where that is known."""

    parts: Parts
    fvu: float | None = None
    went: Sequence[int] = ()


def rescaled(ground: Ground, _: Path) -> Made:
    """Scales from a half to two, each latent its own."""
    chance = torch.Generator().manual_seed(SEED)
    scale = torch.exp2(2 * torch.rand(ground.old.manifest.encoder.latents, generator=chance) - 1)
    new, went = permuted(ground.old, scale)
    fit = [replace(one, weights=new.manifest.digest) for one in ground.old.attestations if one.kind == "fit"]
    return Made(replace(new, attestations=fit), went=went)


def continued(ground: Ground, folder: Path) -> Made:
    """From what ships, its matrices in float16, on dialogues that it was not trained on."""
    recipe = ground.settings.recipe
    gentle = replace(recipe, k_start=recipe.k, steps=min(STEPS, recipe.steps), rate=RATE, seed=SEED)
    start = Autoencoder(**{name: one.float() for name, one in load_file(OF.source / "sae_weights.safetensors").items()})
    trained, _ = sae.train(_rows(ground, seed=SEED), gentle, start=start)
    return _imported(ground, trained, folder)


def other_seed(ground: Ground, folder: Path, *, times: int = 1) -> Made:
    """The recipe as it was, from another seed; ``times`` as wide."""
    recipe = ground.settings.recipe
    trained, _ = sae.train(_rows(ground, seed=0), replace(recipe, width=times * recipe.width, seed=SEED))
    return _imported(ground, trained, folder)


def wider(ground: Ground, folder: Path) -> Made:
    """Twice as many latents."""
    return other_seed(ground, folder, times=2)


CELLS: Mapping[str, Callable[[Ground, Path], Made]] = {
    "permuted": rescaled,
    "continued": continued,
    "other_seed": other_seed,
    "wider": wider,
}


def _rows(ground: Ground, *, seed: int) -> Tensor:
    """What the fixture's autoencoder was trained on (seed 0), or other dialogues of the same kind."""
    requests = build.training_requests(ground.settings, seed=seed)
    limit = ground.old.manifest.exclusions.max_norm
    seen = dataset.captured(ground.reader, dataset.examples(ground.reader, requests), max_norm=limit)
    return build.training_rows(seen, ground.settings)


def _imported(ground: Ground, trained: Autoencoder, folder: Path) -> Made:
    """Through the source's files and the importer, as any other dictionary; without features and directions."""
    settings, rules = ground.settings, ground.old.manifest.exclusions
    figures = sae.stated(sae.halved(trained), ground.held_out)
    source.write_sae(
        trained, folder / "source", model_name=settings.model_name, layer=settings.layer, matrices=settings.matrices
    )
    left_out = {"exclude_first": rules.exclude_first, "exclude_special": list(rules.special)}
    source.write_json(folder / "source/stated.json", {**figures, **left_out, "max_norm": rules.max_norm})
    import_source(folder / "source", OF.model, folder / "bundle")
    return Made(read_parts(folder / "bundle"), fvu=figures["fvu"])


# --- what features are worth ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A dictionary's features on the labelled requests."""

    ids: Mapping[str, int]
    scores: F64  # [features, R]
    firings: Firings


def scored(model: Any, bundle: Path, labelled: Sequence[Example]) -> Scored:
    """As the tap serves it."""
    scorer = Scorer(model, None, bundle)
    given = [Exchange(one.ids[: one.prompt_tokens], one.ids[one.prompt_tokens :]) for one in labelled]
    requests, firings = scorer.together(scorer.each(given)).columns()
    features = scorer.table.features
    ids = {one.id: number for number, one in enumerate(features)}
    return Scored(ids, aggregate.scores(features, requests, firings), firings)


def losses(ground: Ground, after: Scored, moved: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """What each feature tells apart on the old dictionary and on the new one: AUROC, and the loss with its interval.

    Args:
        ground: the requests, and their scores on the old dictionary; templates are resampled.
        after: on the new one.
        moved: old ids and new ones.
    """
    draws, requests = Resamples(RESAMPLES, seed=SEED), [one.request for one in ground.labelled]
    for old, new in moved:
        concept = old.partition(".")[0]
        sides = evaluate.members(requests, concept, "innocent")
        drawn = [
            draws.of(f"{concept} {side}", [requests[i].template for i in own])
            for side, own in zip("+-", sides, strict=True)
        ]
        values, samples = [], []
        for scores in (ground.before.scores[ground.before.ids[old]], after.scores[after.ids[new]]):
            own = scores[sides[0]], scores[sides[1]]
            values.append(auroc(*own))
            samples.append(resampled(*own, (drawn[0], drawn[1])))
        loss = interval(values[0] - values[1], samples[0] - samples[1])
        yield {
            "feature": old,
            "now": new,
            "positives": len(sides[0]),
            "negatives": len(sides[1]),
            "old": round(values[0], 4),
            "new": round(values[1], 4),
            "loss": round(loss.value, 4),
            "loss_low": round(loss.low, 4),
            "loss_high": round(loss.high, 4),
        }


def same_bits(before: Scored, after: Scored, moved: Sequence[tuple[str, str]]) -> list[bool]:
    """Of each feature: whether it fires on the same tokens with the same values, bit by bit."""
    return [
        all(np.array_equal(one, other) for one, other in zip(_of(before, old), _of(after, new), strict=True))
        for old, new in moved
    ]


def _of(one: Scored, name: str) -> tuple[np.ndarray[Any, Any], ...]:
    """Request, position and the value's bits of a feature's firings, in order."""
    own = one.firings.feature == one.ids[name]
    columns = (one.firings.request[own], one.firings.position[own], one.firings.value[own].view(np.uint32))
    order = np.lexsort(columns[1::-1])
    return tuple(column[order] for column in columns)
