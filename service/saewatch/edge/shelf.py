"""The dictionaries that a sidecar knows: those of its configuration, and those of a store, found when they are needed.

A store keeps what was brought to engines (`saewatch.core.served`). Its files are read when an engine opens a stream
with weights that nobody here knows, and when a bundle is to be applied. What was applied last is in force, also over a
configured bundle with other labels for the same weights: the configuration is older.

Readers on several threads see one mapping or the next: it is replaced, never changed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from saewatch.core import canonical, limits, served
from saewatch.core.errors import ManifestError, SaewatchError, UnreachableError
from saewatch.edge import dictionaries
from saewatch.monitor.tables import KnownDictionary

logger = structlog.get_logger(__name__)

POINTER_BYTES = 128


class Shelf(Mapping[str, KnownDictionary]):
    """Dictionaries by weights digest. ``store``: a store's folder, which need not be there; None: there is none."""

    def __init__(self, configured: Mapping[str, KnownDictionary], *, store: Path | None = None) -> None:
        self._configured = frozenset(configured)
        self._found: Mapping[str, KnownDictionary] = dict(configured)
        self._store = store
        self._lock = threading.Lock()
        for weights in configured:
            self._take_applied(weights)

    def __getitem__(self, weights: str) -> KnownDictionary:
        """The dictionary with these weights."""
        return self._found[weights]

    def __iter__(self) -> Iterator[str]:
        """Digests of their weights."""
        return iter(self._found)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._found)

    def meet(self, weights: str) -> None:
        """An engine has these weights: looks for them in the store, if they are not known. Never raises."""
        if weights and weights not in self._found:
            self._take_applied(weights)

    def within_reach(self) -> Iterator[KnownDictionary]:
        """Those that are known, and those of the store that an engine may come with."""
        yield from self._found.values()
        for weights in self._pointed() - self._found.keys():
            known = self._applied(weights)
            if known is not None:
                yield known

    def _pointed(self) -> set[str]:
        """Weights that something of the store was applied with, the latest ones."""
        if self._store is None:
            return set()
        try:
            found = list((self._store / served.SERVED / served.BY_WEIGHTS).iterdir())
            found.sort(key=lambda path: path.stat().st_mtime_ns)
        except OSError:  # nothing was applied yet, or there is no store
            return set()
        return {f"sha256:{path.name}" for path in found[-limits.DICTIONARIES_KEPT :]}

    def read(self, bundle: str) -> KnownDictionary:
        """The dictionary of a bundle of the store, or of the configuration; nothing is in force by that.

        Raises `UnreachableError` where there is none, `ManifestError` where its files are wrong.
        """
        if self._store is None or not canonical.is_digest(bundle):
            return self._read_here(bundle)
        folder = served.folder_of(self._store, bundle)
        if not folder.is_dir():
            return self._read_here(bundle)
        known = dictionaries.load_one(folder)
        if known.bundle_digest != bundle:
            hint = "Remove that folder, and apply the bundle again."
            raise ManifestError(str(folder), found=known.bundle_digest, expected=bundle, hint=hint)
        return known

    def _read_here(self, bundle: str) -> KnownDictionary:
        for known in self._found.values():
            if bundle and known.bundle_digest == bundle:
                return known
        hint = (
            "Does it read the store that was written to? `store` in its configuration names the folder that it reads."
        )
        found, expected = bundle[:128] or "nothing", f"one in {self._store or 'a store'}"
        raise UnreachableError("bundle", found=found, expected=expected, hint=hint)

    def keep(self, known: KnownDictionary) -> None:
        """From here on it explains its weights."""
        with self._lock:
            found = {weights: one for weights, one in self._found.items() if weights != known.weights_digest}
            found[known.weights_digest] = known
            spare = [weights for weights in found if weights not in self._configured]
            for weights in spare[: max(0, len(spare) - limits.DICTIONARIES_KEPT)]:
                del found[weights]  # the oldest: should it come again, it is read again
            self._found = found

    def _take_applied(self, weights: str) -> None:
        known = self._applied(weights)
        if known is not None:
            self.keep(known)

    def _applied(self, weights: str) -> KnownDictionary | None:
        """What of the store is in force for these weights."""
        if self._store is None or not canonical.is_digest(weights):
            return None
        pointer = served.pointer_of(self._store, weights)
        try:
            with pointer.open("rb") as file:
                data = file.read(POINTER_BYTES)
        except OSError:  # nothing was applied with these weights, or there is no store
            return None
        try:
            known = self.read(served.read_pointer(data, subject=str(pointer)))
            if known.weights_digest != weights:
                raise ManifestError(str(pointer), found=known.weights_digest, expected=weights)
        except SaewatchError as error:
            logger.warning("dictionary of the store left out", weights=weights, reason=str(error))
            return None
        return known
