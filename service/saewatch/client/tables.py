"""Who a stream, a request and a feature are, and what the slots of a stream's batches mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saewatch.core import pairs
from saewatch.core.batch import F32, I32, U32
from saewatch.core.catalogue import Feature
from saewatch.core.fit import AdapterFit

UNLABELLED = -1
"""In a column of features: the firing serves none that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One dictionary on one hook point of one engine rank. ``number`` holds as long as the sidecar runs."""

    number: int
    engine: str
    epoch: int = 0
    dp_rank: int = 0
    pp_rank: int = 0
    tp_rank: int = 0
    model_name: str = ""
    model_digest: str = ""
    model_proof: str = ""
    quantisation: str = ""
    hook_point: str = ""
    weights_digest: str = ""
    catalogue_digest: str = ""
    mode: str = ""
    role: str = ""
    excluded: Mapping[str, str] = field(default_factory=dict, hash=False)
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.engine} {self.hook_point}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Who a request is: as in saewatch.v1.Request. ``client_id`` is what the client said, and no proof of anything."""

    engine_id: str = ""
    key: str = ""
    client_id: str = ""
    tenant: str = ""
    traffic_class: str = ""
    conversation: str = ""
    trace_id: str = ""
    child: int = 0
    prompt_len: int = 0
    cached: int = 0
    adapter: str = ""
    engine: str = ""
    fit: str = field(default="", compare=False)
    """Of the dictionary to the adapter: base (there is none), unverified or attested; empty: not told."""

    @property
    def name(self) -> str:
        """What people know it by: the client's own id where it gave one."""
        return self.client_id or self.key or self.engine_id

    def __str__(self) -> str:
        unverified = f" (fit to adapter {self.adapter} unverified)" if self.fit == AdapterFit.UNVERIFIED else ""
        return self.name + unverified


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """What the slots of batches read, and the features that the watch chose. Features are numbered within the table."""

    number: int
    stream: Stream
    watch_digest: str
    kind: tuple[str, ...]  # [W] latent or direction
    unit: U32  # [W] which one
    features: tuple[Feature, ...]  # [F] that have slots here
    chosen: bool  # features were asked for, so that a firing without any is not shown
    pairs: pairs.Columns = field(repr=False)  # of chosen features

    @property
    def slots(self) -> int:
        """Slots of the watch set."""
        return len(self.kind)

    def unit_name(self, slot: int) -> str:
        """``latent 12`` or ``direction 0``."""
        return f"{self.kind[slot]} {self.unit[slot]}"

    def fired(self, slot: U32, value: F32) -> tuple[npt.NDArray[np.intp], I32]:
        """Which features fire with these firings: index of the firing, ascending, and number of the feature, ``[K]``.

        A firing without any feature has `UNLABELLED`, unless features were asked for: then it is left out.
        """
        firing, feature = pairs.fired(self.pairs, slot, value)
        alone = np.flatnonzero(np.bincount(firing, minlength=len(slot)) == 0)
        if self.chosen or not len(alone):
            return firing, feature
        firing = np.concatenate([firing, alone])
        order = np.argsort(firing, kind="stable")
        return firing[order], np.append(feature, np.full(len(alone), UNLABELLED, np.int32))[order]


def table(
    *,
    number: int,
    stream: Stream,
    watch_digest: str,
    kind: tuple[str, ...],
    unit: U32,
    features: Sequence[tuple[Feature, Sequence[int]]],
    shown: Sequence[bool],
    chosen: bool,
) -> Table:
    """The table of ``features`` with their slots, of which only those ``shown`` are looked for in batches."""
    wanted = [slots if shown[index] else () for index, (_, slots) in enumerate(features)]
    return Table(
        number=number,
        stream=stream,
        watch_digest=watch_digest,
        kind=kind,
        unit=unit,
        features=tuple(one for one, _ in features),
        chosen=chosen,
        pairs=pairs.by_slot(wanted, [one.floor for one, _ in features], len(kind)),
    )
