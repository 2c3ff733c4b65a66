"""An evaluation as a page."""

from __future__ import annotations

from saewatch.dictionary.quality import Quality


def page(quality: Quality) -> str:
    """The page."""
    return "\n".join(quality.failed)
