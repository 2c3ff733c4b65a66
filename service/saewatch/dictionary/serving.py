"""Bundles of a store as folders that engines and sidecars read, and which of them explains its weights.

A folder is made once and never changed; the layout is `saewatch.core.served`. Who brings a bundle to engines does so
`alone`, so that of two operators one is done before the other begins, and looks then what the ref points to: it brings
that, and not what it pointed to when the slower one began.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from saewatch.core import canonical, limits, served
from saewatch.core.errors import ConfigError, SaewatchError
from saewatch.dictionary.disk import held, read
from saewatch.dictionary.folder import whole
from saewatch.dictionary.registry import Registry, Slot
from saewatch.dictionary.store import APPLY, BUNDLES, TMP, Store


def folder(store: Store, bundle: str) -> Path:
    """The folder of a stored bundle, which is made where it is not there. Errors as `Store.export` has."""
    store.disk.folder(store.root / served.SERVED)
    out = served.folder_of(store.root, bundle)
    store.export(bundle, out)
    return out


def explain(store: Store, bundle: str) -> None:
    """From here on this bundle's labels are those of its weights, for whoever meets these."""
    weights = store.contents(bundle).sheet.weights
    path = served.pointer_of(store.root, weights)
    store.disk.folder(path.parent.parent)
    store.disk.folder(path.parent)
    partial = store.root / TMP / f"served.{path.name}"  # under the lock there is one at a time
    store.disk.remove(partial)
    store.disk.create(partial, [served.pointer_data(bundle)])
    store.disk.rename(partial, path)


def explained(store: Store, weights: str) -> str:
    """The bundle that was brought to engines last with these weights; empty for none."""
    path = served.pointer_of(store.root, weights)
    return _names(path) if path.is_file() else ""


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """The only one who brings bundles to engines, having waited for whoever does."""
    with held(store.root / APPLY):
        yield


def check_current(registry: Registry, slot: Slot, ref: str, bundle: str) -> None:
    """Raises `ConfigError` where the ref points elsewhere by now."""
    current = registry.current(slot).get(ref)
    if current != bundle:
        hint = "Somebody moved it meanwhile: `saewatch dictionary history` says who. Apply what it points to now."
        raise ConfigError(f"{slot}@{ref}", found=current or "nothing", expected=bundle, hint=hint)


def damage(store: Store) -> Iterator[tuple[Path, str]]:
    """What is wrong with the folders and what names them, each with its file."""
    root = store.root / served.SERVED
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        bundle = f"sha256:{path.name}"
        if path.name == served.BY_WEIGHTS:
            yield from _pointers(store, path)
        elif path.name.startswith("."):  # what an interrupted export leaves; the next one removes it
            continue
        elif path.is_symlink() or not canonical.is_digest(bundle) or not store.has(BUNDLES, bundle):
            yield path, "no bundle of the store"
        else:
            try:
                found = whole(path).sheet.digest
                if found != bundle:
                    yield path, f"holds {found}"
            except SaewatchError as error:
                yield path, str(error)


def _pointers(store: Store, root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(root.iterdir()):
        try:
            bundle = served.read_pointer(read(path, limits.KIB), subject=path.name)
            weights = store.contents(bundle).sheet.weights
        except SaewatchError as error:
            yield path, str(error)
            continue
        if path.name != weights.removeprefix("sha256:"):
            yield path, f"names a bundle of the weights {weights}"


def clear(store: Store, kept: Collection[str], *, dry_run: bool) -> int:
    """Removes the folders of bundles that are not ``kept``, and what names them; gives how many."""
    root = store.root / served.SERVED
    if not root.is_dir():
        return 0
    named = (path for path in sorted(root.iterdir()) if canonical.is_digest(f"sha256:{path.name}"))
    folders = (path for path in named if path.is_dir() and not path.is_symlink())  # `damage` names the others
    gone = [path for path in folders if f"sha256:{path.name}" not in kept]
    if not dry_run:
        for path in gone:
            shutil.rmtree(path)
        for path in sorted((root / served.BY_WEIGHTS).glob("*")):
            if _names(path) in {f"sha256:{one.name}" for one in gone}:
                store.disk.remove(path)
    return len(gone)


def _names(path: Path) -> str:
    try:
        return served.read_pointer(read(path, limits.KIB), subject=path.name)
    except SaewatchError:
        return ""
