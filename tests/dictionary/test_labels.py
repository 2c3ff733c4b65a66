"""Who may relabel what, and what a relabel changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from saewatch.core.catalogue import Catalogue, Feature, read_catalogue
from saewatch.core.errors import ManifestError
from saewatch.core.label import Counted, Review, Score, Source
from saewatch.core.manifest import EncoderSheet, Manifest
from saewatch.dictionary import labels
from saewatch.dictionary.calibration import reads
from saewatch.dictionary.labels import Proposal, relabelled

SHEET = Manifest(
    kind="sae",
    hook_point="resid_post.1",
    encoder=EncoderSheet(activation="relu", latents=20_000, directions=2, d_in=4, d_out=4),
    tensors={},
)
AUTO, PEDIA, CSV = (Source(kind=kind) for kind in ("auto", "neuronpedia", "csv"))
ACCEPTED, REJECTED = Review(state="accepted", by="ada"), Review(state="rejected", by="ada")


def feature(name: str = "threat.l1", **changes: Any) -> Feature:
    made = Feature(id=name, label="Threats", category="vcr", severity="high", floor=0.1, latents=(3,))
    return replace(made, **changes)


GROUP = feature("threat.g1", latents=(3, 7))


def catalogue(*features: Feature, **changes: Any) -> Catalogue:
    return replace(Catalogue(weights=SHEET.digest, features=features), **changes)


def proposal(label: str = "Insults", *, source: Source = CSV, where: str = "a:2", **which: Any) -> Proposal:
    return Proposal(where=where, source=source, label=label, **which)


def test_a_relabel_keeps_everything_but_the_label() -> None:
    before = catalogue(GROUP, feature(review=ACCEPTED, score=Score(claimed=0.5), source=Source(kind="hand")))
    found = relabelled(before, SHEET, [proposal(feature="threat.l1")])
    assert (found.changed, found.kept) == ((), ("threat.l1",)), "somebody accepted the label"
    found = relabelled(before, SHEET, [proposal(feature="threat.l1")], overwrite=True)
    new = found.catalogue.features[1]
    assert (new.label, new.source, new.score, new.review) == ("Insults", CSV, None, Review(state="unreviewed"))
    assert replace(new, label="", source=None, score=None, review=None) == replace(
        before.features[1], label="", source=None, score=None, review=None
    )
    assert reads(new) == reads(before.features[1]), "a limit goes with what is read"
    assert (found.catalogue.parent, found.catalogue.weights) == (before.digest, before.weights)
    assert found.catalogue.watch_list(SHEET) == before.watch_list(SHEET)
    assert read_catalogue(found.catalogue.data(), SHEET) == found.catalogue


def test_the_same_label_again_stays_reviewed_and_makes_no_new_catalogue() -> None:
    before = catalogue(feature(review=REJECTED))
    found = relabelled(before, SHEET, [proposal("Threats", feature="threat.l1")])
    assert found.catalogue.features[0].review == REJECTED
    before = catalogue(feature(source=CSV))
    found = relabelled(before, SHEET, [proposal("Threats", feature="threat.l1")])
    assert (found.catalogue, found.changed) == (before, ())
    scored = relabelled(before, SHEET, [proposal("Threats", feature="threat.l1", score=Score(claimed=1.0))])
    assert (scored.changed, scored.catalogue.features[0].score) == (("threat.l1",), Score(claimed=1.0))


@pytest.mark.parametrize(
    ("known", "source", "yields"),
    [
        (feature(), CSV, True),
        (feature(), AUTO, False),
        (feature(source=Source(kind="hand")), PEDIA, False),
        (feature(source=PEDIA), AUTO, True),
        (feature(source=PEDIA, review=ACCEPTED), AUTO, False),
        (feature(source=PEDIA, review=ACCEPTED), CSV, False),
        (feature(review=REJECTED), AUTO, True),
    ],
)
def test_a_persons_label_yields_to_a_person(known: Feature, source: Source, *, yields: bool) -> None:
    found = relabelled(catalogue(known), SHEET, [proposal(source=source, latent=3)])
    assert (bool(found.changed), bool(found.kept)) == (yields, not yields)


def test_a_latent_without_a_feature_gets_one_where_that_was_asked_for() -> None:
    before = catalogue(feature(), feature("threat.l4", latents=(4,)), retired=("threat.l7",))
    given = [proposal(latent=9), proposal("Cities", latent=12, where="a:3", concept="place", severity="low", floor=0.5)]
    found = relabelled(before, SHEET, given, concept="threat")
    assert found.added == ("place.l1", "threat.l8"), "after every number that was ever used"
    place, threat = (one for one in found.catalogue.features if one.id in found.added)
    assert (threat.latents, threat.category, threat.severity) == ((9,), "vcr", "low")
    assert (place.latents, place.category, place.floor, place.review) == (
        (12,),
        "x.place",
        0.5,
        Review(state="unreviewed"),
    )
    assert relabelled(before, SHEET, given[:1]).unnamed == 1
    named = relabelled(before, SHEET, [proposal(latent=9, feature="spot.l3")])
    assert named.added == ("spot.l3",)


WRONG: dict[str, tuple[list[Proposal], str]] = {
    "a latent beyond the last": ([proposal(latent=20_000)], "a:2: latent: found 20000, expected below 20000"),
    "no such feature": ([proposal(feature="none.l1")], "a:2: none.l1: found no such feature"),
    "one feature twice": (
        [proposal(feature="threat.l1"), proposal(feature="threat.l1", where="a:3")],
        "a:3: threat.l1: found a label at a:2 already",
    ),
    "by id and by latent": ([proposal(feature="threat.l1"), proposal(latent=3, where="a:3")], "at a:2 already"),
    "one new latent twice": ([proposal(latent=9), proposal(latent=9, where="a:3")], "at a:2 already"),
    "one new id twice": (
        [proposal(latent=9, feature="a.l1"), proposal(latent=10, feature="a.l1", where="a:3")],
        "a.l1: found latents 9, expected latent 10",
    ),
    "another latent": ([proposal(feature="threat.l1", latent=4)], "threat.l1: found latents 3, expected latent 4"),
    "a retired id": ([proposal(feature="old.l1", latent=9)], "old.l1: found a retired id"),
    "an id of another kind": ([proposal(feature="threat.p1", latent=9)], "expected one latent for .l"),
    "another category": ([proposal(feature="threat.l1", category="ncr")], "A concept's features share its category"),
    "another floor": ([proposal(feature="threat.l1", floor=0.5)], "a:2: floor: found 0.5, expected 0.1"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused(given: list[Proposal], said: str) -> None:
    before = catalogue(GROUP, feature(), retired=("old.l1",))
    with pytest.raises(ManifestError) as caught:
        relabelled(before, SHEET, given, concept="made")
    assert said in str(caught.value)


def test_more_features_than_a_concept_numbers() -> None:
    given = [proposal(latent=latent, where=f"a:{latent}") for latent in range(10_000)]
    with pytest.raises(ManifestError, match="Spread them over several concepts"):
        relabelled(catalogue(), SHEET, given, concept="made")


def test_a_score_is_told_with_its_n_and_interval() -> None:
    """Clopper-Pearson of 9 in 10 by R's binom.test: 0.555 to 0.997; of 0 in 4: 0 to 0.602."""
    score = Score(precision=Counted(hits=9, n=10), recall=Counted(hits=0, n=4))
    assert labels.worth(score) == "precision 0.90 [0.55, 1.00] of 10, recall 0.00 [0.00, 0.60] of 4"
    assert labels.worth(None) == "not scored"
    told = labels.told(feature(source=AUTO, score=Score(claimed=0.5)))
    assert told == "Threats (unreviewed); from auto; claimed 0.5"
    nothing = Counted(hits=0, n=0)
    assert labels.interval_text(nothing) == "- [0.00, 1.00] of 0"
