"""Baselines as folders: an attestation, and beside it the numbers, which it names by their digests.

``baseline.json`` is an attestation of kind `baseline` about the dictionary's weights; ``baseline.safetensors`` holds
the arrays. A folder is read strictly: other shapes or types, a number that is none, or numbers that are not those
attested are refused, each by name.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from saewatch.core import canonical, limits
from saewatch.core.attestation import Attestation, read_attestation
from saewatch.core.canonical import Json, decimal_text
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.fields import Fields
from saewatch.core.tensorfile import read_header, tensor_digest
from saewatch.edge import amendments
from saewatch.monitor.drift.cofiring import Pairs
from saewatch.monitor.drift.counts import BETAS
from saewatch.monitor.drift.fit import Fitted
from saewatch.monitor.drift.known import About, KnownBaseline
from saewatch.monitor.drift.latents import Latents
from saewatch.monitor.drift.overall import STATISTICS
from saewatch.monitor.drift.pairs import BUCKETS
from saewatch.monitor.drift.panel import PROMPTS_MAX, TOKENS_MAX, Golden, KnownPanel
from saewatch.monitor.drift.slices import HOURS, SLICES, Slices

KIND = "baseline"
SHEET, TENSORS = "baseline.json", "baseline.safetensors"
DTYPES: Mapping[str, str] = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "int32": "I32",
    "uint8": "U8",
    "int64": "I64",
    "bool": "BOOL",
}
Arrays = dict[str, npt.NDArray[Any]]
REBUILD = "Was it built by another version? Build it again with `saewatch baseline build`."
GOLDEN = "golden."
"""What the panel's arrays and numbers begin with."""


def attested(
    fitted: Fitted,
    about: About,
    features: tuple[str, ...],
    more: Mapping[str, Json],
    panel: KnownPanel | None = None,
) -> Attestation:
    """What is stated of a baseline. ``more``: of the requests that it was built from."""
    arrays, scalars = _all(fitted, panel)
    body: dict[str, Json] = {
        **{one.name: getattr(about, one.name) for one in dataclasses.fields(About) if one.name != "weights"},
        "features": list(features),
        "numbers": {name.replace(".", "_"): decimal_text(value) for name, value in scalars.items()},
        "tensors": {name.replace(".", "_"): _digest(name, array) for name, array in arrays.items()},
        **({"panel": list(panel.prompts)} if panel else {}),
        **more,
    }
    return Attestation(kind=KIND, weights=about.weights, body=body)


def write(folder: Path, fitted: Fitted, attestation: Attestation, panel: KnownPanel | None = None) -> None:
    """Into a folder that is not there yet. `ConfigError` where it is, `UnreachableError` where it cannot be made."""
    if folder.exists():
        raise ConfigError(str(folder), found="something there", expected="a new name: a baseline is not overwritten")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        try:
            (partial / TENSORS).write_bytes(_packed(_all(fitted, panel)[0]))
            (partial / SHEET).write_bytes(attestation.data())
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # half of a baseline, where the disk is full
    except OSError as error:
        raise UnreachableError(str(folder), found=error.strerror or str(error), expected="a folder to write") from error


def load(folders: Iterable[str]) -> tuple[KnownBaseline, ...]:
    """Those of the configuration. `ConfigError` for one that is wrong, for two of one dictionary, or too many."""
    found = tuple(read(Path(one)) for one in folders)
    seen = [one.about.weights for one in found]
    for weights in seen:
        if seen.count(weights) > 1:
            raise ConfigError("baselines", found=f"two of {weights[:19]}", expected="one for each dictionary")
    return found


