"""The gate reads what was attested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saewatch.core.attestation import Attestation
from saewatch.core.errors import ManifestError
from saewatch.dictionary.contents import Contents, read_folder
from saewatch.dictionary.gate import Verdict, attested
from tests import made
from tests.dictionary.test_certificate import a_certificate


def contents(folder: Path, *bodies: Any) -> Contents:
    one = made.dictionary()
    listed = [Attestation(kind="quality", weights=one.manifest.digest, body=body) for body in bodies]
    made.bundle(folder, one, tuple(listed))
    return read_folder(folder)


def test_one_that_was_never_evaluated(tmp_path: Path) -> None:
    assert attested(contents(tmp_path / "a")) == Verdict(verdict="none")
    assert attested(contents(tmp_path / "b", {"auroc": "0.9"})) == Verdict(verdict="none")


def test_all_verdicts_have_to_pass(tmp_path: Path) -> None:
    passed, failed = {"gate": {"verdict": "passed"}}, {"gate": {"verdict": "failed", "failed": ["fvu", "l0"]}}
    for name, bodies in (("a", (passed, failed)), ("b", (failed, passed, {"auroc": "1"}))):
        found = attested(contents(tmp_path / name, *bodies))
        assert (found.verdict, found.failed) == ("failed", ("fvu", "l0"))
    found = attested(contents(tmp_path / "c", passed))
    assert (found.verdict, found.failed, found.attestation[:7]) == ("passed", (), "sha256:")
    assert found.record(overridden=False).verdict == "passed"


@pytest.mark.parametrize("gate", ["passed", {}, {"verdict": "good"}, {"verdict": "failed", "failed": "fvu"}])
def test_a_verdict_that_is_none(tmp_path: Path, gate: Any) -> None:
    with pytest.raises(ManifestError, match=r"quality sha256:\w*: gate"):
        attested(contents(tmp_path / "a", {"gate": gate}))


def test_a_refused_certificate_fails_it(tmp_path: Path) -> None:
    one = made.dictionary()
    passed = Attestation(kind="quality", weights=one.manifest.digest, body={"gate": {"verdict": "passed"}})
    for name, fvu, verdict in (("a", 0.13, "passed"), ("b", 0.30, "failed")):
        certificate = a_certificate(fvu_served=fvu, weights=one.manifest.digest).attestation()
        made.bundle(tmp_path / name, one, (passed, certificate))
        found = attested(read_folder(tmp_path / name))
        assert (found.verdict, found.failed) == (verdict, ("certificate",) if verdict == "failed" else ())
        assert found.attestation == (certificate if verdict == "failed" else passed).digest


def test_whom_it_was_compared_with(tmp_path: Path) -> None:
    other = {name: f"sha256:{letter * 64}" for name, letter in (("bundle", "b"), ("weights", "c"), ("catalogue", "d"))}
    passed = {"gate": {"verdict": "passed", "failed": [], "against": other}}
    alone = {"gate": {"verdict": "passed", "against": None}}
    assert attested(contents(tmp_path / "a", passed, alone)).against == ((other["weights"], other["catalogue"]),)
    assert attested(contents(tmp_path / "b", alone)).against == ()
    with pytest.raises(ManifestError, match="weights"):
        attested(contents(tmp_path / "c", {"gate": {"verdict": "passed", "against": {"bundle": "x"}}}))
