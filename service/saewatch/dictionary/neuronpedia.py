"""Explanations of latents as Neuronpedia exports them: ``v1/<model>/<source>/explanations/batch-N.jsonl.gz``.

Each line is one explanation, as a JSON object. What is read of it, as its Python package 1.2.1 has the fields:
``modelId``; ``layer`` (or ``source``), which names the dictionary, such as ``14-res-16k``; ``index``, a latent as an
integer or as its digits; ``description``; where they are there ``explanationModelName``, ``typeName`` and ``scores``, a
list of objects with a ``value``. Other members, such as embeddings, are passed over. The keys of the export itself are
documented by nothing but its files.

Nothing in a file names a dictionary's weights: that these explanations are about them is for a person to say.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saewatch.core import label, limits
from saewatch.core.errors import ConfigError, ManifestError, UnreachableError

BATCHES = "explanations*/batch-*.jsonl*"
_SCORES = 64
_SCORE_MAX = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What somebody's model said of one latent."""

    where: str
    latent: int
    text: str
    model: str = ""
    """That wrote it."""
    method: str = ""
    score: float | None = None
    """The best that is stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Explanations of one dictionary, in the order of the files."""

    model: str
    source: str
    digest: str
    """Over the digests of the files, by their names' order."""
    explanations: tuple[Explanation, ...]

    def of(self, latent: int) -> tuple[Explanation, ...]:
        """Those of one latent."""
        return tuple(one for one in self.explanations if one.latent == latent)


def batches(paths: Iterable[Path]) -> list[Path]:
    """The files: those that are named, and the batches of those folders. UnreachableError where there are none."""
    found: list[Path] = []
    for path in paths:
        inside = sorted({*path.glob(BATCHES), *path.glob(BATCHES.partition("/")[2])}) if path.is_dir() else [path]
        if not inside:
            raise UnreachableError(str(path), found=f"no {BATCHES}", expected="a folder of an export")
        found += inside
    return found


def read_export(paths: Sequence[Path], *, latents: int, wanted: frozenset[int] | None = None) -> Export:
    """The explanations in files.

    Args:
        paths: of the batches, gzipped or not.
        latents: how many the dictionary has. An index beyond them refuses the file: it is about another dictionary.
        wanted: keep those of these latents only; None: of all. The others are checked all the same.

    Raises:
        UnreachableError: a file cannot be read.
        ManifestError: a line is malformed, too long, or about another dictionary than the line before.
    """
    about: dict[str, str] = {}
    found: list[Explanation] = []
    whole = hashlib.sha256()
    for path in sorted(paths, key=lambda one: one.name):
        with _opened(path) as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
        for where, line in _lines(path):
            one = _explanation(where, line, about, latents)
            if one is not None and (wanted is None or one.latent in wanted):
                found.append(one)
            if len(found) > limits.EXPLANATIONS:
                hint = "Choose latents."
                raise ManifestError(
                    where, found="more explanations", expected=f"at most {limits.EXPLANATIONS}", hint=hint
                )
    digest = f"sha256:{whole.hexdigest()}"
    return Export(
        model=about.get("modelId", ""), source=about.get("layer", ""), digest=digest, explanations=tuple(found)
    )


def best(explanations: Sequence[Explanation], *, model: str = "") -> Explanation | None:
    """The one of the highest stated score; without scores the first. ``model``: only those that it wrote."""
    chosen = [one for one in explanations if not model or one.model == model]
    return max(chosen, key=lambda one: -math.inf if one.score is None else one.score, default=None)


