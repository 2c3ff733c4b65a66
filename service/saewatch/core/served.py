"""Where a store keeps the bundles that are brought to engines, so that engines and sidecars find them by a digest.

    served/<bundle>/            the bundle's folder, as `saewatch dictionary export` makes it; never changed
    served/by-weights/<weights> the digest of the bundle whose labels are in force for these weights

Both are named by the digits of a digest. The second is a small file that is renamed into its place: a sidecar that
meets weights that it does not know, after a restart for one, reads which catalogue explains them.
"""

from __future__ import annotations

import os
from pathlib import Path

from saewatch.core import canonical
from saewatch.core.errors import ManifestError

SERVED, BY_WEIGHTS = "served", "by-weights"
PLACE = "SAEWATCH_STORE"
"""The environment's name for the store's folder."""


def default_store() -> str:
    """The folder that the environment names, or one in the user's folder for data."""
    data = os.environ.get("XDG_DATA_HOME", "")
    folder = data if data.startswith("/") else os.path.expanduser("~/.local/share")  # noqa: PTH111 - Path raises without a home
    return os.environ.get(PLACE) or f"{folder}/saewatch/dictionaries"


def folder_of(store: Path, bundle: str) -> Path:
    """Where a bundle lies that is served."""
    return store / SERVED / bundle.removeprefix("sha256:")


def pointer_of(store: Path, weights: str) -> Path:
    """The file that names the bundle in force for these weights."""
    return store / SERVED / BY_WEIGHTS / weights.removeprefix("sha256:")


def pointer_data(bundle: str) -> bytes:
    """What stands in it."""
    return f"{bundle}\n".encode()


def read_pointer(data: bytes, *, subject: str) -> str:
    """The bundle's digest. Raises `ManifestError` for anything else."""
    text = data.decode(errors="replace").removesuffix("\n")
    if not canonical.is_digest(text):
        hint = "Apply the bundle again: that writes it anew."
        raise ManifestError(subject, found=f"{text!r:.80}", expected="a bundle's digest", hint=hint)
    return text
