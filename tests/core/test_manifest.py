"""The data sheet: strict, canonical, and its digest covers what decides a firing and nothing else."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from saewatch.core import canonical
from saewatch.core.errors import ManifestError
from saewatch.core.manifest import (
    BundleSheet,
    EncoderSheet,
    Exclusions,
    Folding,
    InputNorm,
    Manifest,
    TensorSheet,
    attestation_path,
    expected_tensors,
    read_bundle_sheet,
    read_manifest,
)

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def manifest(**changes: Any) -> Manifest:
    encoder = EncoderSheet(activation="jumprelu", latents=8, directions=2, d_in=4, d_out=4)
    encoder = changes.pop("encoder", encoder)
    kind = changes.get("kind", "sae")
    shapes = expected_tensors(encoder, kind)
    tensors = {name: TensorSheet(dtype="F32", shape=shape, sha256=A) for name, shape in shapes.items()}
    sheet = Manifest(
        kind=kind,
        hook_point="resid_post.14",
        encoder=encoder,
        tensors=tensors,
        exclusions=Exclusions(exclude_first=1, special=(0, 2), max_norm=770.0),
        folded=(Folding(what="pre_bias"), Folding(what="normalisation", constant=0.217)),
    )
    return replace(sheet, **changes)


GOOD = {
    "jumprelu": manifest(),
    "topk": manifest(
        encoder=EncoderSheet(
            activation="topk",
            latents=8,
            directions=0,
            d_in=4,
            d_out=4,
            k=3,
            modes=("exact", "thresholded"),
        )
    ),
    "normalised": manifest(
        encoder=EncoderSheet(
            activation="relu",
            latents=8,
            directions=0,
            d_in=4,
            d_out=4,
            input_norm=InputNorm(kind="layer_norm", eps=1e-5),
        )
    ),
    "probes": manifest(
        kind="probes", encoder=EncoderSheet(activation="linear", latents=0, directions=2, d_in=4, d_out=4)
    ),
    "transcoder": manifest(kind="transcoder", hook_out="mlp_out.14"),
    "unbounded": manifest(exclusions=Exclusions()),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_sheet_reads_back(case: str) -> None:
    data = GOOD[case].data()
    assert read_manifest(data) == GOOD[case]
    assert GOOD[case].digest == canonical.digest(data)


def test_the_schema_of_version_1_does_not_change_by_accident() -> None:
    expected = (
        '{"encoder":{"activation":"linear","d_in":4,"d_out":4,"directions":2,"input_norm":{"kind":"none"},"k":null,'
        '"latents":0,"modes":["exact"]},"folded":[{"what":"pre_bias"},{"constant":"0.217","what":"normalisation"}],'
        '"hook":{"out":null,"point":"resid_post.14"},"kind":"probes","schema":"saewatch.dictionary/1","tensors":{'
        f'"W":{{"dtype":"F32","sha256":"{A}","shape":[2,4]}},"c":{{"dtype":"F32","sha256":"{A}","shape":[2]}},'
        f'"lim":{{"dtype":"F32","sha256":"{A}","shape":[2]}},"s":{{"dtype":"F32","sha256":"{A}","shape":[2]}}}},'
        '"tokens":{"exclude_first":1,"max_norm":"770.0","special":[0,2]}}'
    )
    assert GOOD["probes"].data().decode() == expected


@pytest.mark.parametrize(
    "change",
    [
        {"exclusions": Exclusions(exclude_first=2, special=(0, 2), max_norm=770.0)},
        {"folded": ()},
        {"hook_point": "resid_post.13"},
        {"encoder": EncoderSheet(activation="relu", latents=8, directions=2, d_in=4, d_out=4)},
    ],
)
def test_what_decides_a_firing_changes_the_digest(change: dict[str, Any]) -> None:
    assert manifest(**change).digest != manifest().digest


def changed(path: str, value: Any, sheet: Manifest | None = None) -> bytes:
    """The sheet's bytes with one member set (or, for ``...``, removed)."""
    found = copy.deepcopy(json.loads((sheet or manifest()).data()))
    *way, last = path.split(".")
    place = found
    for key in way:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