# --- files ------------------------------------------------------------------------------------------------------------
def _opened(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror, expected="a file of explanations") from error


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Each line and where it stands. No more than a line is held, whatever a small file unpacks to."""
    number, total = 0, 0
    with _opened(path) as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
        while line := _line(path, file, number + 1):
            number, total = number + 1, total + len(line)
            where = f"{path.name}:{number}"
            if len(line) > limits.EXPLANATION_LINE_BYTES:
                expected = f"at most {limits.EXPLANATION_LINE_BYTES} bytes"
                raise ManifestError(where, found="a longer line", expected=expected)
            if total > limits.EXPLANATIONS_FILE_BYTES:
                expected = f"at most {limits.EXPLANATIONS_FILE_BYTES} bytes, unpacked"
                raise ManifestError(where, found="a larger file", expected=expected)
            if line.strip():
                yield where, line


def _line(path: Path, file: Any, number: int) -> bytes:
    try:
        line: bytes = file.readline(limits.EXPLANATION_LINE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        expected = "a whole gzip file"
        raise ManifestError(f"{path.name}:{number}", found=f"{error!s:.100}", expected=expected) from error
    return line


# --- lines ------------------------------------------------------------------------------------------------------------
def _explanation(where: str, line: bytes, about: dict[str, str], latents: int) -> Explanation | None:
    """None for a latent that nobody explained: exports have such lines."""
    try:
        found = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ManifestError(where, found=f"{error!s:.100}", expected="a JSON object in UTF-8") from error
    if not isinstance(found, dict):
        raise ManifestError(where, found=type(found).__name__, expected="a JSON object")
    _check_about(where, found, about)
    latent = _latent(where, found.get("index"), latents)
    text = _text(where, found, "description", limits.EXPLANATION_LINE_BYTES)
    if not text.strip():
        return None
    return Explanation(
        where=where,
        latent=latent,
        text=_shortened(text, where),
        model=_text(where, found, "explanationModelName", limits.NAME_BYTES),
        method=_text(where, found, "typeName", limits.NAME_BYTES),
        score=_score(where, found.get("scores")),
    )


def _check_about(where: str, found: dict[str, Any], about: dict[str, str]) -> None:
    """Every line speaks of the same model and source."""
    said = {"modelId": found.get("modelId"), "layer": found.get("layer", found.get("source"))}
    for key, value in said.items():
        if not isinstance(value, str) or not 0 < len(value) <= limits.NAME_BYTES:
            raise ManifestError(f"{where}: {key}", found=f"{value!r:.60}", expected="a name")
        if value != about.setdefault(key, value):
            hint = "Export the explanations of one dictionary alone."
            raise ManifestError(f"{where}: {key}", found=f"{value!r:.60}", expected=repr(about[key]), hint=hint)


def _latent(where: str, value: object, latents: int) -> int:
    spelt = isinstance(value, str) and len(value) <= 10 and value.isascii() and value.isdigit()
    number = int(value) if spelt and isinstance(value, str) else value
    if type(number) is not int:
        raise ManifestError(f"{where}: index", found=f"{value!r:.60}", expected="a latent's number")
    if not 0 <= number < latents:
        hint = "The file is about another dictionary."
        raise ManifestError(f"{where}: index", found=number, expected=f"below {latents}", hint=hint)
    return number


def _text(where: str, found: dict[str, Any], key: str, limit: int) -> str:
    value = found.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > limit or any("\ud800" <= one <= "\udfff" for one in value):
        raise ManifestError(f"{where}: {key}", found=f"{value!r:.60}", expected=f"text of at most {limit} letters")
    return value


def _shortened(text: str, where: str) -> str:
    """An explanation as one line that a catalogue takes; what is longer is cut."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if len(line.encode()) > limits.LABEL_BYTES:
        line = line.encode()[: limits.LABEL_BYTES - 4].decode(errors="ignore").rstrip() + "…"
    return label.spelt(line, subject=f"{where}: description")


def _score(where: str, scores: object) -> float | None:
    if scores is None:
        return None
    if not isinstance(scores, list) or len(scores) > _SCORES:
        raise ManifestError(f"{where}: scores", found=f"{scores!r:.60}", expected=f"a list of at most {_SCORES}")
    values = [one.get("value") if isinstance(one, dict) else None for one in scores]
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= _SCORE_MAX:
            raise ManifestError(f"{where}: scores", found=f"{value!r:.60}", expected="numbers, each as value")
    return max((float(value) for value in values if value is not None), default=None)


def check_weights(confirmed: str, weights: str) -> None:
    """ConfigError unless a person confirmed that an export is about the dictionary ``weights``."""
    if confirmed != weights:
        hint = "An export does not name the weights that it is about: compare them, and confirm their digest."
        raise ConfigError("--confirm-weights", found=confirmed or "nothing", expected=weights, hint=hint)
