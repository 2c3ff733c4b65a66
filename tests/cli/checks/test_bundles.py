"""The dictionaries' checks: on the fixture's bundle and model, whole and damaged."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from saewatch.cli.checks import bundles
from saewatch.cli.checks.finding import Finding, Setup, State
from saewatch.core.manifest import CONFORMANCE_FILE, ENCODER_FILE
from saewatch.dictionary.model import facts_at
from tests import fakes

FIXTURE = Path(__file__).resolve().parents[2] / "fixture"
BUNDLE, MODEL = FIXTURE / "bundle", FIXTURE / "model"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, tmp_path / "copy"))


def examined(folder: Path, model: Path | None = MODEL, series: int = 1000) -> list[Finding]:
    return list(bundles.examine(Setup(dictionaries=(folder,), model=model, series=series)))


def bad(found: Sequence[Finding]) -> list[Finding]:
    return [one for one in found if one.state is not State.GOOD]


def test_a_sound_one_that_fits() -> None:
    found = examined(BUNDLE)
    assert bad(found) == []
    said = "\n".join(f"{one.subject}: {one.found}" for one in found)
    assert "model: LlamaForCausalLM, 4 layers, 128 wide" in said
    assert "bundle: 1024 latents and 16 directions on resid_post.2" in said
    assert "48 features; 20 engines" in said
    assert "conformance, fit" in said
    assert "fits, by the digest of the weights" in said


def test_none() -> None:
    (found,) = bundles.examine(Setup())
    assert found.state is State.UNVERIFIED


@pytest.mark.parametrize("name", [ENCODER_FILE, CONFORMANCE_FILE])
def test_a_flipped_byte_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    (found,) = bad(examined(copy))
    assert found.state is State.FAILED
    assert found.subject.startswith(f"copy: {name}: ")
    assert found.hint


def test_a_file_that_is_missing(copy: Path) -> None:
    (copy / ENCODER_FILE).unlink()
    (found,) = bad(examined(copy))
    assert (found.state, ENCODER_FILE in found.subject) == (State.FAILED, True)


@pytest.mark.parametrize("kind", ["conformance", "stated"])
def test_an_attestation_that_is_missing_or_another(copy: Path, kind: str) -> None:
    (path,) = (copy / "attestations").glob(f"{kind}.*")
    path.write_bytes(path.read_bytes() + b" ")
    (found,) = bad(examined(copy))
    assert (found.state, kind in found.subject) == (State.FAILED, True)
    path.unlink()
    (found,) = bad(examined(copy))
    assert (found.state, kind in found.subject) == (State.FAILED, True)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    (found,) = examined(tmp_path, model=None)
    assert (found.state, "bundle.json" in found.subject) == (State.FAILED, True)


def test_without_attestations_only_the_shape_is_compared(tmp_path: Path) -> None:
    known = fakes.dictionary()
    sheet = replace(known.manifest.encoder, d_in=128)
    seen = bundles.Bundle(
        name="made",
        known=replace(known, manifest=replace(known.manifest, encoder=sheet)),
        attestations=(),
        fit=None,
        conformance=None,
        unsound=(),
        model=facts_at(MODEL, digests=False),
        series=2,
    )
    assert next(bundles.attested(seen)).found == "no conformance and no fit"
    (fit,) = bundles.fits(
        replace(seen, known=replace(seen.known, manifest=replace(known.manifest, hook_point="mlp_in.3")))
    )
    assert (fit.state, fit.found) == (State.WARNING, "fits, by shape alone")
    (catalogue,) = bundles.catalogue(seen)
    assert (catalogue.state, "limits.series" in catalogue.hint) == (State.WARNING, True)
    empty = replace(known, catalogue=replace(known.catalogue, features=()))
    assert next(bundles.catalogue(replace(seen, known=empty))).state is State.FAILED


def test_a_model_that_it_was_not_made_for(tmp_path: Path) -> None:
    narrow = tmp_path / "config.json"
    narrow.write_text('{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 4}')
    (found,) = bad(examined(BUNDLE, narrow))
    assert (found.state, found.expected) == (State.FAILED, "64, the model's width")
    shallow = tmp_path / "config.json"
    shallow.write_text('{"architectures": ["LlamaForCausalLM"], "hidden_size": 128, "num_hidden_layers": 2}')
    (found,) = bad(examined(BUNDLE, shallow))
    assert found.expected == "more than 2 layers"


def test_a_model_that_the_tap_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"architectures": ["MambaForCausalLM"], "hidden_size": 128, "num_hidden_layers": 4}'
    )
    found = bad(examined(BUNDLE, tmp_path))
    assert (found[0].subject, found[0].state) == ("model", State.FAILED)
    assert "LlamaForCausalLM" in found[0].expected
    (missing, *_) = bad(examined(BUNDLE, tmp_path / "nowhere"))
    assert missing.state is State.FAILED


def test_no_model_is_named() -> None:
    (found,) = bad(examined(BUNDLE, model=None))
    assert (found.state, found.subject) == (State.UNVERIFIED, "bundle: fit")
