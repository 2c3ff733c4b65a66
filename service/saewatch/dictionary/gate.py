"""May a bundle raise alerts? What its evaluation attested: the member ``gate`` of an attestation ``quality``.

    {"gate": {"verdict": "passed" | "failed", "failed": ["fvu", …]}, …}

A bundle with several such attestations has to pass them all. One without any was never evaluated: `none`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from saewatch.core.fields import Fields
from saewatch.dictionary.contents import Contents
from saewatch.dictionary.journal import GateRecord

_FAILED_MOST = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``passed`` | ``failed`` | ``none``, the attestation that says so, and what failed in it."""

    verdict: str
    attestation: str = ""
    failed: tuple[str, ...] = ()

    def record(self, *, overridden: bool) -> GateRecord:
        """For the journal."""
        return GateRecord(verdict=self.verdict, attestation=self.attestation, overridden=overridden)


Gate = Callable[[Contents], Verdict]
"""Says of a bundle whether it may be promoted."""


def attested(contents: Contents) -> Verdict:
    """The gate that reads what was attested. ManifestError for a verdict that is none."""
    found = Verdict(verdict="none")
    for one in contents.attested("quality"):
        if "gate" not in one.body:
            continue
        sheet = Fields(one.body["gate"], f"quality {one.digest[:19]}: gate")
        verdict = sheet.choice("verdict", ("passed", "failed"))
        failed = tuple(str(name) for name in sheet.items("failed", _FAILED_MOST)) if sheet.has("failed") else ()
        if found.verdict != "failed":
            found = Verdict(verdict=verdict, attestation=one.digest, failed=failed)
    return found
