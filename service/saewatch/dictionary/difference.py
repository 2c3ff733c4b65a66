"""What differs between two bundles: numbers, meaning, features and evidence, each apart.

Another weights digest means that firings may differ. Another catalogue alone never does: engines are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from saewatch.core import canonical
from saewatch.core.catalogue import Feature
from saewatch.core.manifest import Manifest
from saewatch.dictionary.contents import Contents

FIELDS = (
    "label",
    "source",
    "score",
    "review",
    "category",
    "severity",
    "floor",
    "latents",
    "direction",
    "aggregation",
    "scope",
    "head",
    "claim",
)
"""What of a feature is compared, as the catalogue spells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """From an old bundle to a new one."""

    same_weights: bool
    meaning: Mapping[str, tuple[Any, Any]]
    """Members of the data sheet that differ, as ``encoder.activation``: (old, new)."""
    tensors: Mapping[str, str]
    """Each tensor: ``same``, ``other``, ``added``, ``removed``."""
    features_added: tuple[str, ...]
    features_removed: tuple[str, ...]
    features_changed: Mapping[str, Mapping[str, tuple[Any, Any]]]
    """By id: members that differ, (old, new)."""
    retired: tuple[str, ...]
    attestations_added: tuple[tuple[str, str], ...]
    """(kind, digest)."""
    attestations_removed: tuple[tuple[str, str], ...]

    @property
    def nothing(self) -> bool:
        """Whether it is the same bundle."""
        parts = (self.features_added, self.features_removed, self.features_changed, self.retired)
        return self.same_weights and not any((*parts, self.attestations_added, self.attestations_removed))

    def lines(self) -> Iterator[str]:
        """In words."""
        if self.nothing:
            yield "the same bundle"
            return
        yield "weights: the same; no engine is touched" if self.same_weights else "weights: OTHER; firings may differ"
        for name, (old, new) in self.meaning.items():
            yield f"  {name}: {_text(old)} -> {_text(new)}"
        for name, state in self.tensors.items():
            if state != "same" or not self.same_weights:
                yield f"  tensor {name}: {state}"
        yield from (f"feature {name}: added" for name in self.features_added)
        yield from (f"feature {name}: removed" for name in self.features_removed)
        for name, members in self.features_changed.items():
            yield from (f"feature {name}: {key} {_text(old)} -> {_text(new)}" for key, (old, new) in members.items())
        yield from (f"feature id {name}: retired" for name in self.retired)
        yield from (f"attestation {kind} {digest[:19]}: added" for kind, digest in self.attestations_added)
        yield from (f"attestation {kind} {digest[:19]}: removed" for kind, digest in self.attestations_removed)


def difference(old: Contents, new: Contents) -> Difference:
    """What makes ``new`` another bundle than ``old``."""
    before, after = ({one.id: one for one in side.catalogue.features} for side in (old, new))
    changed = {name: _changed(before[name], after[name]) for name in sorted(before.keys() & after.keys())}
    had, has = set(old.sheet.attestations), set(new.sheet.attestations)
    return Difference(
        same_weights=old.sheet.weights == new.sheet.weights,
        meaning=_meaning(old.manifest, new.manifest),
        tensors=_tensors(old.manifest, new.manifest),
        features_added=tuple(sorted(after.keys() - before.keys())),
        features_removed=tuple(sorted(before.keys() - after.keys())),
        features_changed={name: members for name, members in changed.items() if members},
        retired=tuple(sorted(set(new.catalogue.retired) - set(old.catalogue.retired))),
        attestations_added=tuple(sorted(has - had)),
        attestations_removed=tuple(sorted(had - has)),
    )


def _changed(old: Feature, new: Feature) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (getattr(old, name), getattr(new, name)) for name in FIELDS}
    return {name: (before, after) for name, (before, after) in pairs.items() if before != after}


def _tensors(old: Manifest, new: Manifest) -> dict[str, str]:
    found = {}
    for name in sorted(old.tensors.keys() | new.tensors.keys()):
        before, after = old.tensors.get(name), new.tensors.get(name)
        found[name] = "added" if before is None else "removed" if after is None else _state(before, after)
    return found


def _state(before: object, after: object) -> str:
    return "same" if before == after else "other"


def _meaning(old: Manifest, new: Manifest) -> dict[str, tuple[Any, Any]]:
    """All of the data sheets but their tensors, flat."""
    before, after = (dict(_flat(canonical.parse(side.data(), subject="data sheet"), "")) for side in (old, new))
    return {
        name: (before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, member in value.items():
            if path or key != "tensors":
                yield from _flat(member, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _text(value: Any) -> str:
    return "nothing" if value is None else f"{value!r}" if isinstance(value, str) else f"{value}"
