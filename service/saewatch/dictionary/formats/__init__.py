"""Formats that a dictionary may come in, each read into the same `Source` by code of our own.

``CONVERTERS`` has one row a format. A format is recognised by the keys of its configuration and by its tensors' names
and shapes, never by the name of a file or folder: those are renamed. A name is only compared with what was read, and
may give a warning. A reader takes nothing on trust: an unknown key of the configuration, an extra or missing tensor, a
matrix stored wider than the configuration says, a normalisation that ought to have been folded, a constant that is
missing: each is refused, because each has produced dictionaries that load and are wrong. What a layout leaves out has
to be said (`Asked`).

A checkpoint of torch is a pickle. It is not opened unless that was allowed, and then by another process.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from saewatch.core import hookpoint
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.core.manifest import BUNDLE_FILE
from saewatch.dictionary.formats import dictionary_learning, files, gemma, llama, pickled, probes, saelens, sparsify
from saewatch.dictionary.formats.files import read_json
from saewatch.dictionary.formats.forms import Opened
from saewatch.dictionary.formats.source import Asked, Source

__all__ = ["CONVERTERS", "Asked", "Converter", "Source", "read_all", "read_json", "read_probes", "read_saelens"]


@dataclass(frozen=True, slots=True)
class Converter:
    """One format: how it is recognised, and its reader."""

    recognises: Callable[[Opened], bool]
    read: Callable[[Opened, Asked], Source]
    says: str


CONVERTERS: Mapping[str, Converter] = {
    "saelens": Converter(saelens.recognises, saelens.read, "SAELens 6"),
    "gemma_scope": Converter(gemma.recognises, gemma.read, "Gemma Scope"),
    "gemma_scope_2": Converter(gemma.recognises_2, gemma.read_2, "Gemma Scope 2"),
    "llama_scope": Converter(llama.recognises, llama.read, "Llama Scope"),
    "lm_saes": Converter(llama.recognises_library, llama.read_library, "lm-saes, llamascopium, Llama Scope R1"),
    "sparsify": Converter(sparsify.recognises, sparsify.read, "EleutherAI's sparsify"),
    "dictionary_learning": Converter(
        dictionary_learning.recognises, dictionary_learning.read, "dictionary_learning of S. Marks and others"
    ),
    "openai": Converter(pickled.recognises_openai, pickled.read_openai, "OpenAI's sparse_autoencoder"),
    "goodfire": Converter(pickled.recognises_goodfire, pickled.read_goodfire, "Goodfire, and alike for DeepSeek R1"),
    "qwen_scope": Converter(pickled.recognises_qwen, pickled.read_qwen, "Qwen-Scope"),
    "probes": Converter(probes.recognises, probes.read, "probe directions"),
}
PROBES = "probes"


def read_all(path: Path, asked: Asked | None = None) -> tuple[Source | None, Source | None]:
    """Latents and directions of a folder, or of one file of weights in it.

    Args:
        path: the folder, or the file.
        asked: what the files do not say.

    Raises:
        ConfigError: there is no dictionary of a known format, or more than one.
        ManifestError, TensorFileError, HookPointError: its reader refuses it.
    """
    asked = asked or Asked()
    folder, plain, checkpoints = files.split(path)
    opened = list(files.open_all(folder, plain))
    said = asked.format == PROBES and len(opened) == 1
    directions = list({one.weights: one for one in opened if said or probes.recognises(one)}.values())
    others = [one for one in opened if one.weights not in {probe.weights for probe in directions}]
    found = list(_choose(others, asked)) if asked.format != PROBES else []
    if not found and checkpoints and asked.format != PROBES:
        found = list(_choose(_open_checkpoints(folder, checkpoints, asked), asked))
    if len(found) > 1 or len(directions) > 1:
        _refuse_many(path, [*found, *((PROBES, one) for one in directions)] if len(directions) > 1 else found)
    if not found and not directions:
        _refuse_none(path, others)
    latents = _read(*found[0], asked) if found else None
    if latents is not None:
        unread = sorted({one.weights for one in others} - set(latents.files))
        told = (*latents.warnings, *_compare(path, latents), *(f"{name}: not read" for name in unread))
        latents = dataclasses.replace(latents, warnings=told)
    return latents, _read(PROBES, directions[0], asked) if directions else None


def read_saelens(folder: Path) -> Source:
    """The SAELens dictionary of a folder."""
    return _only(read_all(folder, Asked(format="saelens"))[0])


def read_probes(folder: Path) -> Source:
    """The probe directions of a folder."""
    return _only(read_all(folder, Asked(format=PROBES))[1])


def _only(source: Source | None) -> Source:
    assert source is not None, "read_all refuses where there is none"
    return source


def _choose(opened: Iterable[Opened], asked: Asked) -> Iterable[tuple[str, Opened]]:
    """Formats that recognise the weights. One that was named takes the only file, so as to say what is wrong in it."""
    opened = list(opened)
    if asked.format and len(opened) == 1:
        return [(asked.format, opened[0])]
    rows = [(name, row) for name, row in CONVERTERS.items() if name != PROBES and asked.format in ("", name)]
    return [(name, one) for one in opened for name, row in rows if row.recognises(one)]


def _read(name: str, opened: Opened, asked: Asked) -> Source:
    source = dataclasses.replace(CONVERTERS[name].read(opened, asked), format=name)
    return source if name == PROBES else _agreed(source, asked)


def _agreed(source: Source, asked: Asked) -> Source:
    """The source, where everything that was asked for came into force. ManifestError for what did not."""
    scaled = any(folding.what == "normalisation" for folding in source.folded)
    for option, said, found in (
        ("--k", asked.k, source.k),
        ("--hook-out", asked.hook_out and str(hookpoint.parse(asked.hook_out)), source.hook_out),
        ("--mean-norm", asked.mean_norm, asked.mean_norm if scaled else None),
    ):
        if said and said != found:
            hint = "Its files say it, or it has none."
            raise ManifestError(option, found=said, expected=found or "nothing", hint=hint)
    return source


def _open_checkpoints(folder: Path, names: tuple[str, ...], asked: Asked) -> Iterable[Opened]:
    if not asked.allow_pickle:
        hint = "A pickle can run code. --allow-pickle reads it in a separate, restricted process."
        raise ConfigError(names[0], found="a pickle", expected="weights that are none, or --allow-pickle", hint=hint)
    if len(names) > 1:
        raise ConfigError(str(folder), found=", ".join(names)[:200], expected="one checkpoint", hint="Name the file.")
    return files.with_configs(files.open_checkpoint(folder, names[0]))


def _refuse_many(path: Path, found: Iterable[tuple[str, Opened]]) -> None:
    listed = ", ".join(f"{name} ({one.weights})" for name, one in found)
    hint = "Name the file instead of the folder, or the format with --format."
    raise ConfigError(str(path), found=f"{listed:.300}", expected="one dictionary in one format", hint=hint)


def _refuse_none(path: Path, opened: Iterable[Opened]) -> None:
    seen = ", ".join(f"{one.weights} with {', '.join(sorted(one.forms)[:8])}" for one in opened)
    if (path / BUNDLE_FILE).is_file():
        hint = "`saewatch dictionary add` takes it into the store; an engine serves it as it is."
        raise ConfigError(
            str(path), found="a bundle, which is imported already", expected="what it is made of", hint=hint
        )
    hint = "--format NAME makes that format's reader say what it misses."
    found = f"no dictionary in a known format{f' ({seen:.300})' if seen else ''}"
    known = ", ".join(f"{name} ({row.says})" for name, row in CONVERTERS.items())
    raise ConfigError(str(path), found=found, expected=f"one of {known}", hint=hint)


_LAYER = re.compile(r"(?:^|[/._-])(?:layers?[._]?|blocks[._])(\d{1,3})(?!\d)|(?:^|[/-])[lL](\d{1,3})(?![\d_])")
_K = re.compile(r"[lL]0_(\d{1,4})(?!\d)")


def _compare(path: Path, source: Source) -> Iterable[str]:
    """Warnings where the names of folder and file speak of another layer or k. They decide nothing."""
    named = "/".join([*path.resolve().parts[-3:], *source.files])
    layer, layers = str(hookpoint.parse(source.hook_point).layer), {one or two for one, two in _LAYER.findall(named)}
    if layers and layer not in layers:
        yield f"a name says layer {', '.join(sorted(layers))}, it is read as {source.hook_point}"
    counts = set(_K.findall(named))
    if source.k is not None and counts and str(source.k) not in counts:
        yield f"a name says L0 {', '.join(sorted(counts))}, k is {source.k}"
