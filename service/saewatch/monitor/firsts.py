"""Which features have fired in which open requests, so that a request counts once for each of them.

One byte for each open request and feature of a table: 2 MiB for 1,024 requests and 2,048 features.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import I32
from saewatch.monitor.tables import WatchTable

TABLES_KEPT = 64
"""Tables in use: 8 engines with 8 streams each."""


class Firsts:
    """By table, and by the places of requests in the roster."""

    def __init__(self) -> None:
        self._fired: OrderedDict[WatchTable, npt.NDArray[np.bool_]] = OrderedDict()

    def clear(self, place: int) -> None:
        """The request of that place has ended."""
        for fired in self._fired.values():
            if place < len(fired):
                fired[place] = False

    def new(self, table: WatchTable, place: npt.NDArray[np.int64], feature: I32) -> I32:
        """The features of these (place, feature) pairs that had not fired there before; once for each pair."""
        width = len(table.features)
        pairs = place * width + feature
        fired = self._table(table, int(place.max(initial=-1)) + 1)
        fresh = np.unique(pairs[~fired.reshape(-1)[pairs]])  # few: looked up before they are sorted
        fired.reshape(-1)[fresh] = True
        return (fresh % width).astype(np.int32)

    def _table(self, table: WatchTable, places: int) -> npt.NDArray[np.bool_]:
        fired = self._fired.get(table)
        if fired is None:
            fired = self._fired[table] = self._so_far(table, max(64, 2 * places))
            while len(self._fired) > TABLES_KEPT:
                self._fired.popitem(last=False)
        elif len(fired) < places:
            grown = np.zeros((2 * places, len(table.features)), dtype=np.bool_)
            grown[: len(fired)] = fired
            fired = self._fired[table] = grown
        return fired

    def _so_far(self, table: WatchTable, places: int) -> npt.NDArray[np.bool_]:
        """What fired under the stream's other tables: a request that was open when they changed counts once."""
        others = [(one, fired) for one, fired in self._fired.items() if one.stream.number == table.stream.number]
        found = np.zeros((max([places, *(len(fired) for _, fired in others)]), len(table.features)), dtype=np.bool_)
        number = {feature.id: index for index, feature in enumerate(table.features)}
        for one, fired in others:
            shared = [(index, number[feature.id]) for index, feature in enumerate(one.features) if feature.id in number]
            for before, now in shared:
                found[: len(fired), now] |= fired[:, before]
        return found
