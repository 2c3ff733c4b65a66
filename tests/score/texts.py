"""A scored text, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saewatch.core.catalogue import Feature
from saewatch.monitor.tables import StreamIdentity, WatchTable, join
from saewatch.score.results import Scored
from tests import fakes

FIRINGS = ((1, 0, 2.0), (1, 2, 0.5), (3, 1, 5.0), (4, 0, 1.0), (4, 3, 7.0), (5, 3, 7.5))
"""Position, slot, value. The prompt has four tokens, the answer three."""


def a_table(features: Sequence[Feature] = fakes.FEATURES) -> WatchTable:
    """Slots: latents 1 and 2 (animals.g1), latent 3 (threat.l1), direction 0 (threat.p1)."""
    known = fakes.dictionary(features)
    stream = StreamIdentity(number=1, opening=fakes.stream_open(known), dictionary=known)
    return join([fakes.watch_set(known)], number=1, stream=stream)


def scored(table: WatchTable, firings: Sequence[tuple[int, int, float]] = FIRINGS, **changes: Any) -> Scored:
    """Seven tokens: the first is excluded, the last one was not fed."""
    columns = np.array(firings, dtype=np.float64).reshape(-1, 3)
    slot, value = columns[:, 1].astype(np.uint16), columns[:, 2].astype(np.float32)
    firing, feature = table.fired(slot, value)
    plain: dict[str, Any] = {
        "index": 0,
        "ids": np.arange(10, 17),
        "pieces": ("a", " b", " c", " d", " e", " f", "."),
        "prompt_len": 4,
        "excluded": np.array([True, False, False, False, False, False]),
        "not_finite": 0,
        "cut": 0,
        "position": columns[firing, 0].astype(np.int32),
        "slot": slot[firing],
        "feature": feature,
        "value": value[firing],
        "table": table,
    }
    return Scored(**{**plain, **changes})
