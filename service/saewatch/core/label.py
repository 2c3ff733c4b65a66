"""Where a feature's label comes from, what it is worth, and who reviewed it.

Each of the three may be unknown. A label is a hypothesis about what a feature reads: until a person has accepted it, it
is shown with a mark, by `shown` and nothing else, wherever a label is printed. A score that an import brought along is
*claimed*; one that was measured is precision and recall, each with what it was counted on.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from saewatch.core import canonical, limits
from saewatch.core.canonical import Json
from saewatch.core.errors import ManifestError
from saewatch.core.fields import Fields

SOURCES = ("hand", "csv", "neuronpedia", "auto")
UNREVIEWED, ACCEPTED, REJECTED = STATES = ("unreviewed", "accepted", "rejected")
_CLAIMED_MAX = 1e6
_COUNT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who wrote a label: ``hand``, ``csv``, ``neuronpedia`` or ``auto``; ``model``: which model did, where one did."""

    kind: str
    model: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.model})" if self.model else self.kind

    def json(self) -> Json:
        """As in the file."""
        return {"kind": self.kind, **({"model": self.model} if self.model else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """``hits`` of ``n``: an interval is made of it where it is shown."""

    hits: int
    n: int

    def __str__(self) -> str:
        return f"{self.hits} of {self.n}"

    def json(self) -> Json:
        """As in the file."""
        return {"hits": self.hits, "n": self.n}


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a label is worth: ``claimed`` by whoever it comes from, or measured on examples that it was not made from.

    precision: of the held-out examples that the label was taken to predict, those on which the feature fired.
    recall: of those on which it fired, those that the label was taken to predict.
    """

    claimed: float | None = None
    precision: Counted | None = None
    recall: Counted | None = None

    def __str__(self) -> str:
        if self.claimed is not None:
            return f"claimed {self.claimed:.3g}"
        return f"precision {self.precision}, recall {self.recall}"

    def json(self) -> Json:
        """As in the file."""
        if self.claimed is not None:
            return {"claimed": canonical.decimal_text(self.claimed)}
        assert self.precision is not None
        assert self.recall is not None
        return {"precision": self.precision.json(), "recall": self.recall.json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What a person said of a label; ``by`` is empty where nobody has."""

    state: str
    by: str = ""

    def __str__(self) -> str:
        return f"{self.state} by {self.by}" if self.by else self.state

    def json(self) -> Json:
        """As in the file."""
        return {"state": self.state, **({"by": self.by} if self.by else {})}


def shown(label: str, state: str | None) -> str:
    """A label as it is printed: marked unless a person accepted it. ``state``: empty or None where none is recorded."""
    return label if state == ACCEPTED or not label else f"{label} ({state if state == REJECTED else UNREVIEWED})"


def spelt(text: str, *, subject: str) -> str:
    """``text`` as a catalogue can hold it: NFC, no space around it, one line. ManifestError for what cannot be one."""
    found = unicodedata.normalize("NFC", text).strip()
    if not found:
        raise ManifestError(subject, found="nothing", expected="a label")
    if not found.isprintable():
        raise ManifestError(subject, found=f"{found!r:.60}", expected="one line without control characters")
    if len(found.encode(errors="replace")) > limits.LABEL_BYTES:
        length = len(found.encode(errors="replace"))
        raise ManifestError(subject, found=f"{length} bytes", expected=f"at most {limits.LABEL_BYTES} bytes")
    return found


# --- reading ----------------------------------------------------------------------------------------------------------
def read_source(sheet: Fields) -> Source:
    """The member ``source`` of a feature."""
    model = sheet.text("model", limit=limits.NAME_BYTES) if sheet.has("model") else ""
    found = Source(kind=sheet.choice("kind", SOURCES), model=model)
    sheet.close()
    return found


def read_score(sheet: Fields) -> Score:
    """The member ``score`` of a feature: claimed or measured, never both."""
    if sheet.has("claimed"):
        found = Score(claimed=sheet.decimal("claimed", -_CLAIMED_MAX, _CLAIMED_MAX))
    else:
        found = Score(precision=read_counted(sheet, "precision"), recall=read_counted(sheet, "recall"))
    sheet.close()
    return found


def read_counted(sheet: Fields, key: str) -> Counted:
    """``hits`` of ``n``."""
    inner = sheet.section(key)
    n = inner.integer("n", 0, _COUNT_MAX)
    found = Counted(hits=inner.integer("hits", 0, n), n=n)
    inner.close()
    return found


def read_review(sheet: Fields) -> Review:
    """The member ``review`` of a feature. ManifestError for a verdict that nobody gave."""
    state = sheet.choice("state", STATES)
    by = sheet.text("by", limit=limits.NAME_BYTES) if sheet.has("by") else ""
    sheet.close()
    if (state == UNREVIEWED) == bool(by):
        expected = "nobody who said so" if state == UNREVIEWED else "who said so"
        raise ManifestError(f"{sheet.subject}.by", found=repr(by), expected=expected)
    return Review(state=state, by=by)