def read(folder: Path) -> KnownBaseline:
    """The baseline in a folder, and what was accepted since. `ConfigError` or `ManifestError` for a wrong one."""
    data = _bytes(folder / SHEET, limits.MANIFEST_BYTES)
    subject = str(folder / SHEET)
    weights = Fields(canonical.parse(data, subject=subject), f"{subject}: ").digest("weights")
    attestation = read_attestation(data, subject=subject, weights=weights)
    if attestation.kind != KIND:
        raise ConfigError(subject, found=f"an attestation of kind {attestation.kind}", expected=KIND)
    body = Fields(attestation.body, f"{subject}: ")
    about = About(
        weights=weights,
        **{name: body.text(name, empty=True) for name in ("model", "hook_point", "mode", "watch", "deployment")},
    )
    named = body.items("features", limits.WATCH_SLOTS)
    features = tuple(one for one in named if isinstance(one, str))
    if not features or len(set(features)) != len(named):
        raise ConfigError(subject, found="features that are no names, or twice the same", expected="names, each once")
    arrays = _arrays(folder / TENSORS, _texts(attestation, "tensors"))
    scalars = _texts(attestation, "numbers")
    fitted: Fitted = _folded(Fitted, "", arrays, scalars, subject)
    _check(fitted, len(features), subject)
    _check_pairs(fitted.pairs, f"{subject}: pairs")
    _check_latents(fitted.latents, f"{subject}: latents")
    _check_slices(fitted.slices, len(features), f"{subject}: slices")
    prompts = tuple(str(one) for one in body.items("panel", PROMPTS_MAX)) if "panel" in attestation.body else ()
    panel = _panel(prompts, len(features), arrays, scalars, subject) if prompts else None
    known = KnownBaseline(about=about, features=features, fitted=fitted, digest=attestation.digest, panel=panel)
    return amendments.amended(folder, known)


def _panel(
    prompts: tuple[str, ...], features: int, arrays: Arrays, scalars: Mapping[str, str], subject: str
) -> KnownPanel:
    """The golden replays. `ConfigError` for what does not fit its own prompts and features."""
    golden: Golden = _folded(Golden, GOLDEN, arrays, scalars, subject)
    parts = unfolded(golden)[0]
    shapes = {"tokens": len(prompts), "overlap": len(prompts), "scatter": len(prompts)}
    shapes |= dict.fromkeys(("noise", "usual", "flips.gone", "flips.fresh"), features)
    for name, array in parts.items():
        length = shapes.get(name, len(golden.prompt))
        if array.shape != (length,):
            raise ConfigError(f"{subject}: {GOLDEN}{name}", found=f"shape {array.shape}", expected=f"({length},)")
        if name not in {"noise", "usual"} and not np.isfinite(array).all():
            raise ConfigError(f"{subject}: {GOLDEN}{name}", found="what is no number", expected="finite numbers")
    counted = [(golden.prompt, len(prompts)), (golden.position, TOKENS_MAX), (golden.feature, features)]
    if any(len(index) and not (index.min() >= 0 and index.max() < bound) for index, bound in counted):
        raise ConfigError(subject, found="an index outside what it counts", expected="prompts, tokens and features")
    key = (golden.prompt * TOKENS_MAX + golden.position) * features + golden.feature
    spreads = (golden.scatter, golden.noise[golden.exercised], np.array([golden.score_sd, golden.replays - 1]))
    counts = (golden.flips.gone, golden.flips.fresh)
    good = all((one > 0).all() for one in spreads) and all((one >= 0).all() for one in counts)
    if not good or (np.diff(key) <= 0).any() or len(set(prompts)) != len(prompts):
        raise ConfigError(
            subject, found="a panel that was not made so", expected="ordered firings, and spreads above 0"
        )
    return KnownPanel(prompts=prompts, golden=golden)


def _all(fitted: Fitted, panel: KnownPanel | None) -> tuple[Arrays, dict[str, float]]:
    """Of the baseline and its panel."""
    arrays, scalars = unfolded(fitted)
    more = unfolded(panel.golden, GOLDEN) if panel else (Arrays(), dict[str, float]())
    return arrays | more[0], scalars | more[1]


# --- a tree of dataclasses as flat names ------------------------------------------------------------------------------
def unfolded(value: object, prefix: str = "") -> tuple[Arrays, dict[str, float]]:
    """Arrays and numbers of a tree, by their path."""
    arrays, scalars = Arrays(), dict[str, float]()
    for name, one in _members(value):
        path = f"{prefix}{name}"
        if dataclasses.is_dataclass(one):
            below = unfolded(one, f"{path}.")
            arrays |= below[0]
            scalars |= below[1]
        elif isinstance(one, np.ndarray):
            arrays[path] = one.astype(np.int64) if one.dtype == np.intp else one
        else:
            scalars[path] = float(one)
    return arrays, scalars


