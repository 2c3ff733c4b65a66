"""What watching some dictionaries will cost: the facts behind `saewatch plan`, computed from shapes and rates alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saewatch.core import cost, limits
from saewatch.core.attestation import read_attestation
from saewatch.core.cost import DEVICES, Seconds, Traffic, Use
from saewatch.core.errors import ConfigError, MisfitError
from saewatch.core.fit import ModelFacts, verify_fit
from saewatch.core.footprint import (
    HISTORY_FIRING_BYTES,
    REUSE_FIRING_BYTES,
    REUSE_ROW_BYTES,
    Footprint,
    footprint,
    needs_whole,
)
from saewatch.core.manifest import BUNDLE_FILE, attestation_path, read_bundle_sheet
from saewatch.core.tapconfig import DictionaryUse, TapConfig
from saewatch.monitor.tables import KnownDictionary

DAY_S = 86_400
DTYPES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
L0 = (("quality", "stated"), ("stated", ""))
"""Attestations that may state L0, and the member of their body that holds it."""

DEFAULTS = TapConfig(socket="/", dictionaries=())

Range = tuple[float, float]
"""From the fewest firings to the most, or from an estimate's lower end to its upper one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of the engine."""

    watch: int | None = None
    rows_max: int = 8192
    rows: int = 256
    dtype: str = "bfloat16"
    device: str = "H200"
    tokens_per_s: float = 5000.0
    firings_per_token: float | None = None
    subscribers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One dictionary, and what of it is watched."""

    name: str
    known: KnownDictionary
    slots: int
    features: int
    firings: Range
    """Per token."""
    source: str
    """Where that comes from."""

    @property
    def whole(self) -> bool:
        """Whether the whole dictionary is encoded for every token."""
        return needs_whole(self.known.manifest, DictionaryUse(path=self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The costs. What is not modelled is not in ``ranges``."""

    streams: Sequence[Stream]
    memory: Mapping[str, int]
    """Device bytes by what they are for."""
    series: int
    ranges: Mapping[str, Range]
    uses: Sequence[Use]
    refused: Sequence[str]
    """What the tap refuses, in words."""

    @property
    def device_bytes(self) -> int:
        """All of the device memory."""
        return sum(self.memory.values())

    @property
    def slots(self) -> int:
        """Watched rows of all dictionaries."""
        return sum(one.slots for one in self.streams)

    @property
    def features(self) -> int:
        """Features of all dictionaries."""
        return sum(one.features for one in self.streams)

    def facts(self) -> dict[str, float]:
        """Flat name to number."""
        found: dict[str, float] = {"device_bytes": self.device_bytes, "slots": self.slots, "features": self.features}
        found |= {f"device_{name}_bytes": size for name, size in self.memory.items()}
        found["host_bytes"] = DEFAULTS.reuse_bytes
        found["series_max"] = self.series
        for name, (low, high) in self.ranges.items():
            found |= {f"{name}_low": low, f"{name}_high": high}
        return found


def stream(folder: Path, known: KnownDictionary, model: ModelFacts, asked: Asked) -> Stream:
    """MisfitError when the dictionary is for another model; ConfigError for more rows than there are."""
    try:
        verify_fit(known.manifest, None, model)
    except MisfitError as error:  # one of several dictionaries: say which
        subject = f"{folder}: {error.subject}"
        raise MisfitError(subject, found=error.found, expected=error.expected, hint=error.hint) from error
    sheet, features = known.manifest.encoder, len(known.catalogue.features)
    rows: Sequence[int] = known.catalogue.watch_list(known.manifest).rows
    if asked.watch is not None:
        if asked.watch > sheet.rows:
            raise ConfigError("--watch", found=asked.watch, expected=f"at most {sheet.rows}, the rows of {folder}")
        rows, features = range(asked.watch), asked.watch
    latents = sum(row < sheet.latents for row in rows)
    fires, source = firings(_l0(folder), sheet.latents, latents, len(rows) - latents)
    if asked.firings_per_token is not None:
        fires, source = (asked.firings_per_token,) * 2, "as asked"
    return Stream(name=folder.name, known=known, slots=len(rows), features=features, firings=fires, source=source)


def firings(l0: float | None, latents: int, watched: int, directions: int) -> tuple[Range, str]:
    """Firings per token, and where that comes from.

    ``l0`` latents of ``latents`` fire on a token, in the mean. Were the ``watched`` ones like all others, their share
    of it would; at most all of it does, since they are some of them; and at most each of the directions does.
    """
    if l0 is None or not latents:
        return (0.0, float(min(watched + directions, DEFAULTS.firings_per_token))), "not known: no L0 is stated"
    low, high = l0 * watched / latents, min(l0, watched) + directions
    return (low, high), f"from the stated L0 of {l0:.1f}: the watched share of it, up to all of it"


def plan(streams: Sequence[Stream], asked: Asked) -> Plan:
    """The costs of watching ``streams``."""
    config = replace(DEFAULTS, dictionaries=tuple(DictionaryUse(path=one.name) for one in streams))
    memory = _memory(streams, config, asked)
    ranges = _ranges(streams, asked)
    uses = _uses(streams, ranges, config, asked, device_bytes=sum(memory.values()))
    return Plan(
        streams=streams,
        memory=memory,
        series=cost.series(sum(one.features for one in streams), streams=len(streams)),
        ranges=ranges,
        uses=uses,
        refused=[f"{one.name} ({one.share:.0%})" for one in uses if one.refuses and one.share > 1],
    )


