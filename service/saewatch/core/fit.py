"""Whether a dictionary fits the model that is served, and how much of that is proven.

The model digest is over the sorted digests of its tensors, so that shards do not matter. Where an engine cannot
compute it (it takes a pass over all weights), the tokenizer, the chat template and the configuration are compared,
and the proof is called by that weaker name. A dictionary without a ``fit`` attestation is only checked for shape.

An adapter (LoRA) changes what the model computes, and the digest says nothing of it. So a dictionary's fit to a request
that went through one is *unverified*, unless its bundle attests that it was evaluated on that adapter.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from saewatch.core import hookpoint
from saewatch.core.attestation import Fit
from saewatch.core.errors import MisfitError
from saewatch.core.manifest import Manifest

PROOFS = ("shape", "config", "weights")
"""Levels of proof, weakest first."""


class AdapterFit(enum.StrEnum):
    """How far a dictionary is known to fit the adapter that a request went through."""

    BASE = "base"  # no adapter
    UNVERIFIED = "unverified"
    ATTESTED = "attested"


def adapter_fit(adapter: str, attested: Collection[str]) -> AdapterFit:
    """Of a request through ``adapter`` (empty: none), where these adapters are ``attested``, by their names."""
    if not adapter:
        return AdapterFit.BASE
    return AdapterFit.ATTESTED if adapter in attested else AdapterFit.UNVERIFIED


def weakest(adapter: str, attested: Collection[frozenset[str]]) -> AdapterFit:
    """The same of several dictionaries together: attested where each of them is; of none nobody attests anything."""
    return adapter_fit(adapter, frozenset.intersection(*attested) if attested else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of the served model. Empty text: not known."""

    architecture: str
    d_model: int
    layers: int
    weights: str = ""
    tokenizer: str = ""
    chat_template: str = ""


def verify_fit(manifest: Manifest, fit: Fit | None, facts: ModelFacts) -> str:
    """The level of proof (one of PROOFS) that the dictionary was made for this model; MisfitError if it was not."""
    _check_shape(manifest, facts)
    if fit is None:
        return "shape"
    for name in ("architecture", "d_model", "layers"):
        _same(f"model {name}", getattr(facts, name), getattr(fit, name), fit)
    compared = [_same_digest(name, facts, fit) for name in ("tokenizer", "chat_template")]
    if _same_digest("weights", facts, fit):
        return "weights"
    return "config" if compared[0] else "shape"


def _check_shape(manifest: Manifest, facts: ModelFacts) -> None:
    point = hookpoint.parse(manifest.hook_point)
    if point.layer >= facts.layers:
        hint = "Layers count from 0."
        raise MisfitError(
            f"hook point {point}",
            found=f"a model of {facts.layers} layers",
            expected=f"more than {point.layer} layers",
            hint=hint,
        )
    if point.point.startswith("resid") and manifest.encoder.d_in != facts.d_model:
        hint = "The dictionary was made for a model of another width."
        raise MisfitError(
            "dictionary.encoder.d_in",
            found=manifest.encoder.d_in,
            expected=f"{facts.d_model}, the model's width",
            hint=hint,
        )


def _same_digest(name: str, facts: ModelFacts, fit: Fit) -> bool:
    found, expected = getattr(facts, name), getattr(fit, name)
    if not found or not expected:
        return False
    _same(f"model {name}", found, expected, fit)
    return True


def _same(subject: str, found: object, expected: object, fit: Fit) -> None:
    if found != expected:
        hint = (
            f"The dictionary was made for {fit.model or 'another model'}; serve that one, or import it anew for this."
        )
        raise MisfitError(subject, found=found, expected=expected, hint=hint)