def _members(value: object) -> Iterator[tuple[str, Any]]:
    assert dataclasses.is_dataclass(value)
    for one in dataclasses.fields(value):
        yield one.name, getattr(value, one.name)


def _folded(kind: Any, prefix: str, arrays: Arrays, scalars: Mapping[str, str], subject: str) -> Any:
    made: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        path = f"{prefix}{name}"
        if dataclasses.is_dataclass(hint):
            made[name] = _folded(hint, f"{path}.", arrays, scalars, subject)
            continue
        key = path.replace(".", "_")
        if hint in {int, float}:
            value = canonical.decimal_value(scalars.get(key, ""), subject=f"{subject}: numbers.{key}")
            made[name] = hint(value)
            continue
        found, wanted = arrays.get(path), np.dtype(get_args(get_args(hint)[1])[0])
        if found is None or found.dtype != wanted:
            there = "nothing" if found is None else f"elements of type {found.dtype}"
            raise ConfigError(f"{subject}: {path}", found=there, expected=f"elements of type {wanted}", hint=REBUILD)
        made[name] = found
    return kind(**made)


def _check(fitted: Fitted, features: int, subject: str) -> None:
    """Every shape as the others have it, and every number one."""
    baseline, reading = fitted.baseline, fitted.reading
    often, axes = baseline.axes.direction.shape if baseline.axes.direction.ndim == 2 else (-1, -1)
    one = (features,)
    wanted = {"axes.feature": (often,), "axes.level": (often,), "axes.beta": (often,), "axes.direction": (often, axes)}
    wanted |= {"exposure": (5,), "volatile": one, "centre": one, "scale": one}
    for name in ("n", "w"):
        wanted |= {f"{name}.{each}": one for each in ("dispersion", "tolerance", "low", "high")}
        wanted |= {f"{name}.rates.level": one, f"{name}.rates.beta": one, f"{name}.rates.unit": (axes,)}
        wanted[f"{name}.rates.loading"] = (features, axes)
    for name in ("z", "az"):
        wanted |= {f"{name}.{each}": one for each in ("mean", "variance", "crowded", "tolerance")}
    arrays = unfolded(baseline)[0]
    shapes = {
        "centre": (axes,),
        "inverse": (axes, axes),
        "l0": (axes + 1,),
        "unexplained": (axes + 1,),
        "census_l0": (axes + 1,),
    }
    pairs = [(f"baseline.{name}", arrays[name], shape) for name, shape in wanted.items()]
    pairs += [(f"reading.{name}", getattr(reading, name), shape) for name, shape in shapes.items()]
    pairs += [(f"usual.{name}", each, (len(STATISTICS),)) for name, each in unfolded(fitted.usual)[0].items()]
    for name, array, shape in pairs:
        if array.shape != shape:
            raise ConfigError(f"{subject}: {name}", found=f"shape {array.shape}", expected=f"{shape}")
        if (
            not name.startswith(("usual", "reading.unexplained", "reading.l0", "reading.census_l0"))
            and not np.isfinite(array).all()
        ):
            raise ConfigError(f"{subject}: {name}", found="what is no number", expected="finite numbers")
    indices: list[tuple[npt.NDArray[Any], int]] = [
        (baseline.axes.feature, features),
        (baseline.axes.beta, 5),
        (baseline.n.rates.beta, 5),
    ]
    indices += [(baseline.w.rates.beta, 5), (fitted.strayed, features)]
    if any(len(index) and not (index.min() >= 0 and index.max() < bound) for index, bound in indices):
        raise ConfigError(subject, found="an index outside what it counts", expected="features and exponents")
    positive = (baseline.n.dispersion, baseline.w.dispersion, baseline.scale, baseline.z.variance, baseline.az.variance)
    if any((each <= 0).any() for each in positive):
        raise ConfigError(subject, found="a spread of 0 or below", expected="spreads above 0")


