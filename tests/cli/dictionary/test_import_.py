"""`saewatch dictionary import`: as a newcomer runs it, and what it refuses."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from saewatch import cli
from saewatch.cli.dictionary import import_
from saewatch.dictionary import hub
from saewatch.dictionary.formats import CONVERTERS
from saewatch.dictionary.oracle import ORACLES
from saewatch.engine.dictionary_file import load_bundle
from tests import layouts, made
from tests.dictionary import libraries

IMPORT = ("dictionary", "import")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made.source(tmp_path / "source", made.saelens("jumprelu", apply_b_dec_to_input=True), directions=2)


def ran(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """What the verb prints as JSON; it must succeed."""
    capsys.readouterr()
    assert cli.main([*IMPORT, *map(str, words), "--json"]) == cli.GOOD
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, str]]:
    """Exit code and error."""
    capsys.readouterr()
    code = cli.main([*IMPORT, *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)["error"]


def test_as_a_newcomer_runs_it(tmp_path: Path, source: Path) -> None:
    """In a process of its own. Without the oracle, which the others load: its import takes longer than all of them."""
    model, out = made.model(tmp_path / "model"), tmp_path / "bundle"
    words = [*IMPORT, str(source), "--model", str(model), "--out", str(out), "--no-oracle", "--json"]
    done = subprocess.run([sys.executable, "-m", "saewatch", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told, bundle = json.loads(done.stdout), load_bundle(out, decoder=True)
    assert told == {
        "bundle": str(out),
        "bundle_digest": bundle.sheet.digest,
        "weights_digest": bundle.manifest.digest,
        "catalogue_digest": bundle.catalogue.digest,
        "format": "saelens",
        "architecture": "jumprelu",
        "warnings": ["not checked against the dictionary's own library: the bundle has no conformance rows"],
    }
    assert bundle.fit() is not None


def test_the_same_input_gives_the_same_digests(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(source, tmp_path / "elsewhere" / "copy")
    places = {"one": source, "two": source, "three": tmp_path / "elsewhere" / "copy"}
    told = [ran(capsys, place, "--out", tmp_path / out, "--name", "x") for out, place in places.items()]
    assert (
        len({tuple(one[key] for key in ("bundle_digest", "weights_digest", "catalogue_digest")) for one in told}) == 1
    )
    again = ran(capsys, source, "--out", tmp_path / "one", "--name", "x")  # it is there already: nothing to do
    assert again == told[0]


def test_it_says_what_the_bundle_lacks(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "features.json").unlink()
    told = ran(capsys, source, "--out", tmp_path / "bundle", "--no-oracle")
    assert [warning.split(":")[0] for warning in told["warnings"]] == [
        "no --model",
        "not checked against the dictionary's own library",
        "no features.json",
    ]
    assert cli.main([*IMPORT, str(source), "--out", str(tmp_path / "bundle"), "--replace"]) == cli.GOOD
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["weights_digest", told["weights_digest"]]
    assert lines[-1].startswith("warning ")


def test_an_oracle_that_there_is_not(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = layouts.layouts()["gemma_scope_2"].write(tmp_path / "gemma")
    code, error = refused(capsys, folder, "--out", tmp_path / "bundle", "--oracle")
    assert (code, error["found"]) == (cli.FAILED, "none for gemma_scope_2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    code, error = refused(capsys, source, "--out", tmp_path / "bundle", "--oracle")
    assert (code, error["found"]) == (cli.FAILED, "sae-lens, which is not installed")
    assert "not checked" in ran(capsys, source, "--out", tmp_path / "bundle")["warnings"][1]


def test_a_checkpoint_is_checked_against_its_own_library_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries.learned(tmp_path / "learned", "BatchTopKSAE")
    words = ("--allow-pickle", "--hook-point", "resid_post.1")
    ran(capsys, tmp_path / "learned", "--out", tmp_path / "bundle", *words)
    conformance = load_bundle(tmp_path / "bundle").attestation("conformance")
    assert conformance is not None
    assert str(conformance.body["oracle"]).startswith("dictionary-learning ")
    library = ORACLES["dictionary_learning"]
    wrong = replace(library, pickles=False, library=lambda folder, x: library.library(folder, 1.01 * x))
    monkeypatch.setattr(import_, "ORACLES", {"dictionary_learning": wrong})
    code, error = refused(capsys, tmp_path / "learned", "--out", tmp_path / "other", *words)
    assert (code, error["kind"]) == (cli.FAILED, "ManifestError")
    assert not (tmp_path / "other").exists()


def test_what_the_files_do_not_say_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = layouts.layouts()["sparsify"]
    folder, out = layout.write(tmp_path / "layers.1"), tmp_path / "bundle"
    code, error = refused(capsys, folder, "--out", out)
    assert (code, error["kind"]) == (cli.FAILED, "ManifestError")
    assert "--hook-point" in error["hint"]
    told = ran(capsys, folder, "--out", out, "--hook-point", "model.layers.1", "--threshold", "0.5")
    assert (told["format"], told["architecture"]) == ("sparsify", "topk")
    assert not [warning for warning in told["warnings"] if "own library" in warning]
    assert load_bundle(out).manifest.encoder.modes == ("exact", "thresholded")
    (folder / "cfg.json").write_text(json.dumps({**layouts.SPARSIFY, "comment": "x"}))
    code, error = refused(capsys, folder, "--out", out, "--hook-point", "resid_post.1", "--replace")
    assert (code, error["subject"]) == (cli.FAILED, "cfg.json: comment")
    ran(capsys, folder, "--out", out, "--hook-point", "resid_post.1", "--replace", "--ignore", "comment")


def test_another_bundle_is_not_written_over(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(capsys, source, "--out", tmp_path / "bundle", "--no-oracle")
    code, error = refused(capsys, source, "--out", tmp_path / "bundle", "--name", "other", "--no-oracle")
    assert (code, error["kind"]) == (cli.FAILED, "ConfigError")


def test_what_cannot_be_reached(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "bundle")
    code, error = refused(capsys, tmp_path / "nothing", *out)
    assert (code, error["kind"]) == (cli.UNREACHED, "UnreachableError")
    assert refused(capsys, source, *out, "--model", tmp_path / "nothing")[0] == cli.UNREACHED


def test_a_hub_is_asked_only_when_that_is_said(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(repo: str, **_: Any) -> str:
        asked.append(repo)
        return str(source.parent)

    monkeypatch.setattr(hub, "_snapshot", download)
    code, error = refused(capsys, "hub:org/name/source", "--out", tmp_path / "bundle")
    assert (code, error["kind"], asked) == (cli.FAILED, "AccessError", [])
    assert "--allow-hub" in error["expected"]
    told = ran(capsys, "hub:org/name/source", "--out", tmp_path / "bundle", "--allow-hub", "--no-oracle")
    assert (told["format"], asked) == ("saelens", ["org/name"])


@pytest.mark.parametrize("name", ["a\nb", "x" * 600])
def test_a_name_that_nobody_could_read(
    tmp_path: Path, source: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = refused(capsys, source, "--out", tmp_path / "bundle", "--no-oracle", "--name", name)
    assert (code, error["subject"]) == (cli.FAILED, "--name")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("words", [("--k", "0"), ("--format", "gguf"), ("--threshold", "-1"), ("--mean-norm", "nan")])
def test_a_wrong_usage(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*IMPORT, "x", "--out", "y", *words])
    assert ended.value.code == cli.USAGE
    assert words[0] in capsys.readouterr().err


PAGE = Path(__file__).resolve().parents[3] / "docs" / "dictionaries.md"
SHOWN = [line for line in PAGE.read_text().splitlines() if line.startswith("saewatch dictionary import")]


def test_the_page_has_every_format_and_option() -> None:
    text = PAGE.read_text()
    assert not [name for name in CONVERTERS if f"| `{name}` |" not in text]
    parser = argparse.ArgumentParser()
    import_.arguments(parser)
    options = set(re.findall(r"--[a-z-]*[a-z]", parser.format_help()))
    assert len(options) > 15
    assert not [option for option in options - {"--help", "--out"} if f"`{option}" not in text]


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_of_the_page_does_what_it_says(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.source(tmp_path / "path/of/saelens", made.saelens("standard"))
    made.model(tmp_path / "path/of/the/model")
    layouts.layouts()["sparsify"].write(tmp_path / "path/of/layers.14")
    for folder in ("gemma-scope", "transcoder"):
        layouts.layouts()["gemma_scope"].write(tmp_path / "path/of" / folder)
    layouts.layouts()["qwen_scope"].write(tmp_path / "path/of")
    (tmp_path / "path/of/layer1.sae.pt").rename(tmp_path / "path/of/layer20.sae.pt")
    save_file(made.headed(0, "gelu"), tmp_path / "path/of/probes.safetensors")
    words = [str(tmp_path / word) if word.startswith(("path/", "my-")) else word for word in shlex.split(line)[1:]]
    assert cli.main(words) == cli.GOOD, capsys.readouterr().err
    assert "weights_digest" in capsys.readouterr().out
    expected = 0 if "probes" in line else layouts.LATENTS
    assert load_bundle(tmp_path / "my-bundle", decoder=True).manifest.encoder.latents == expected