# --- parts ------------------------------------------------------------------------------------------------------------
def _memory(streams: Sequence[Stream], config: TapConfig, asked: Asked) -> dict[str, int]:
    """As the tap sums it up: dictionaries on one hook point share its rows."""
    found: list[Footprint] = []
    seen: set[str] = set()
    for one, use in zip(streams, config.dictionaries, strict=True):
        point = one.known.manifest.hook_point
        found.append(
            footprint(
                one.known.manifest,
                use,
                config,
                rows=max(asked.rows_max, asked.rows),
                slots=one.slots,
                element_bytes=DTYPES[asked.dtype],
                staged=asked.device in DEVICES,
                shared=point in seen,
            )
        )
        seen.add(point)
    return {name: sum(getattr(one, name) for one in found) for name in Footprint.__dataclass_fields__}


def _ranges(streams: Sequence[Stream], asked: Asked) -> dict[str, Range]:
    def over(rate: Callable[[Traffic], float]) -> Range:
        low, high = (
            sum(
                rate(Traffic(tokens_per_s=asked.tokens_per_s, firings_per_token=one.firings[end], rows=asked.rows))
                for one in streams
            )
            for end in (0, 1)
        )
        return low, high

    kept = over(lambda traffic: REUSE_ROW_BYTES + REUSE_FIRING_BYTES * traffic.firings_per_token)
    each = over(cost.subscriber_bytes_per_s)
    socket = over(cost.socket_bytes_per_s)
    found = {
        "firings_per_token": over(lambda traffic: traffic.firings_per_token),
        "socket_bytes_per_s": socket,
        "subscriber_bytes_per_s": each,
        "subscribers_bytes_per_s": (asked.subscribers * each[0], asked.subscribers * each[1]),
        "replay_window_s": (limits.REPLAY_BYTES / each[1], limits.REPLAY_BYTES / each[0]),
        "reuse_tokens": (DEFAULTS.reuse_bytes / kept[1], DEFAULTS.reuse_bytes / kept[0]),
        "history_bytes_per_day": over(lambda traffic: DAY_S * HISTORY_FIRING_BYTES * traffic.firings_per_s),
        "recording_bytes_per_day": (DAY_S * socket[0], DAY_S * socket[1]),
    }
    for name, rows in (("decode", asked.rows), ("prefill", asked.rows_max)):
        seconds = _step(streams, asked, rows)
        if seconds is not None:
            found[f"{name}_step_us"] = (seconds.lower * 1e6, seconds.upper * 1e6)
            found[f"{name}_token_us"] = (seconds.lower * 1e6 / rows, seconds.upper * 1e6 / rows)
    return found


def _step(streams: Sequence[Stream], asked: Asked, rows: int) -> Seconds | None:
    """The estimate of one step; None for a device that is not modelled."""
    device = DEVICES.get(asked.device)
    if device is None:
        return None
    of = {"rows": rows, "element_bytes": DTYPES[asked.dtype]}
    parts = [cost.step_seconds(one.known.manifest, device, slots=one.slots, whole=one.whole, **of) for one in streams]
    return Seconds(sum(one.lower for one in parts), sum(one.upper for one in parts))


def _uses(
    streams: Sequence[Stream], ranges: Mapping[str, Range], config: TapConfig, asked: Asked, *, device_bytes: int
) -> list[Use]:
    """How much of each bound is used, at the upper end of every range."""
    most = max(one.firings[1] for one in streams)
    step = cost.socket_bytes(asked.rows_max, asked.rows_max * ranges["firings_per_token"][1])
    return [
        Use(
            name="device memory, MiB (device_budget_mib)",
            used=device_bytes / limits.MIB,
            bound=config.device_budget_mib,
            hint="Watch fewer features, take smaller steps (max-num-batched-tokens), or raise the budget.",
            refuses=True,
        ),
        Use(
            name="slots of a dictionary",
            used=max(one.slots for one in streams),
            bound=limits.WATCH_SLOTS,
            hint="Watch fewer features.",
            refuses=True,
        ),
        Use(
            name="firings per token that the slab holds (firings_per_token)",
            used=most,
            bound=config.firings_per_token,
            hint="Watch fewer features, raise their floors, or raise firings_per_token; the rest is `overflow`.",
        ),
        Use(
            name="bytes of the largest step in the engine's queue (queue_bytes)",
            used=step,
            bound=config.queue_bytes,
            hint="Take smaller steps, raise the floors, or raise queue_bytes; the rest is `queue_full`.",
        ),
        Use(
            name="series of a metric (limits.series)",
            used=sum(one.features for one in streams),
            bound=limits.SERIES_DEFAULT,
            hint=f"Watch fewer features, or raise limits.series, to {limits.SERIES_MAX} at most.",
        ),
        Use(
            name="subscribers",
            used=asked.subscribers,
            bound=limits.SUBSCRIBERS,
            hint="Let fewer programs subscribe, and hand on from there.",
        ),
    ]


def _l0(folder: Path) -> float | None:
    """The mean number of latents that fire on a token, where it is attested. ManifestError for a broken attestation."""
    sheet = read_bundle_sheet((folder / BUNDLE_FILE).read_bytes())
    for kind, member in L0:
        for found, digest in sheet.attestations:
            path = folder / attestation_path(found, digest)
            if found == kind and path.is_file():
                body: Any = read_attestation(path.read_bytes(), subject=str(path), weights=sheet.weights).body
                stated = body.get(member) if member else body
                text = stated.get("l0") if isinstance(stated, Mapping) else None
                if isinstance(text, str | int):
                    return _number(text)
    return None


def _number(text: str | int) -> float | None:
    try:
        return max(float(text), 0.0)
    except ValueError:
        return None