def _check_pairs(pairs: Pairs, subject: str) -> None:
    """All buckets, or none of them."""
    size = BUCKETS if pairs.known else 0
    for name, array in unfolded(pairs)[0].items():
        if array.shape != (size,) or not (np.isfinite(array).all() and (array >= 0).all()):
            expected = f"{size} finite numbers, none below 0"
            raise ConfigError(f"{subject}.{name}", found=f"shape {array.shape}, or other numbers", expected=expected)
    if not (pairs.dispersion > 0).all():
        raise ConfigError(f"{subject}.dispersion", found="0", expected="spreads above 0")


def _check_latents(latents: Latents, subject: str) -> None:
    """Shares, and spreads that are no less than chance's."""
    rate, dispersion = latents.rate, latents.dispersion
    if not (rate.ndim == 1 and rate.shape == dispersion.shape and len(rate) <= limits.LATENTS):
        found = f"shapes {rate.shape} and {dispersion.shape}"
        raise ConfigError(subject, found=found, expected="two numbers of each latent")
    if not (((rate >= 0) & (rate <= 1)).all() and (np.isfinite(dispersion) & (dispersion >= 1)).all()):
        expected = "shares from 0 to 1, and dispersions of 1 and more"
        raise ConfigError(subject, found="other numbers", expected=expected)


def _check_slices(slices: Slices, features: int, subject: str) -> None:
    """Counts that there can be, of features that there are, and shares of a whole."""
    kept = slices.feature
    if kept.ndim != 1 or (np.diff(kept) <= 0).any() or (len(kept) and not 0 <= kept[0] <= kept[-1] < features):
        raise ConfigError(f"{subject}.feature", found="others", expected="features of the baseline, ascending")
    one = (SLICES,)
    shapes = {"n": (SLICES, len(kept)), "exposure": (SLICES, len(BETAS)), "low": one, "high": one}
    for name, shape in {**shapes, "usual": (len(HOURS),)}.items():
        array = getattr(slices, name)
        if array.shape != shape or not (np.isfinite(array).all() and (array >= 0).all()):
            expected = f"finite numbers of shape {shape}, none below 0"
            raise ConfigError(f"{subject}.{name}", found=f"shape {array.shape}, or other numbers", expected=expected)
    if (slices.n > slices.requests[:, None]).any() or (slices.low > slices.high).any() or (slices.high > 1.0).any():
        raise ConfigError(subject, found="more than there were requests", expected="parts of a whole")


# --- the files --------------------------------------------------------------------------------------------------------
def _packed(arrays: Arrays) -> bytes:
    """As safetensors has it (https://github.com/huggingface/safetensors#format)."""
    header, at, parts = dict[str, Any](), 0, list[bytes]()
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + len(data)],
        }
        parts.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def _arrays(path: Path, digests: Mapping[str, str]) -> Arrays:
    data = _bytes(path, limits.BASELINE_BYTES)
    types = {name: np.dtype(dtype) for dtype, name in DTYPES.items()}
    found = Arrays()
    for entry in read_header(path, foreign=True):
        if entry.dtype not in types:
            raise ConfigError(
                f"{path}: {entry.name}", found=f"elements of type {entry.dtype}", expected="those we write"
            )
        part = data[entry.start : entry.end]
        if digests.get(entry.name.replace(".", "_")) != tensor_digest(entry.name, entry.dtype, entry.shape, part):
            hint = "The file was changed, or is of another baseline."
            raise ConfigError(f"{path}: {entry.name}", found="other numbers", expected="those attested", hint=hint)
        found[entry.name] = np.frombuffer(part, types[entry.dtype]).reshape(entry.shape)
    return found


def _digest(name: str, array: npt.NDArray[Any]) -> str:
    data = np.ascontiguousarray(array).tobytes()
    return tensor_digest(name, DTYPES[array.dtype.name], array.shape, data)


def _texts(attestation: Attestation, key: str) -> Mapping[str, str]:
    found = attestation.body.get(key)
    if not isinstance(found, Mapping) or not all(isinstance(one, str) for one in found.values()):
        raise ConfigError(f"{SHEET}: {key}", found=type(found).__name__, expected="an object of texts")
    return {name: str(one) for name, one in found.items()}


def _bytes(path: Path, bound: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(bound + 1)
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror or str(error), expected="a readable file") from error
    if len(data) > bound:
        raise ConfigError(str(path), found="a larger file", expected=f"at most {bound} bytes")
    return data
