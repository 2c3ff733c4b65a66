"""From trained weights to a bundle: read, fold, check against the oracle, state, write.

A source folder holds what `saewatch.dictionary.formats` reads (a dictionary, probes, or both), and may hold the draft
of its features (``features.json``), what its authors state (``stated.json``: among it which tokens were left out) and
their quality sheet (``sheet.json``). Latents come first, then directions. In a
bundle of both, directions are rounded to the latents' type: each row is brought to a magnitude near 1 by a power of
two first, which float16 needs for small weights, and its limit and scale take the factor back exactly. Heads are
directions too: they keep their tensors in float32, and have rows of zeros.

The same inputs give the same bytes on every machine: sums run in a fixed order (`saewatch.engine.encode`), and the
conformance rows are answered in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saewatch.core import hookpoint
from saewatch.core.attestation import Attestation, Fit
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.core.fit import ModelFacts, verify_fit
from saewatch.core.manifest import BundleSheet, EncoderSheet, Exclusions, Folding, Manifest, check_encoder
from saewatch.dictionary.attest import (
    Oracle,
    conform,
    provenance,
    read_adapters,
    read_features,
    read_sheet,
    read_stated,
)
from saewatch.dictionary.bundle import Parts, write_bundle
from saewatch.dictionary.formats import Asked, Source, read_all, read_json
from saewatch.engine.dictionary_file import sheet_of
from saewatch.engine.encode import F32, F64, Folded, activation_of, fold, ordered_norm, raise_limits
from saewatch.engine.modelfacts import model_facts


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Converted:
    """A folded dictionary: its data sheet and tensors."""

    manifest: Manifest
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sources:
    """What was read of a folder, and the folder."""

    folder: Path
    latents: Source | None
    probes: Source | None
    hook_point: str | None = None
    """What was asked for, or is stated."""

    @property
    def first(self) -> Source:
        """The latents where there are some."""
        found = self.latents or self.probes
        assert found is not None, "read_sources refuses a folder without either"
        return found


def import_source(
    source: Path,
    model: Path | None,
    out: Path,
    *,
    name: str = "",
    asked: Asked | None = None,
    oracle: Oracle | None = None,
    threshold: float | None = None,
    replace_bundle: bool = False,
) -> BundleSheet:
    """Makes the bundle ``out`` from a source folder, for the model in ``model``: `read_sources`, then `make_bundle`."""
    found = read_sources(source, asked)
    return make_bundle(found, model, out, name=name, oracle=oracle, threshold=threshold, replace_bundle=replace_bundle)


def make_bundle(
    sources: Sources,
    model: Path | None,
    out: Path,
    *,
    name: str = "",
    oracle: Oracle | None = None,
    threshold: float | None = None,
    replace_bundle: bool = False,
) -> BundleSheet:
    """Makes the bundle ``out`` from what was read.

    Args:
        sources: latents, directions or both.
        model: the served model's folder (safetensors, config.json, tokenizer). Without one the bundle does not say
            which model it fits, and leaves out only the tokens that ``stated.json`` names.
        out: the bundle's folder.
        name: what the dictionary is called; else as the source folder.
        oracle: the library to check the fold against; without one the bundle has no conformance rows.
        threshold: for TopK, a value that stands in for the competition in the mode ``thresholded``.
        replace_bundle: put it in the place of another one.

    Raises:
        DictionaryError: the weights, features or stated figures are refused, or do not fit the model.
        ConfigError: ``out`` holds something else.
    """
    folder, latents, probes = sources.folder, sources.latents, sources.probes
    stated = read_stated(folder)
    facts, special = read_model(model) if model is not None else (None, ())
    rules = Exclusions(
        exclude_first=stated.exclude_first,
        special=special if stated.special is None else stated.special,
        max_norm=stated.max_norm,
    )
    converted = convert(latents, probes, exclusions=rules, hook_point=sources.hook_point, threshold=threshold)
    manifest = converted.manifest
    fit = None if facts is None else _fit(latents.model if latents else "", facts)
    if facts is not None:
        verify_fit(manifest, fit, facts)
    files = [file for part in (latents, probes) if part is not None for file in part.files]
    bodies = {
        "fit": {} if fit is None else fit.body(),
        "provenance": provenance(folder, files, name=name or folder.resolve().name),
        "stated": stated.body,
        "quality": read_sheet(folder),
    }
    listed = [
        *((kind, body) for kind, body in bodies.items() if body),
        *(("adapter", one) for one in read_adapters(folder)),
    ]
    attestations = [Attestation(kind=kind, weights=manifest.digest, body=body) for kind, body in listed]
    rows: Mapping[str, Tensor] = {}
    if oracle is not None:
        attested, rows = conform(manifest, converted.tensors, folder, oracle, norm=stated.mean_norm)
        attestations.append(attested)
    parts = Parts(
        manifest=manifest,
        tensors=converted.tensors,
        catalogue=read_features(folder, manifest.digest),
        attestations=attestations,
        rows=rows,
    )
    return write_bundle(parts, out, replace=replace_bundle)


def read_sources(path: Path, asked: Asked | None = None) -> Sources:
    """Latents and directions of a source folder, or of one file in it; see `formats.read_all` for what is refused.

    Where ``asked`` names no hook point, the one that ``stated.json`` names is taken to be asked for.
    """
    asked, folder = asked or Asked(), path if path.is_dir() else path.parent
    named = asked.hook_point or read_stated(folder).hook_point
    point = str(hookpoint.parse(named)) if named else None
    latents, probes = read_all(path, dataclasses.replace(asked, hook_point=point))
    return Sources(folder=folder, latents=latents, probes=probes, hook_point=point)


def convert(
    latents: Source | None,
    probes: Source | None = None,
    *,
    exclusions: Exclusions,
    hook_point: str | None = None,
    threshold: float | None = None,
) -> Converted:
    """Folds latents and directions into one dictionary. ManifestError or MisfitError where they do not go together."""
    first = latents or probes
    assert first is not None
    point = latents.hook_point if latents else hook_point
    if point is None or (hook_point is not None and hook_point != point):
        raise ManifestError(
            "hook.point",
            found=hook_point or "nothing",
            expected=point or "the probes' hook point",
            hint="stated.json names it as hook_point.",
        )
    if latents and probes and latents.W.shape[1] != probes.W.shape[1]:
        raise ManifestError("probes.w", found=f"width {probes.W.shape[1]}", expected=f"width {latents.W.shape[1]}")
    sheet = _encoder_sheet(first, latents, probes, thresholded=threshold is not None)
    check_encoder(sheet, "encoder")
    tensors = _decoder(latents) | _joined(latents, probes, threshold) | _heads(probes)
    manifest = Manifest(
        kind=first.kind,
        hook_point=point,
        hook_out=first.hook_out,
        exclusions=exclusions,
        encoder=sheet,
        folded=tuple(_foldings(latents, probes, threshold)),
        tensors={name: sheet_of(name, tensor) for name, tensor in tensors.items()},
    )
    return Converted(manifest=manifest, tensors=tensors)


def read_model(folder: Path) -> tuple[ModelFacts, tuple[int, ...]]:
    """Facts of a model's folder, and its tokenizer's special token ids. ManifestError where a file says nothing."""
    config = read_json(folder / "config.json")
    text = config.get("text_config", config)  # of a model that also sees pictures
    try:
        facts = model_facts(
            folder,
            architecture=str(config["architectures"][0]),
            d_model=int(text["n_embd" if "n_embd" in text else "hidden_size"]),  # GPT-2 has names of its own
            layers=int(text["n_layer" if "n_layer" in text else "num_hidden_layers"]),
        )
        added = read_json(folder / "tokenizer.json")["added_tokens"]
        special = sorted({int(token["id"]) for token in added if token["special"]})
    except (KeyError, IndexError, TypeError) as error:
        hint = "The folder should hold a transformers model with its tokenizer."
        raise ManifestError(
            str(folder), found=f"no {error}", expected="config.json and tokenizer.json", hint=hint
        ) from error
    return facts, tuple(special)


def _fit(name: str, facts: ModelFacts) -> Fit:
    return Fit(
        model=name,
        architecture=facts.architecture,
        d_model=facts.d_model,
        layers=facts.layers,
        weights=facts.weights,
        tokenizer=facts.tokenizer,
        chat_template=facts.chat_template,
    )


def _encoder_sheet(first: Source, latents: Source | None, probes: Source | None, *, thresholded: bool) -> EncoderSheet:
    d_in = first.W.shape[1]
    if thresholded and first.activation != "topk":
        raise ConfigError(
            "--threshold", found=first.activation, expected="TopK: other latents have limits of their own"
        )
    return EncoderSheet(
        activation=first.activation,
        latents=len(latents.W) if latents else 0,
        directions=len(probes.W) if probes else 0,
        d_in=d_in,
        d_out=d_in if first.W_dec is None else first.W_dec.shape[1],
        k=first.k,
        modes=("exact", "thresholded") if thresholded else ("exact",),
        input_norm=first.input_norm,
        heads=tuple(head.sheet for head in probes.heads) if probes else (),
    )


def _joined(latents: Source | None, probes: Source | None, threshold: float | None) -> dict[str, Tensor]:
    """The encoder's tensors, latents before directions."""
    dtype = latents.W.dtype if latents else torch.float32
    parts = [_fold_latents(latents)] if latents else []
    parts += [_fold_directions(probes, dtype)] if probes else []
    columns = [torch.cat([torch.from_numpy(getattr(f, name)) for _, f in parts]) for name in ("lim", "s", "c")]
    tensors = {"W": torch.cat([W for W, _ in parts]), "lim": columns[0], "s": columns[1], "c": columns[2]}
    if threshold is not None:
        floor = np.zeros(len(columns[0]), dtype=np.float32)
        floor[: len(latents.W) if latents else 0] = threshold
        folded = Folded(*(column.numpy() for column in columns))
        tensors["lim_thresholded"] = torch.from_numpy(raise_limits(folded, floor).lim)
    return tensors


