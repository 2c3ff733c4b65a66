"""What the dictionaries that a model's slots put in force take of the device together.

They run in one engine: the stable one of each slot, and the shadow beside it. Dictionaries on one hook point share its
rows. The arithmetic is the tap's own (`saewatch.core.footprint`), at its defaults; the time of a step is an estimate
from a device's data sheet (`saewatch.core.cost`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saewatch.core import limits
from saewatch.core.cost import DEVICES, Seconds, step_seconds
from saewatch.core.errors import ConfigError
from saewatch.core.footprint import footprint, mib, needs_whole
from saewatch.core.records import Role
from saewatch.core.tapconfig import DictionaryUse, TapConfig
from saewatch.dictionary.contents import Contents
from saewatch.dictionary.registry import SHADOW, STABLE, Registry, Slot

ROWS_MAX, ROWS = 8192, 256
"""Rows of the largest step, and of one that decodes, as `saewatch plan` takes them."""
ROLES: Mapping[str, str] = {STABLE: Role.STABLE, SHADOW: Role.SHADOW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Of one model's dictionaries together."""

    dictionaries: tuple[str, ...]
    """``slot@ref`` of each."""
    device_bytes: int
    step: Seconds
    """Added to a step of ``ROWS`` rows."""

    def check(self, budget_mib: int) -> None:
        """ConfigError when it is more than the budget."""
        if self.device_bytes > budget_mib * limits.MIB:
            found = f"{mib(self.device_bytes)} for {', '.join(self.dictionaries)}"
            hint = "Watch fewer features, move a ref elsewhere first, or raise the budget."
            raise ConfigError("--device-budget-mib", found=found, expected=f"at most {budget_mib} MiB", hint=hint)


def needs(registry: Registry, alias: str, *, device: str, promoted: tuple[Slot, str, str] | None = None) -> Needs:
    """What the model ``alias`` needs; with ``promoted`` (slot, ref, bundle), once that ref is moved."""
    uses: dict[tuple[Slot, str], str] = {}
    for slot in registry.slots():
        if slot.alias == alias:
            uses |= {(slot, ref): bundle for ref, bundle in registry.current(slot).items() if ref in ROLES}
    if promoted and promoted[1] in ROLES:
        uses[promoted[0], promoted[1]] = promoted[2]
    size, lower, upper = 0, 0.0, 0.0
    seen: set[str] = set()
    for (_, ref), bundle in sorted(uses.items()):
        contents = registry.store.contents(bundle)
        point = contents.manifest.hook_point
        size += _bytes(contents, ref, shared=point in seen)
        step = _step(contents, device)
        lower, upper = lower + step.lower, upper + step.upper
        seen.add(point)
    named = tuple(f"{slot}@{ref}" for slot, ref in sorted(uses))
    return Needs(dictionaries=named, device_bytes=size, step=Seconds(lower, upper))


def _bytes(contents: Contents, ref: str, *, shared: bool) -> int:
    use = DictionaryUse(path="", role=ROLES[ref])
    config = TapConfig(socket="/", dictionaries=(use,))
    slots = len(contents.catalogue.watch_list(contents.manifest).rows)
    return footprint(contents.manifest, use, config, rows=ROWS_MAX, slots=slots, shared=shared).total


def _step(contents: Contents, device: str) -> Seconds:
    manifest = contents.manifest
    slots, whole = len(contents.catalogue.watch_list(manifest).rows), needs_whole(manifest, DictionaryUse(path=""))
    return step_seconds(manifest, DEVICES[device], rows=ROWS, slots=slots, element_bytes=2, whole=whole)
