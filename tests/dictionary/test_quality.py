"""An evaluation as an attestation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from saewatch.core import canonical
from saewatch.core.attestation import read_attestation
from saewatch.dictionary.contents import read_folder
from saewatch.dictionary.gate import attested, is_verdict
from saewatch.dictionary.quality import labels
from tests import made
from tests.dictionary.evaluated import evaluated
from tests.dictionary.measured import figures, good


def test_the_gate_reads_what_was_written_and_whom_it_was_compared_with(tmp_path: Path) -> None:
    one = made.dictionary()
    bad = evaluated(good(figures=figures(fvu={"kept": 0.5})), weights=one.manifest.digest)
    made.bundle(tmp_path / "bad", one, (bad.attestation(),))
    found = attested(read_folder(tmp_path / "bad"))
    assert found.verdict == "failed"
    assert found.failed == ("fvu", "fvu.stated", "fvu.regression")
    assert found.against == (("sha256:" + "c" * 64, "sha256:" + "d" * 64),)
    passed = evaluated(good(against=None), weights=one.manifest.digest)
    made.bundle(tmp_path / "good", one, (passed.attestation(),))
    found = attested(read_folder(tmp_path / "good"))
    assert (found.verdict, found.against) == ("passed", ())
    assert is_verdict(passed.attestation())


def test_the_same_evaluation_gives_the_same_bytes_that_read_back() -> None:
    one, other = evaluated(good()).attestation(), evaluated(good()).attestation()
    assert one.digest == other.digest
    again = read_attestation(one.data(), subject="it", weights=one.weights)
    assert again.body["figures"]["fvu"]["kept"] == "0.15"  # type: ignore[index,call-overload]  # members of JSON
    assert canonical.parse(one.data(), subject="it")


def test_labels_count_as_reviewed_only_when_somebody_said_so() -> None:
    assert labels(made.features(made.dictionary().manifest.encoder)) == {
        "features": 3,
        "review": {"unreviewed": 3},
        "scored": 0,
    }


def test_what_was_not_measured_is_null_and_never_a_number() -> None:
    plain = evaluated(good(discerned=None, ce=None, against=None, alerting=()))
    body = dataclasses.replace(plain, labelled=None).plain()
    assert body["labelled"] is None
    assert (body["lift"], body["figures"]["ce_recovered"], body["gate"]["against"]) == (None, None, None)
    assert plain.attestation().data()
