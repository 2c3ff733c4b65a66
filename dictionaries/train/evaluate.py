"""Score every method on held-out templates and on the hand-written requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dictionaries.train.corpus import Request, families
from dictionaries.train.dataset import Labelled
from dictionaries.train.sae import Autoencoder
from dictionaries.train.scores import Maxima, maxima
from saewatch.dictionary.area import area
from saewatch.dictionary.baselines import BagOfWords
from saewatch.dictionary.choose import Group, choose

Floats = NDArray[np.float64]
SETS = ("held_out", "handwritten")


@dataclass(frozen=True, slots=True)
class View:
    """A set of requests and what each method sees of them."""

    requests: list[Request]
    probes: Maxima
    latents: Maxima
    random: Maxima


def view(found: Labelled, probes: tuple[Tensor, Tensor], sae: Autoencoder, random: Autoencoder) -> View:
    """Request maxima of probes, latents and random latents."""
    w, b = probes
    width = sae.W_enc.shape[1]
    return View(
        found.requests,
        maxima(found, lambda x: x @ w.T + b, len(b)),
        maxima(found, sae.encode, width),
        maxima(found, random.encode, width),
    )


@dataclass(frozen=True, slots=True)
class Chosen:
    """What half a gave for one concept."""

    group: Group
    random_group: Group
    words: BagOfWords


def chosen(seen: View) -> dict[str, Chosen]:
    """For every concept, from the view of half a."""
    return {concept: _chosen(seen, concept) for concept in families()}


def _chosen(seen: View, concept: str) -> Chosen:
    positive, negative = members(seen.requests, concept, "innocent")
    latents, random = _array(seen.latents.scope(concept)), _array(seen.random.scope(concept))
    texts = _texts(seen.requests, concept)
    return Chosen(
        choose(latents[positive], latents[negative]),
        choose(random[positive], random[negative]),
        BagOfWords([texts[i] for i in positive], [texts[i] for i in negative]),
    )


def members(requests: Sequence[Request], concept: str, against: str) -> tuple[list[int], list[int]]:
    """Numbers of the requests that carry the concept, and of the innocent ones (or the confounds) to tell them from."""
    reply_side = families()[concept].reply_side
    fit = [i for i, r in enumerate(requests) if not reply_side or r.reply]
    positive = [i for i in fit if concept in requests[i].concepts and requests[i].kind != "paraphrase"]
    kinds = INNOCENT if against == "innocent" else ("confound",)
    negative = [i for i in fit if not requests[i].concepts and requests[i].kind in kinds]
    if not reply_side:
        negative = [i for i in negative if requests[i].kind != "handwritten.reply"]
    return positive, negative


INNOCENT = (
    "hard", "topic", "reply", "prose", "handwritten.hard_negative", "handwritten.benign", "handwritten.reply",
)  # fmt: skip


def figures(seen: View, concept: str, made: Chosen, *, against: str = "innocent") -> dict[str, list[float]]:
    """AUROC with its interval for each method."""
    positive, negative = members(seen.requests, concept, against)
    clusters = ([seen.requests[i].template for i in positive], [seen.requests[i].template for i in negative])
    out = {}
    for name, scores in method_scores(seen, concept, made).items():
        out[name] = area(scores[positive], scores[negative], clusters).as_json()
    return out


def method_scores(seen: View, concept: str, made: Chosen) -> dict[str, Floats]:
    """[R] for each method."""
    number = list(families()).index(concept)
    latents, random = _array(seen.latents.scope(concept)), _array(seen.random.scope(concept))
    return {
        "probe": _array(seen.probes.scope(concept))[:, number],
        "group": made.group.score(latents),
        "single": made.group.single_score(latents),
        "words": made.words.score(_texts(seen.requests, concept)),
        "random_group": made.random_group.score(random),
        "random_single": made.random_group.single_score(random),
    }


def _texts(requests: Sequence[Request], concept: str) -> list[str]:
    return [r.reply if families()[concept].reply_side else r.prompt for r in requests]


def _array(values: Tensor) -> Floats:
    """As numpy; an empty scope scores lowest."""
    return torch.nan_to_num(values, neginf=-1e9).double().numpy()


def means(table: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The mean AUROC over concepts by method."""
    methods = next(iter(table.values())).keys()
    return {name: round(float(np.mean([row[name][0] for row in table.values()])), 4) for name in methods}


def innocent_spread(seen: View) -> list[float]:
    """Per probe, the standard deviation of innocent requests' scores."""
    out = []
    for number, concept in enumerate(families()):
        _, negative = members(seen.requests, concept, "innocent")
        out.append(float(_array(seen.probes.scope(concept))[negative, number].std()))
    return out


def moved(concepts: Sequence[str], scores: Maxima, spread: Sequence[float]) -> dict[str, float]:
    """Per concept, the mean |difference| of its pairs' scores, in units of `spread`. Requests come two by two."""
    found: dict[str, list[float]] = {}
    for pair, concept in enumerate(concepts):
        number = list(families()).index(concept)
        one, other = _array(scores.scope(concept))[2 * pair : 2 * pair + 2, number]
        found.setdefault(concept, []).append(abs(one - other) / spread[number])
    return {concept: round(float(np.mean(values)), 3) for concept, values in found.items()}
