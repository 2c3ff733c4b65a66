"""Attestations: about one dictionary, named by their digest, strict where the kind is known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from saewatch.core.attestation import (
    Adapter,
    Attestation,
    Conformance,
    read_adapter,
    read_attestation,
    read_conformance,
)
from saewatch.core.errors import ManifestError
from saewatch.core.fields import Fields
from saewatch.core.manifest import TensorSheet

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def test_an_attestation_reads_back() -> None:
    made = Attestation(kind="quality", weights=A, body={"auroc": "0.9", "anything": [1, None]})
    assert read_attestation(made.data(), subject="quality.json", weights=A) == made


def test_an_attestation_about_another_dictionary_is_refused() -> None:
    made = Attestation(kind="stated", weights=B, body={})
    with pytest.raises(ManifestError, match=r"stated.json: weights: found sha256:bbb.*It is about another dictionary"):
        read_attestation(made.data(), subject="stated.json", weights=A)


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("body", [], "x.json: body: found list, expected an object"),
        ("kind", "A B", "x.json: kind"),
        ("when", "today", "x.json: when: found an unknown member"),
        ("schema", "saewatch.attestation/9", "x.json: schema"),
    ],
)
def test_a_wrong_member_is_named(member: str, value: Any, message: str) -> None:
    found = json.loads(Attestation(kind="stated", weights=A, body={}).data()) | {member: value}
    data = json.dumps(found, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ManifestError) as refused:
        read_attestation(data, subject="x.json", weights=A)
    assert message in str(refused.value)


SHEETS = {
    name: TensorSheet(dtype="F32", shape=shape, sha256=A)
    for name, shape in {"inputs": (64, 4), "row": (9,), "index": (9,), "value": (9,)}.items()
}


def test_a_conformance_reads_back() -> None:
    made = Conformance(oracle="sae-lens 6.54.12", tensors=SHEETS)
    assert read_conformance(Attestation(kind="conformance", weights=A, body=made.body())) == made


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({name: sheet for name, sheet in SHEETS.items() if name != "row"}, "expected inputs, row, index, value"),
        (SHEETS | {"inputs": TensorSheet(dtype="F32", shape=(0, 4), sha256=A)}, "rows: found 0"),
        (SHEETS | {"inputs": TensorSheet(dtype="F32", shape=(4097, 4), sha256=A)}, "rows: found 4097"),
        (SHEETS | {"inputs": TensorSheet(dtype="F32", shape=(), sha256=A)}, "rows: found 0"),
    ],
)
def test_a_wrong_conformance_is_refused(tensors: Any, message: str) -> None:
    body = Conformance(oracle="x", tensors=tensors).body()
    with pytest.raises(ManifestError) as refused:
        read_conformance(Attestation(kind="conformance", weights=A, body=body))
    assert message in str(refused.value)


def test_an_adapter_reads_back_and_says_how() -> None:
    made = Adapter(name="sql", how="L0 and unexplained variance on 4096 tokens")
    assert read_adapter(Fields(dict(made.body()), "adapter: ")) == made
    with pytest.raises(ManifestError, match="adapter: how: found , expected text"):
        read_adapter(Fields({"name": "sql", "how": ""}, "adapter: "))
