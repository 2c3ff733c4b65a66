"""Drift of what engines serve: requests that have ended are counted, blocks are closed by the clock and judged.

Only whole requests of live or unlabelled traffic are counted: canaries, shadows and tests enter nothing, and of a
request that was half seen nothing can be said but that it was one.

A dictionary without a baseline that holds for its streams is *blind*: it says so, and nothing else of it is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saewatch.core import limits
from saewatch.core.batch import Reason
from saewatch.core.records import Role, TrafficClass
from saewatch.monitor.alert import AlertChanged
from saewatch.monitor.drift.blocks import Blocks
from saewatch.monitor.drift.causes import Causes, PanelMoved
from saewatch.monitor.drift.detector import BUDGET, Detector, Moved, Stepped
from saewatch.monitor.drift.history import HOUR_NS
from saewatch.monitor.drift.known import KnownBaseline
from saewatch.monitor.drift.latents import LatentCounts
from saewatch.monitor.drift.matched import Matched, matched
from saewatch.monitor.drift.pairs import key_of
from saewatch.monitor.drift.slices import Live, source_of
from saewatch.monitor.drift.telling import alert_of, panel_alert
from saewatch.monitor.events import BlindState, DriftState, Observed, RequestEnded, Sampled
from saewatch.monitor.record import RequestRecord
from saewatch.monitor.tables import WatchTable
from saewatch.monitor.tally import Sums, Tally

COUNTED = frozenset({TrafficClass.LIVE, TrafficClass.UNLABELLED})
SCOPE, NO_BASELINE, NOT_JUDGED, NO_NUMBER = "detector", "no_baseline", "not_judged", "no_number"
JUDGED_WITHIN_NS = 2 * limits.DRIFT_BLOCK_NS_MAX
"""Half a day without a block that was judged is told: silence is not "as usual"."""
KINDS = ("feature", "overall", "pair", "latents")
"""What alarms may be about."""
HINT = "Build a baseline of this dictionary, model and watch set: saewatch baseline build."


class Following:
    """Of one sidecar. ``baselines`` by the weights that they are about."""

    def __init__(self, baselines: Sequence[KnownBaseline], *, budget: float = BUDGET) -> None:
        self._followed = {one.about.weights: _Followed(one, budget) for one in baselines}
        self._without: dict[str, BlindState] = {}
        self.counters: Counter[str] = Counter()

    @property
    def idle(self) -> bool:
        """Whether there is no baseline at all: then nothing is counted, and nobody asked for it."""
        return not self._followed

    def add(self, record: RequestRecord, now_ns: int) -> None:
        """A request has ended."""
        if record.traffic_class not in COUNTED or record.lost or record.end is None:
            return
        tables = [table for table, _ in record.tallies]
        key, source = key_of(record.start.engine_id, record.start.child), _source(record)
        for table, tally in record.tallies:
            opening = table.stream.opening
            if opening.role != Role.STABLE:
                continue
            followed = self._followed.get(opening.weights_digest)
            why = "no baseline" if followed is None else followed.known.differs(table)
            if followed is None or why:
                self._blind(table, why, now_ns)
                continue
            self._without.pop(opening.weights_digest, None)
            once = sum(other.stream.opening.weights_digest == opening.weights_digest for other in tables) == 1
            followed.add(table, tally, record.end.fed if once else -1, now_ns, key=key, source=source)

    def census(self, one: Sampled) -> None:
        """Of streams whose requests are followed; it is of all their traffic, canaries and tests too."""
        opening = one.stream.opening
        followed = self._followed.get(opening.weights_digest) if opening.role == Role.STABLE else None
        if followed is not None and followed.known.about.tells(opening):
            followed.census(one)

    def replayed(self, event: Observed | RequestEnded, now_ns: int) -> None:
        """What happened to requests, of which some are of a panel."""
        for followed in self._followed.values():
            followed.replayed(event, now_ns)

    def tick(self, now_ns: int) -> list[AlertChanged | DriftState]:
        """Closes what is due, and tells what panels have said."""
        found: list[AlertChanged | DriftState] = []
        for followed in self._followed.values():
            followed.look(now_ns)
        due = [one for one in self._followed.values() if one.due(now_ns)]
        for one in self._followed.values():
            found += one.of_panel()
        for followed in due:
            found += followed.close(now_ns)
        return [*found, self.state()] if due or found else []

    def blind(self) -> list[BlindState]:
        """What is not watched for drift, and why."""
        silent = [
            one for weights, each in self._followed.items() if weights not in self._without for one in each.silent()
        ]
        lost = [one for followed in self._followed.values() for one in followed.lost()]
        return [*self._without.values(), *silent, *lost]

    def state(self) -> DriftState:
        """As it stands."""
        counters = Counter(self.counters)
        alarms = Counter(dict.fromkeys(KINDS, 0))
        scores: dict[str, float] = {}
        causes, overlaps = Counter[str](), dict[str, float]()
        latents = dict[tuple[str, str], int]()
        for weights, followed in self._followed.items():
            counters.update(followed.detector.counters)
            counters.update(followed.causes.counters)
            causes.update(followed.caused)
            if followed.causes.last is not None:
                overlaps[weights[:19]] = followed.causes.last.overlap
            alarms.update({kind: followed.detector.counters[f"alarms_{kind}"] for kind in alarms})
            latents |= {(weights[:19], state): len(one) for state, one in followed.detector.latents.items()}
            scores |= dict(zip(followed.known.features, followed.detector.scores.tolist(), strict=True))
        return DriftState(
            scores=scores, alarms=alarms, counters=counters, causes=causes, overlaps=overlaps, latents=latents
        )

    def _blind(self, table: WatchTable, why: str, now_ns: int) -> None:
        self.counters["requests_without_baseline"] += 1
        opening = table.stream.opening
        if opening.weights_digest in self._without or len(self._without) >= limits.DICTIONARIES_KEPT:
            return
        known = f"the baseline is of another {why}: " if why != "no baseline" else ""
        self._without[opening.weights_digest] = BlindState(
            scope=SCOPE,
            reason=NO_BASELINE,
            subject=f"drift of {opening.weights_digest[:19]}",
            hint=known + HINT,
            since_ns=now_ns,
            model_name=opening.model_name,
            rank=str(opening.dp_rank),
        )


class _Followed:
    """One baseline's streams."""

    def __init__(self, known: KnownBaseline, budget: float) -> None:
        self.known = known
        fitted = known.fitted
        self.detector = Detector(
            fitted.baseline,
            reading=fitted.reading,
            usual=fitted.usual,
            pairs=fitted.pairs,
            latents=fitted.latents,
            budget=budget,
        )
        self._blocks = Blocks(fitted.baseline.centre, fitted.baseline.scale)
        self._latents = LatentCounts()
        self._live = Live(fitted.slices.feature, fitted.baseline.features)
        self._places: dict[int, npt.NDArray[np.intp]] = {}
        self._table: WatchTable | None = None
        self._since_ns = -1
        self._now_ns = self._judged_ns = -1
        self._held = ""
        self.causes = Causes(known.panel, len(known.features), self._own_place)
        self.caused: Counter[str] = Counter()
        """Alarms by their cause."""
        self._panel_table: WatchTable | None = None
        self._panel_moved: list[tuple[PanelMoved, WatchTable]] = []

    def look(self, now_ns: int) -> None:
        """Time has passed."""
        self._now_ns = now_ns
        if self._judged_ns < 0:
            self._judged_ns = now_ns

    def add(self, table: WatchTable, tally: Tally, fed: int, now_ns: int, *, key: int, source: int) -> None:
        """A request of it; ``fed`` tokens, -1 where what was watched changed meanwhile."""
        self._table = table
        seen = tally.prompt_tokens + tally.answer_tokens
        if fed < 0 or seen + tally.missed.get(Reason.EXCLUDED, 0) != fed:
            self._blocks.partial(now_ns)
            return
        feature, count, mean = by_feature(tally.sums(), self._place(table))
        self._blocks.add(feature, count, mean, tokens=seen, key=key, now_ns=now_ns)
        self._live.add(feature, tokens=seen, source=source, now_ns=now_ns)

    def census(self, one: Sampled) -> None:
        """A part of one more."""
        self._latents.add(one)
        self._blocks.census(one)

    def due(self, now_ns: int) -> bool:
        """Whether the block is to be closed."""
        return self._blocks.due(now_ns)

    def close(self, now_ns: int) -> list[AlertChanged]:
        """The block's alarms."""
        step: Stepped = self.detector.step(self._blocks.close(), now_ns, self._latents)
        self._held = step.held
        self._live.closed(self.detector.evidence.block)
        if not step.held:
            self._judged_ns = now_ns
        if len(self.detector.blind) and self._since_ns < 0:
            self._since_ns = now_ns
        assert self._table is not None, "a block has a request"
        standing = self.detector.open()
        told = {(one.kind, one.subject): one.told for one in standing}
        cause = self.causes.attributed(standing, now_ns, self._matched) if step.moved else None
        self.caused.update([cause.cause] * len(step.moved) if cause else [])
        return [
            AlertChanged(alert_of(one, self.known, self._table, told=told[one.kind, one.subject], cause=cause))
            for one in step.moved
        ]

    def replayed(self, event: Observed | RequestEnded, now_ns: int) -> None:
        """What happened to requests, of which some are of the panel."""
        moved = self.causes.follow(event, now_ns)
        if moved is not None and self._panel_table is not None:
            self._panel_moved.append((moved, self._panel_table))

    def of_panel(self) -> list[AlertChanged]:
        """The panel's own alarms, and those that are over."""
        moved, self._panel_moved = self._panel_moved, []
        self.caused.update(one.attribution.cause for one, _ in moved if not one.resolved)
        return [AlertChanged(panel_alert(one, self.known, table)) for one, table in moved]

    def silent(self) -> list[BlindState]:
        """No block was judged for long."""
        if self._now_ns - self._judged_ns <= JUDGED_WITHIN_NS:
            return []
        why = f"blocks are held: {self._held}" if self._held else "no request of it has ended"
        hint = f"For over {JUDGED_WITHIN_NS // HOUR_NS} hours nothing was judged; {why}."
        subject = f"drift of {self.known.about.weights[:19]}"
        return [BlindState(scope=SCOPE, reason=NOT_JUDGED, subject=subject, hint=hint, since_ns=self._judged_ns)]

    def lost(self) -> list[BlindState]:
        """Features that cannot be judged."""
        lost = self.detector.blind
        if not len(lost):
            return []
        first = self.known.features[int(lost[0])]
        hint = (
            f"{len(lost)} features, {first} among them, have no score any more. Restart the sidecar, and report this."
        )
        return [
            BlindState(scope=SCOPE, reason=NO_NUMBER, subject=f"drift of {first}", hint=hint, since_ns=self._since_ns)
        ]

    def _matched(self, alarms: Sequence[Moved]) -> Matched:
        return matched(alarms, self.known.fitted.baseline, self.known.fitted.slices, self._live)

    def _own_place(self, table: WatchTable) -> npt.NDArray[np.intp] | None:
        """The same of a table that the baseline holds for; None for any other."""
        if table.stream.opening.weights_digest != self.known.about.weights or self.known.differs(table):
            return None
        self._panel_table = table
        return self._place(table)

    def _place(self, table: WatchTable) -> npt.NDArray[np.intp]:
        """For each of the table's features its place in the baseline, or -1."""
        if table.number not in self._places:
            if len(self._places) >= limits.WATCH_SETS_KEPT:
                self._places.clear()
            places = {name: number for number, name in enumerate(self.known.features)}
            self._places[table.number] = np.array([places.get(one.id, -1) for one in table.features], np.intp)
        return self._places[table.number]


def _source(record: RequestRecord) -> int:
    """A label that came too late is not known of a recorded request either."""
    label = record.label if record.traffic_class != TrafficClass.UNLABELLED else None
    return source_of(label.tenant if label else "")


def by_feature(
    sums: Sums, place: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Prompt and answer together, of the features that have a place: each once, with firings and mean log-value."""
    feature = place[sums.key // 2]
    own = feature >= 0
    feature, count, log_sum = feature[own], sums.count[own], sums.log_sum[own]
    found, where = np.unique(feature, return_inverse=True)
    total = np.bincount(where, count, len(found))
    mean = np.bincount(where, log_sum, len(found)) / np.maximum(total, 1)
    return found, total.astype(np.int64), mean
