"""Recordings as every verb opens them, and says of them how much was seen and what is wrong with the file.

Coverage is that of docs/glossary.md, as the sidecar tells it of a live stream: (encoded + reused) ÷ fed. Tokens that
the dictionary was not trained on were fed like all others, and stand among the reasons (`excluded`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from saewatch.core.errors import FrameError, UnreachableError
from saewatch.core.recording import Recording


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Recording]:
    """The recording in a file. Raises `UnreachableError` for a file that cannot be read, or not from its middle.

    Raises `FrameError` that names ``path`` for what is no recording.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror, expected="a recording that can be read") from error
    with file:
        if not file.seekable():
            raise UnreachableError(str(path), found="a pipe", expected="a file")
        try:
            found = Recording(file)
        except FrameError as error:
            raise type(error)(str(path), found=error.found, expected=error.expected, hint=error.hint) from error
        yield found


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
