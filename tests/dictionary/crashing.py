"""A disk that dies at a step of one's choice, half way through what can end half way; and stores to try it on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from saewatch.core.attestation import Attestation
from saewatch.core.canonical import Json
from saewatch.core.catalogue import Catalogue, Feature
from saewatch.dictionary.bundle import Parts, write_bundle
from saewatch.dictionary.disk import Disk
from saewatch.dictionary.registry import Move, Registry, Slot
from saewatch.dictionary.store import Store
from saewatch.engine.dictionary_file import Dictionary
from tests import made

SLOT = Slot("demo", "resid_post.1")


class Crash(BaseException):
    """The machine stopped."""


class CrashingDisk(Disk):
    """Stops before its ``at``-th step. Files and lines that are being written then have their first half."""

    def __init__(self, at: float = float("inf")) -> None:
        self.at, self.steps = at, 0

    def _dies(self) -> bool:
        self.steps += 1
        return self.steps > self.at

    def _step(self) -> None:
        if self._dies():
            raise Crash

    def folder(self, path: Path) -> None:
        self._step()
        super().folder(path)

    def create(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        self._step()
        data = b"".join(chunks)
        if self._dies():
            path.write_bytes(data[: len(data) // 2])
            raise Crash
        super().create(path, [data])

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def append(self, path: Path, data: bytes) -> None:
        self._step()
        if self._dies():
            with path.open("ab") as file:
                file.write(data[: len(data) // 2])
            raise Crash
        super().append(path, data)

    def cut(self, path: Path, size: int) -> None:
        self._step()
        super().cut(path, size)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)

    def touch(self, path: Path) -> None:
        self._step()
        super().touch(path)


def bundle(
    folder: Path,
    *,
    seed: int = 0,
    gate: str | None = None,
    against: Mapping[str, Json] | None = None,
    labels: str = "made",
    features: tuple[Feature, ...] | None = None,
    one: Dictionary | None = None,
) -> Path:
    """A bundle's folder; ``gate``: what its evaluation attests, ``against``: beside what."""
    one = one or made.dictionary(seed=seed)
    features = made.features(one.manifest.encoder) if features is None else features
    catalogue = Catalogue(
        weights=one.manifest.digest, features=tuple(replace(feature, label=labels) for feature in features)
    )
    verdict: dict[str, Json] = {"verdict": gate or "", "failed": ["fvu"] if gate == "failed" else []}
    verdict |= {"against": against} if against else {}
    quality = [Attestation(kind="quality", weights=one.manifest.digest, body={"gate": verdict})] if gate else []
    parts = Parts(manifest=one.manifest, tensors=made.tensors_of(one), catalogue=catalogue, attestations=quality)
    write_bundle(parts, folder)
    return folder


def registry(root: Path, disk: Disk | None = None) -> Registry:
    """A store that is opened again, or made."""
    return Registry(Store(root, disk=disk, create=True))


def move(ref: str = "stable", **more: str | bool) -> Move:
    """By ada, at a time."""
    told = {"actor": "ada", "reason": "because", **more}
    return Move(slot=SLOT, ref=ref, time_ms=1_700_000_000_000, **told)  # type: ignore[arg-type]  # mixed values
