"""Which features fire with which slots: the one rule, for the sidecar and for clients.

A slot may serve several features (a latent on its own and within a group), and it is sent when its value is above the
lowest of their floors. So a firing counts for each feature that it lies above the floor of, and for no other. The
(slot, feature, floor) pairs are three columns by slot: ``start[s]`` to ``start[s + 1]`` are those of slot ``s``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import F32, I32, U16, U32

Columns = tuple[I32, I32, F32]
"""``start [W+1]``, ``feature [P]`` and ``floor [P]``."""


def by_slot(slots: Sequence[Sequence[int]], floors: Sequence[float], width: int) -> Columns:
    """The pairs of features that read ``slots`` and fire above ``floors``, over ``width`` slots."""
    degree = [len(own) for own in slots]
    slot = np.array([one for own in slots for one in own], dtype=np.int32)
    order = np.argsort(slot, kind="stable")
    feature = np.repeat(np.arange(len(slots), dtype=np.int32), degree)
    floor = np.repeat(np.array(floors, dtype=np.float32), degree)
    start = np.searchsorted(slot[order], np.arange(width + 1)).astype(np.int32)
    return start, feature[order], floor[order]


def fired(columns: Columns, slot: U16 | U32, value: F32) -> tuple[npt.NDArray[np.intp], I32]:
    """Which features fire with these firings: index of the firing, ascending, and number of the feature, ``[K]``."""
    start, feature, floor = columns
    first = start[slot]
    degree = start[slot.astype(np.intp) + 1] - first  # [N]
    firing = np.repeat(np.arange(len(slot)), degree)  # [pairs]
    within = np.arange(len(firing)) - np.repeat(np.cumsum(degree) - degree, degree)
    pair = np.repeat(first, degree) + within
    above = value[firing] > floor[pair]
    return firing[above], feature[pair[above]]
