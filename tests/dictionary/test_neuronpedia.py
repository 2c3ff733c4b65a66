"""Exports of Neuronpedia, written to the layout that its Python package and its files have."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from saewatch.core import limits
from saewatch.core.errors import ConfigError, ManifestError, UnreachableError
from saewatch.dictionary.neuronpedia import batches, best, check_weights, read_export


def line(index: object = "3", description: object = " names of capital cities", **more: Any) -> dict[str, Any]:
    """As an export has it: a latent's number as digits, a space before the text, an embedding behind."""
    return {
        "modelId": "made-1m",
        "layer": "1-res-96",
        "index": index,
        "description": description,
        "explanationModelName": "gpt-4o-mini",
        "typeName": "oai_token-act-pair",
        "embedding": [0.25] * 256,
        **more,
    }


def batch(folder: Path, *lines: object, number: int = 0, zipped: bool = True) -> Path:
    data = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines).encode()
    path = folder / "explanations" / f"batch-{number}.jsonl{'.gz' if zipped else ''}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
    return path


def test_a_golden_export(tmp_path: Path) -> None:
    batch(tmp_path, line(), line(7, "verbs", scores=[{"value": 0.5}, {"value": 0.75}]), line("8", None))
    batch(tmp_path, line("3", "capitals of Europe", explanationModelName="claude"), number=1)
    found = read_export(batches([tmp_path]), latents=96)
    assert (found.model, found.source) == ("made-1m", "1-res-96")
    told = [(one.latent, one.text, one.model, one.score) for one in found.explanations]
    assert told == [
        (3, "names of capital cities", "gpt-4o-mini", None),
        (7, "verbs", "gpt-4o-mini", 0.75),
        (3, "capitals of Europe", "claude", None),
    ]
    assert [one.where for one in found.of(3)] == ["batch-0.jsonl.gz:1", "batch-1.jsonl.gz:1"]
    assert read_export(batches([tmp_path]), latents=96, wanted=frozenset({7})).explanations == found.of(7)
    assert batches([tmp_path / "explanations"]) == batches([tmp_path])


def test_the_best_is_that_of_the_highest_score_or_the_chosen_models(tmp_path: Path) -> None:
    path = batch(
        tmp_path,
        line(description="first"),
        line(description="scored", scores=[{"value": -0.5}], explanationModelName="other"),
        zipped=False,
    )
    every = read_export([path], latents=96).explanations
    chosen = [best(every), best(every, model="gpt-4o-mini"), best(every, model="none")]
    assert [one and one.text for one in chosen] == ["scored", "first", None]


def test_a_long_explanation_is_cut_and_a_hostile_one_made_one_line(tmp_path: Path) -> None:
    path = batch(tmp_path, line(description="é" * 600), line(4, "a\x1b[2J\n b"))
    long, hostile = read_export([path], latents=96).explanations
    assert long.text == "é" * 254 + "…"
    assert len(long.text.encode()) <= limits.LABEL_BYTES
    assert hostile.text == "a [2J b"


WRONG: dict[str, tuple[tuple[object, ...], str]] = {
    "a latent beyond the last": ((line(), line(96)), "batch-0.jsonl.gz:2: index: found 96, expected below 96"),
    "a negative latent": ((line(-1),), "index: found -1"),
    "a latent in words": ((line("three"),), "index: found 'three'"),
    "a latent that is a truth": ((line(True),), "index: found True"),
    "many digits": ((line("9" * 5000),), "index: found '999"),
    "another model": ((line(), line(modelId="other")), "modelId: found 'other', expected 'made-1m'"),
    "another dictionary": ((line(), line(layer="2-res-96")), "layer: found '2-res-96'"),
    "no source": ((line(layer=None),), "layer: found None"),
    "no text": ((line(description=["a"]),), "description: found ['a']"),
    "half a character": ((line(description="\ud800"),), "description"),
    "scores without a number": ((line(scores=[{"value": "high"}]),), "scores: found 'high'"),
    "scores of no bound": ((line(scores=[{"value": 1e300}]),), "scores: found 1e+300"),
    "not JSON": (("{'index': 3}",), "expected a JSON object in UTF-8"),
    "nesting": (("[" * 100_000,), "expected a JSON object in UTF-8"),
    "a list": (([1],), "found list"),
    "a long line": ((line(description="x" * 300_000),), "batch-0.jsonl.gz:1: found a longer line"),
}


@pytest.mark.parametrize(("lines", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_refuses_the_file(lines: tuple[object, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read_export([batch(tmp_path, *lines)], latents=96)
    assert said in str(caught.value)


def test_a_bomb_costs_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB of nothing in 64 KiB, without an end of line, and many lines over the bound."""
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * 2**26, mtime=0))
    tracemalloc.start()
    with pytest.raises(ManifestError, match="a longer line"):
        read_export([path], latents=96)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * limits.EXPLANATION_LINE_BYTES
    monkeypatch.setattr(limits, "EXPLANATIONS_FILE_BYTES", 2**20)
    path.write_bytes(gzip.compress((b" " * 1023 + b"\n") * 2**16, mtime=0))
    with pytest.raises(ManifestError, match="a larger file"):
        read_export([path], latents=96)


def test_more_explanations_than_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EXPLANATIONS", 2)
    with pytest.raises(ManifestError, match="expected at most 2"):
        read_export([batch(tmp_path, line(), line(), line())], latents=96)


def test_a_damaged_download(tmp_path: Path) -> None:
    path = batch(tmp_path, *[line(number) for number in range(64)])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ManifestError, match="a whole gzip file"):
        read_export([path], latents=96)
    path.write_bytes(b"\x1f\x8b" + b"\x00" * 64)
    with pytest.raises(ManifestError, match="a whole gzip file"):
        read_export([path], latents=96)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="found no explanations"):
        batches([tmp_path])
    with pytest.raises(UnreachableError, match="a file of explanations"):
        read_export([tmp_path / "none"], latents=96)


def test_somebody_has_to_say_which_weights_it_is_about() -> None:
    check_weights("sha256:a", "sha256:a")
    for said in ("", "sha256:b"):
        with pytest.raises(ConfigError, match="compare them, and confirm"):
            check_weights(said, "sha256:a")
