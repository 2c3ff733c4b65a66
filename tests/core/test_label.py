"""Labels: where they come from, what they are worth, who reviewed them, and the one mark that shows it."""

from __future__ import annotations

from typing import Any

import pytest

from saewatch.core import label
from saewatch.core.catalogue import Catalogue, Feature, read_catalogue
from saewatch.core.errors import ManifestError
from saewatch.core.fields import Fields
from saewatch.core.label import Counted, Review, Score, Source
from saewatch.core.manifest import EncoderSheet, Manifest

SHEET = Manifest(
    kind="sae",
    hook_point="resid_post.1",
    encoder=EncoderSheet(activation="relu", latents=10, directions=2, d_in=4, d_out=4),
    tensors={},
)
PLAIN = Feature(id="threat.l1", label="Threats", category="vcr", severity="high", floor=0.1, latents=(3,))
MEASURED = Score(precision=Counted(hits=9, n=10), recall=Counted(hits=4, n=8))


def catalogue(**changes: Any) -> Catalogue:
    made = {"id": "threat.l1", "label": "Threats", "category": "vcr", "severity": "high", "floor": 0.1, "latents": (3,)}
    return Catalogue(weights=SHEET.digest, features=(Feature(**{**made, **changes}),))


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("accepted", "Threats"),
        ("rejected", "Threats (rejected)"),
        ("unreviewed", "Threats (unreviewed)"),
        ("", "Threats (unreviewed)"),
        (None, "Threats (unreviewed)"),
        ("anything else", "Threats (unreviewed)"),
    ],
)
def test_only_an_accepted_label_stands_without_a_mark(state: str | None, text: str) -> None:
    assert label.shown("Threats", state) == text


def test_what_has_no_label_has_no_mark() -> None:
    assert label.shown("", None) == ""


def test_what_is_not_known_changes_no_digest() -> None:
    sheet = catalogue().features[0].json()
    assert isinstance(sheet, dict)
    assert not {"source", "score", "review"} & sheet.keys()
    assert catalogue().features[0] == PLAIN
    assert PLAIN.shown == "Threats (unreviewed)"


@pytest.mark.parametrize("score", [Score(claimed=0.81), MEASURED, None])
@pytest.mark.parametrize("review", [Review(state="accepted", by="ada"), Review(state="unreviewed"), None])
@pytest.mark.parametrize("source", [Source(kind="auto", model="some/model"), Source(kind="hand"), None])
def test_what_is_known_reads_back(source: Source | None, score: Score | None, review: Review | None) -> None:
    made = catalogue(source=source, score=score, review=review)
    assert read_catalogue(made.data(), SHEET) == made
    assert (made.digest == catalogue().digest) == ((source, score, review) == (None, None, None))


def test_it_says_what_it_is() -> None:
    assert str(Source(kind="auto", model="m")) == "auto (m)"
    assert str(MEASURED) == "precision 9 of 10, recall 4 of 8"
    assert (str(Score(claimed=0.812)), str(Review(state="rejected", by="ada"))) == ("claimed 0.812", "rejected by ada")


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a source of no kind": ("source", {"kind": "oracle"}, "source.kind: found 'oracle'"),
    "a long model": ("source", {"kind": "auto", "model": "x" * 257}, "source.model: found 257 bytes"),
    "an unknown member": ("source", {"kind": "auto", "prompt": "p"}, "source.prompt: found an unknown member"),
    "claimed and measured": ("score", {"claimed": "0.5", "recall": {}}, "score.recall: found an unknown member"),
    "more hits than examples": (
        "score",
        {"precision": {"hits": 3, "n": 2}, "recall": {"hits": 0, "n": 1}},
        "score.precision.hits: found 3",
    ),
    "precision alone": ("score", {"precision": {"hits": 1, "n": 2}}, "score.recall: found nothing"),
    "a claim that is no number": ("score", {"claimed": "nan"}, "score.claimed: found 'nan'"),
    "a state of no meaning": ("review", {"state": "fine", "by": "ada"}, "review.state: found 'fine'"),
    "a verdict of nobody": ("review", {"state": "accepted"}, "review.by: found '', expected who said so"),
    "nobody's by": ("review", {"state": "unreviewed", "by": "ada"}, "expected nobody who said so"),
    "text for an object": ("review", "accepted", "review: found str"),  # type: ignore[dict-item]  # it lies
}


@pytest.mark.parametrize(("member", "value", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(member: str, value: Any, said: str) -> None:
    read: Any = {"source": label.read_source, "score": label.read_score, "review": label.read_review}[member]
    with pytest.raises(ManifestError, match="features") as caught:
        read(Fields({member: value}, "features[0]").section(member))
    assert said in str(caught.value)


def test_a_label_is_one_line_of_text() -> None:
    assert label.spelt("  Sofi\u0301a ", subject="x") == "Sof\u00eda"
    for text, said in {"": "nothing", "a\nb": "'a", "\x1b[31mred": "'", "x" * 513: "513 bytes"}.items():
        with pytest.raises(ManifestError, match="expected") as caught:
            label.spelt(text, subject="x")
        assert str(caught.value.found).startswith(said)