WRONG = [
    ("schema", "saewatch.dictionary/2", "dictionary.json: schema: found 'saewatch.dictionary/2'"),
    ("name", "x", "dictionary.json: name: found an unknown member"),
    ("kind", ..., "dictionary.json: kind: found nothing"),
    ("hook.point", "resid_post.014", "dictionary.json: hook.point: found"),
    ("hook.point", "blocks.14.hook_resid_post", "expected resid_post.14. Write our spelling"),
    ("hook.side", 1, "dictionary.json: hook.side: found an unknown member"),
    ("tokens.exclude_first", -1, "dictionary.json: tokens.exclude_first: found -1, expected 0 to"),
    ("tokens.special", [2, 0], "dictionary.json: tokens.special: found repeated or unordered"),
    ("tokens.max_norm", 770, "dictionary.json: tokens.max_norm: found int, expected a decimal as text"),
    ("tokens.max_norm", "770", "shortest form"),
    ("encoder.activation", "abstopk", "dictionary.json: encoder.activation: found 'abstopk', expected one of"),
    ("encoder.latents", 2**22 + 1, "dictionary.json: encoder.latents: found 4194305, expected 0 to 4194304"),
    ("encoder.d_in", True, "dictionary.json: encoder.d_in: found bool, expected an integer"),
    ("encoder.k", 3, "encoder.k: found 3, expected no k: each latent decides alone"),
    ("encoder.modes", ["thresholded"], "encoder.modes: found ['thresholded']"),
    ("encoder.modes", [], "encoder.modes"),
    ("encoder.input_norm.kind", "rms", "encoder.input_norm.kind: found 'rms'"),
    ("encoder.input_norm", {"kind": "layer_norm", "eps": "1e-05"}, "give probes a dictionary of their own"),
    ("encoder.latents", 0, "encoder.latents: found 0 latents, 2 directions, expected rows that fit jumprelu"),
    ("folded", [{"what": "magic"}], "dictionary.json: folded[0].what: found 'magic'"),
    ("tensors.s", ..., "dictionary.json: tensors.s: found nothing, expected this tensor"),
    ("tensors.threshold", {"dtype": "F32", "sha256": A, "shape": [8]}, "tensors.threshold: found present"),
    ("tensors.W.shape", [10, 5], "dictionary.json: tensors.W.shape: found [10, 5], expected [10, 4]"),
    ("tensors.lim.dtype", "BF16", "tensors.lim.dtype: found BF16, expected F32. Limits and biases are float32"),
    ("tensors.W.dtype", "F64", "tensors.W.dtype: found 'F64'"),
    ("tensors.W.sha256", "a" * 64, "tensors.W.sha256: found"),
    ("tensors.W.shape", [2**22, 2**22], "tensors.W.shape: found 70368744177664 bytes, expected at most"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_a_wrong_member_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ManifestError) as refused:
        read_manifest(changed(path, value))
    assert message in str(refused.value)


def test_topk_needs_a_k_within_its_latents() -> None:
    for k in (None, 9, 0):
        with pytest.raises(ManifestError, match=r"encoder.k"):
            read_manifest(changed("encoder.k", k, GOOD["topk"]))


def test_matrices_may_be_narrower_than_float32() -> None:
    read_manifest(changed("tensors.W.dtype", "F16"))


def test_a_bundle_sheet_reads_back() -> None:
    sheet = BundleSheet(weights=A, catalogue=B, attestations=(("fit", B), ("stated", A)))
    assert read_bundle_sheet(sheet.data()) == sheet
    assert sheet.digest == canonical.digest(sheet.data())


@pytest.mark.parametrize("listed", [(("stated", A), ("fit", B)), (("fit", B), ("fit", B))])
def test_attestations_are_listed_once_and_in_order(listed: Any) -> None:
    with pytest.raises(ManifestError, match=r"bundle.json: attestations: found repeated or unordered"):
        read_bundle_sheet(BundleSheet(weights=A, catalogue=B, attestations=listed).data())


def test_a_hostile_attestation_kind_names_no_path() -> None:
    with pytest.raises(ManifestError, match="kind"):
        read_bundle_sheet(BundleSheet(weights=A, catalogue=B, attestations=(("../x", B),)).data())
    assert attestation_path("fit", A) == "attestations/fit.aaaaaaaaaaaa.json"