def _heads(probes: Source | None) -> dict[str, Tensor]:
    found = probes.heads if probes else ()
    return {one.sheet.name(name): tensor for one in found for name, tensor in one.tensors.items()}


def _fold_latents(source: Source) -> tuple[Tensor, Folded]:
    vectors = {name: _f64(vector) for name, vector in source.vectors.items()}
    if "decoder_norm" in activation_of(source.activation).vectors:
        assert source.W_dec is not None
        vectors["decoder_norm"] = ordered_norm(source.W_dec) if source.rescaled else np.ones(len(source.W))
    pre_bias = _f64(source.b_dec) if source.pre_bias and source.b_dec is not None else None
    return source.W, fold(source.activation, vectors, W=source.W, pre_bias=pre_bias)


def _fold_directions(source: Source, dtype: torch.dtype) -> tuple[Tensor, Folded]:
    folded = fold("linear", {"b_enc": _f64(source.vectors["b_enc"])})
    if dtype == torch.float32:
        return source.W, folded
    rows, factor = _near_one(source.W)
    return rows.to(dtype), dataclasses.replace(folded, lim=folded.lim * factor, s=folded.s / factor)


def _near_one(W: Tensor) -> tuple[Tensor, F32]:
    """Each row by a power of two, so that its largest weight comes to lie in [1/2, 1); and the factors."""
    _, exponent = np.frexp(W.abs().amax(dim=1).numpy())
    factor = np.ldexp(np.float32(1.0), -exponent)
    return W * torch.from_numpy(factor)[:, None], factor


def _decoder(latents: Source | None) -> dict[str, Tensor]:
    if latents is None or latents.W_dec is None or latents.b_dec is None:
        return {}
    W_dec = latents.W_dec
    if latents.rescaled:  # its values are multiplied by the norms, so its rows are divided by them
        norms = torch.from_numpy(ordered_norm(W_dec))[:, None]
        W_dec = torch.where(norms > 0, W_dec.double() / norms, 0.0).float()
    return {"W_dec": W_dec.contiguous(), "b_dec": latents.b_dec}


def _foldings(latents: Source | None, probes: Source | None, threshold: float | None) -> list[Folding]:
    found = list(latents.folded) if latents else []
    if latents and latents.pre_bias:
        found.append(Folding(what="pre_bias"))
    if latents and latents.rescaled:
        found.append(Folding(what="decoder_norm"))
    if threshold is not None:
        found.append(Folding(what="threshold", constant=threshold))
    if latents and probes and latents.W.dtype != torch.float32:
        rows, _ = _near_one(probes.W)
        if not torch.equal(rows.to(latents.W.dtype).float(), rows):
            found.append(Folding(what="rounding"))
    return found


def _f64(vector: Tensor) -> F64:
    return np.asarray(vector.double().numpy(), dtype=np.float64)
