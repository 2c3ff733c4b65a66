"""May a bundle raise alerts? What its evaluation attested: the member ``gate`` of an attestation ``quality``.

    {"gate": {"verdict": "passed" | "failed", "failed": ["fvu", …], "against": {"bundle", "weights", "catalogue"}}, …}

A bundle with several such attestations has to pass them all. One without any was never evaluated: `none`. ``against``,
which may be absent or null, is the bundle that it was compared with: whether it is worse than another one, nobody
knows. A fidelity certificate that was refused fails it too: none of its features may back an alert on what serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from saewatch.core.attestation import Attestation
from saewatch.core.fields import Fields
from saewatch.dictionary.certificate import KIND as CERTIFICATE
from saewatch.dictionary.certificate import REFUSED, read_certificate
from saewatch.dictionary.contents import Contents
from saewatch.dictionary.journal import GateRecord

_FAILED_MOST = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``passed`` | ``failed`` | ``none``, the attestation that says so, and what failed in it."""

    verdict: str
    attestation: str = ""
    failed: tuple[str, ...] = ()
    against: tuple[tuple[str, str], ...] = ()
    """Weights and catalogue of those that it was compared with."""

    def record(self, *, overridden: bool) -> GateRecord:
        """For the journal."""
        return GateRecord(verdict=self.verdict, attestation=self.attestation, overridden=overridden)


Gate = Callable[[Contents], Verdict]
"""Says of a bundle whether it may be promoted."""


def attested(contents: Contents) -> Verdict:
    """The gate that reads what was attested. ManifestError for a verdict that is none."""
    found = Verdict(verdict="none")
    against: list[tuple[str, str]] = []
    for one in contents.attested("quality"):
        if "gate" not in one.body:
            continue
        sheet = Fields(one.body["gate"], f"quality {one.digest[:19]}: gate")
        verdict = sheet.choice("verdict", ("passed", "failed"))
        failed = tuple(str(name) for name in sheet.items("failed", _FAILED_MOST)) if sheet.has("failed") else ()
        if sheet.has("against") and not sheet.absent("against"):
            other = sheet.section("against")
            against.append((other.digest("weights"), other.digest("catalogue")))
        if found.verdict != "failed":
            found = Verdict(verdict=verdict, attestation=one.digest, failed=failed)
    for one in contents.attested(CERTIFICATE):
        if found.verdict != "failed" and read_certificate(one).verdict == REFUSED:
            found = Verdict(verdict="failed", attestation=one.digest, failed=(CERTIFICATE,))
    return replace(found, against=tuple(against))


def is_verdict(one: Attestation) -> bool:
    """Whether an attestation is one that the gate reads."""
    return one.kind == "quality" and "gate" in one.body
