"""What every verb that reads a recording says of it: how much was seen, and what is wrong with the file.

Coverage is that of docs/glossary.md, as the sidecar tells it of a live stream: (encoded + reused) ÷ fed. Tokens that
the dictionary was not trained on were fed like all others, and stand among the reasons (`excluded`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def coverage(seen: int, fed: int) -> float | None:
    """The share that was seen; None where nothing was fed."""
    return seen / fed if fed else None


def covered(share: float | None, missed: Mapping[str, int]) -> str:
    """The same for people, with what is known of the rest, by reason."""
    if share is None:
        return "no token was fed"
    reasons = ", ".join(f"{tokens:,} {reason}" for reason, tokens in sorted(missed.items()) if tokens)
    return f"coverage {share:.4f}" + (f" (missed: {reasons})" if reasons else "")


def damaged(defects: Sequence[str]) -> list[str]:
    """A line about a file that `Recording.defects` says something of, else none."""
    return [f"THE RECORDING IS DAMAGED: {'; '.join(defects)}"] if defects else []
