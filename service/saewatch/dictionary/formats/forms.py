"""A file of weights and the configuration beside it: looked at first, and loaded when a reader says what it expects.

A reader names every tensor with its shape. One too many, one missing, another shape, a wider type than it was trained
in, NaN: each is refused with file and tensor, because each has produced dictionaries that load and are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saewatch.core import limits
from saewatch.core.errors import ManifestError, TensorFileError
from saewatch.core.fields import Fields
from saewatch.core.tensorfile import read_header
from saewatch.dictionary.formats.source import Asked

_NARROWER = ("F16", "BF16")  # than F32: widening them is exact
_INTEGERS = ("I32", "I64")


@dataclass(frozen=True, slots=True)
class Form:
    """Element type (safetensors' names) and shape of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Opened:
    """Weights that were looked at. ``load`` gives all tensors; names are relative to ``folder``."""

    folder: Path
    weights: str
    forms: Mapping[str, Form]
    load: Callable[[], Mapping[str, Tensor]]
    scalars: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that a checkpoint holds beside its tensors."""
    shards: tuple[str, ...] = ()
    config_name: str = ""
    config: Any = None

    @property
    def files(self) -> tuple[str, ...]:
        """All that is read."""
        return tuple(name for name in (self.config_name, self.weights, *self.shards) if name)

    def has(self, *keys: str) -> bool:
        """Whether the configuration is an object with all of these keys."""
        return isinstance(self.config, dict) and all(key in self.config for key in keys)

    def holds(self, *names: str) -> bool:
        """Whether there are tensors of all of these names."""
        return all(name in self.forms for name in names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; empty where there is none of this name."""
        return self.forms[name].shape if name in self.forms else ()

    def fields(self, asked: Asked) -> Fields:
        """The configuration, to be read member by member, without what was asked to be ignored."""
        kept = self.config
        if isinstance(kept, dict):
            kept = {key: value for key, value in kept.items() if key not in asked.ignore}
        return Fields(kept, f"{self.config_name}: ")

    def sizes(self, name: str, *, transposed: bool = False) -> tuple[int, int]:
        """Rows and width of the matrix ``name``, stored ``[rows, width]``, or the other way where it is transposed."""
        shape = self.shape(name)
        if len(shape) != 2:
            raise TensorFileError(f"{self.weights}: {name}", found=list(shape) or "nothing", expected="a matrix")
        rows, width = reversed(shape) if transposed else shape
        if not (1 <= rows <= limits.LATENTS and 1 <= width <= limits.D_IN):
            expected = f"1 to {limits.LATENTS} latents of width 1 to {limits.D_IN}"
            raise TensorFileError(f"{self.weights}: {name}", found=f"{rows} of {width}", expected=expected)
        return rows, width

    def refuse_square(self, name: str, asked: Asked) -> None:
        """Refuses an encoder whose shape does not show how it lies, unless its format was named."""
        if len(set(self.shape(name))) == 1 and not asked.format:
            hint = f"As many latents as the rows are wide: the shapes do not tell how {name} lies. Name its format."
            subject = f"{self.weights}: {name}"
            raise TensorFileError(subject, found=list(self.shape(name)), expected="--format NAME", hint=hint)

    def tensors(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        dtype: str = "F32",
        integers: Collection[str] = (),
        unchecked: Collection[str] = (),
    ) -> dict[str, Tensor]:
        """All tensors, which must have exactly these shapes, be finite, and not be wider than ``dtype``.

        Args:
            shapes: name -> shape.
            dtype: the type that it was trained in.
            integers: names of those that hold integers.
            unchecked: names of those that may hold any value: the reader looks at what it uses of them.
        """
        for name in sorted(shapes.keys() ^ self.forms.keys()):
            there = name in self.forms
            raise TensorFileError(
                f"{self.weights}: {name[:80]}",
                found="present" if there else "nothing",
                expected="no such tensor" if there else "this tensor",
            )
        for name, shape in shapes.items():
            self._check(name, shape, _INTEGERS if name in integers else (dtype, *_NARROWER[: 2 * (dtype == "F32")]))
        tensors = dict(self.load())
        for name, tensor in tensors.items():
            if name not in unchecked and not bool(torch.isfinite(tensor).all()):
                raise TensorFileError(f"{self.weights}: {name}", found="NaN or infinity", expected="finite values")
        return tensors

    def _check(self, name: str, shape: tuple[int, ...], dtypes: Collection[str]) -> None:
        form = self.forms[name]
        if form.shape != shape:
            hint = "Its width or number of latents is not what the rest says, or it is transposed."
            raise TensorFileError(f"{self.weights}: {name}", found=list(form.shape), expected=list(shape), hint=hint)
        if form.dtype not in dtypes:
            hint = "A reader would round it when loading; save it in the type that the dictionary was trained in."
            expected = f"{next(iter(dtypes))} or narrower"
            raise TensorFileError(f"{self.weights}: {name}", found=form.dtype, expected=expected, hint=hint)


def safetensors_forms(path: Path) -> dict[str, Form]:
    """Types and shapes in a safetensors file of anybody's. TensorFileError for a header that lies."""
    return {entry.name: Form(entry.dtype, entry.shape) for entry in read_header(path, foreign=True)}


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Its tensors. TensorFileError for what the library cannot read."""
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise TensorFileError(path.name, found=f"{error!s:.160}", expected="a readable safetensors file") from error


def where(cfg: Fields, key: str) -> str:
    """The path of a member in messages."""
    return f"{cfg.subject}{'' if cfg.subject.endswith(': ') else '.'}{key[:80]}"


def flag(cfg: Fields, key: str) -> bool:
    """A member that is true or false."""
    value = cfg.take(key)
    if not isinstance(value, bool):
        raise ManifestError(where(cfg, key), found=f"{value!r:.60}", expected="true or false")
    return value


def number(cfg: Fields, key: str) -> float:
    """A member that is a finite number above 0."""
    value = cfg.take(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise ManifestError(where(cfg, key), found=f"{value!r:.60}", expected="a number above 0")
    return float(value)


def skip(cfg: Fields, keys: Collection[str]) -> None:
    """Takes members that decide nothing about a firing, where they are there."""
    for key in keys:
        if cfg.has(key):
            cfg.take(key)


def close(cfg: Fields) -> None:
    """Refuses every member that was not taken: nobody knows whether it decides a firing."""
    for key in cfg.names():
        hint = "If you know that it decides nothing about what fires: --ignore and its name."
        raise ManifestError(where(cfg, key), found="an unknown member", expected="no such member", hint=hint)
