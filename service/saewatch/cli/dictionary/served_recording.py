"""What an engine fired on texts, out of a recording that was made while it got them: the served side of a certificate.

Each line of the texts names the request that it was sent as (``"request"``: the client's X-Request-Id, which the
middleware keeps, or the engine's own id). A recording holds no tokens: that a request is the text is known by its name
and its length only. What was generated behind the prompt is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saewatch import logs
from saewatch.cli import recordings
from saewatch.cli.dictionary import labelled
from saewatch.cli.dictionary.scored_recording import lacking, one_served
from saewatch.cli.sidecar import clock_time
from saewatch.cli.terminal import ProgressLine
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError
from saewatch.dictionary.fidelity import Fidelity, Recorded
from saewatch.edge.dictionaries import load_one
from saewatch.edge.requests import RecordedRequest, RecordedRequests

ABSENT = "they are not whole in the recording"
OTHER_LENGTH = "they were served with another number of tokens"


class RecordedReading:
    """The requests that the texts name. `ConfigError` where none is there, and for features that were not watched."""

    whole = False

    def __init__(self, options: argparse.Namespace, names: Sequence[str], features: Sequence[Feature]) -> None:
        self._names, self._kv_cache = names, options.kv_cache
        wanted, line = set(names), ProgressLine()
        logs.set_up("warning")
        self._found: dict[str, RecordedRequest] = {}
        with recordings.opened(options.served) as recording:
            requests = RecordedRequests(
                recording,
                load_one(options.bundle),
                on_progress=lambda seconds: line.show(f"{options.served.name}: {clock_time(seconds)}"),
            )
            for one in requests:
                self._keep(one, wanted)
        line.clear()
        if not self._found:
            found = f"none of {len(wanted)} requests; left out: {dict(requests.left_out)}"
            raise ConfigError(str(options.served), found=found, expected="requests that the texts name")
        self._served = one_served(options.served, requests.tables)
        self._versions = next(iter(requests.tables.values())).stream.opening.versions
        why = {
            one.id: words for one in features for table in requests.tables.values() if (words := lacking(one, table))
        }
        for name in options.feature:
            if name in why:
                raise ConfigError(name, found=why[name], expected="all that it reads, recorded")
        self.features = tuple(one for one in features if one.id not in why)
        if not self.features:
            raise ConfigError(str(options.served), found="; ".join(why.values()), expected="features that were watched")
        for name, words in why.items():
            print(f"saewatch: {name} is not compared: {words}", file=sys.stderr)
        self._place = {one.id: number for number, one in enumerate(self.features)}

    @property
    def known(self) -> Mapping[str, Any]:
        """What a certificate says of it."""
        return {"served": self._served, "versions": dict(self._versions), "kv_cache": self._kv_cache}

    def side(self, fidelity: Fidelity, number: int, ids: Sequence[int]) -> Recorded | str:
        """What fired on text ``number``, or why it cannot be compared."""
        one = self._found.get(self._names[number])
        if one is None:
            return ABSENT
        if one.identity.prompt_len != len(ids) or len(one.seen) < len(ids):
            return OTHER_LENGTH
        place = np.array([self._place.get(feature.id, -1) for feature in one.table.features], np.int64)
        unit = one.table.units(one.feature, one.slot)
        own = (place[one.feature] >= 0) & (one.position < len(ids))
        return Recorded(
            seen=one.seen[: len(ids)],
            position=one.position[own].astype(np.int64),
            pair=fidelity.pairs.first[place[one.feature[own]]] + unit[own],
            value=one.value[own],
        )

    def _keep(self, one: RecordedRequest, wanted: set[str]) -> None:
        for name in {one.identity.client_id, one.identity.engine_id} & wanted:
            if name in self._found:
                expected = "one: send each text once, under a name of its own"
                raise ConfigError(f"request {name:.60}", found="two of this name", expected=expected)
            self._found[name] = one


def names_of(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The request that each text was sent as. `ConfigError` for a line that names none, or one a second time."""
    found: dict[str, str] = {}
    for where, entry in entries:
        name = labelled.text(where, entry, "request")
        if name in found:
            raise ConfigError(f"{where}: request", found=f"{name:.60}, as at {found[name]}", expected="each once")
        found[name] = where
    return list(found)
