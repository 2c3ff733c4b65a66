"""Attestations: statements about one dictionary, each a file of its own, named by its digest and never changed.

What a dictionary's authors state (``stated``), which model it was made for (``fit``), on which adapters of that model
it was evaluated (``adapter``, one each), where it came from (``provenance``), how its encoder was checked
(``conformance``), and later quality, calibration and review. They lie outside the weights digest, so that new evidence
does not make a new dictionary. Bodies of the kinds below are read strictly; other kinds are kept as they are, for those
who know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saewatch.core import canonical, limits
from saewatch.core.canonical import Json
from saewatch.core.errors import ManifestError
from saewatch.core.fields import Fields
from saewatch.core.manifest import NAME, TensorSheet, read_tensor_sheet

SCHEMA = "saewatch.attestation/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A statement of one kind about the dictionary ``weights``."""

    kind: str
    weights: str
    body: Mapping[str, Json]

    def data(self) -> bytes:
        """The file's bytes."""
        sheet: Json = {"schema": SCHEMA, "kind": self.kind, "weights": self.weights, "body": self.body}
        return canonical.dump(sheet, subject=f"attestation {self.kind}")

    @property
    def digest(self) -> str:
        """SHA-256 of the file's bytes."""
        return canonical.digest(self.data())


def read_attestation(data: bytes, *, subject: str, weights: str) -> Attestation:
    """The attestation in ``data``; ManifestError when it is malformed or about another dictionary."""
    sheet = Fields(canonical.parse(data, subject=subject), f"{subject}: ")
    sheet.choice("schema", (SCHEMA,))
    kind = sheet.text("kind", pattern=NAME)
    about = sheet.digest("weights")
    body = sheet.take("body")
    sheet.close()
    if not isinstance(body, dict):
        raise ManifestError(f"{subject}: body", found=type(body).__name__, expected="an object")
    if about != weights:
        raise ManifestError(
            f"{subject}: weights", found=about, expected=weights, hint="It is about another dictionary."
        )
    return Attestation(kind=kind, weights=about, body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The model that a dictionary was made for. Empty text: not known."""

    model: str
    architecture: str
    d_model: int
    layers: int
    weights: str
    """Model digest."""
    tokenizer: str
    chat_template: str
    numerics: str = ""

    def body(self) -> Mapping[str, Json]:
        """As in the file."""
        return {
            "model": self.model,
            "architecture": self.architecture,
            "d_model": self.d_model,
            "layers": self.layers,
            "weights": self.weights,
            "tokenizer": self.tokenizer,
            "chat_template": self.chat_template,
            "numerics": self.numerics,
        }


def read_fit(attestation: Attestation) -> Fit:
    """The body of a ``fit``."""
    body = Fields(attestation.body, "fit: ")
    fit = Fit(
        model=body.text("model", empty=True),
        architecture=body.text("architecture", empty=True),
        d_model=body.integer("d_model", 1, limits.D_IN),
        layers=body.integer("layers", 1, 10_000),
        weights=_known(body, "weights"),
        tokenizer=_known(body, "tokenizer"),
        chat_template=_known(body, "chat_template"),
        numerics=body.text("numerics", empty=True),
    )
    body.close()
    return fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter (LoRA) of the model on which the dictionary was evaluated, and how."""

    name: str
    """As the engine serves it."""
    how: str

    def body(self) -> Mapping[str, Json]:
        """As in the file."""
        return {"name": self.name, "how": self.how}


def read_adapter(body: Fields) -> Adapter:
    """The body of an ``adapter``."""
    found = Adapter(name=body.text("name"), how=body.text("how"))
    body.close()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformance:
    """Which oracle encoded the stored rows, and what the file of rows and answers holds."""

    oracle: str
    tensors: Mapping[str, TensorSheet]
    """``inputs [n, d_in]``, and the answers as ``row``, ``index``, ``value`` of what fired."""

    def body(self) -> Mapping[str, Json]:
        """As in the file."""
        return {"oracle": self.oracle, "tensors": {name: sheet.json() for name, sheet in self.tensors.items()}}


def read_conformance(attestation: Attestation) -> Conformance:
    """The body of a ``conformance``."""
    body = Fields(attestation.body, "conformance: ")
    tensors = {name: read_tensor_sheet(sheet) for name, sheet in body.mapping("tensors").items()}
    found = Conformance(oracle=body.text("oracle"), tensors=tensors)
    body.close()
    if tensors.keys() != {"inputs", "row", "index", "value"}:
        raise ManifestError("conformance: tensors", found=sorted(tensors), expected="inputs, row, index, value")
    rows = tensors["inputs"].shape[0] if tensors["inputs"].shape else 0
    if not 0 < rows <= limits.CONFORMANCE_ROWS:
        raise ManifestError("conformance: rows", found=rows, expected=f"1 to {limits.CONFORMANCE_ROWS}")
    return found


def _known(body: Fields, key: str) -> str:
    text = body.text(key, empty=True)
    if text and not canonical.is_digest(text):
        raise ManifestError(f"fit: {key}", found=repr(text), expected="a digest, or nothing where it is not known")
    return text
