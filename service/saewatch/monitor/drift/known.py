"""A baseline with what it is about: the sidecar uses it on streams that are of the same, and on no others."""

from __future__ import annotations

from dataclasses import dataclass

from saewatch.core.records import StreamOpen
from saewatch.monitor.drift.fit import Fitted
from saewatch.monitor.drift.panel import KnownPanel
from saewatch.monitor.tables import WatchTable

OTHER_MODEL, OTHER_MODE, OTHER_WATCH, OTHER_FEATURES = "model", "mode", "watch set", "features"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a baseline holds for."""

    weights: str
    model: str  # its digest; empty: the engine did not say
    hook_point: str
    mode: str
    watch: str
    deployment: str

    @classmethod
    def of(cls, table: WatchTable, deployment: str) -> About:
        """As a stream says."""
        opening = table.stream.opening
        return cls(
            weights=opening.weights_digest,
            model=opening.model_digest,
            hook_point=opening.hook_point,
            mode=opening.mode,
            watch=table.digest,
            deployment=deployment,
        )

    def tells(self, opening: StreamOpen) -> bool:
        """Whether a stream is of this model, hook point and mode, whatever it watches."""
        found = (opening.weights_digest, opening.model_digest, opening.hook_point, opening.mode)
        return found == (self.weights, self.model, self.hook_point, self.mode)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KnownBaseline:
    """One that was built and attested."""

    about: About
    features: tuple[str, ...]  # in the order of the fit
    fitted: Fitted
    digest: str  # of its attestation
    panel: KnownPanel | None = None

    def differs(self, table: WatchTable) -> str:
        """In what a stream is another one; empty: the baseline holds for it."""
        found = About.of(table, self.about.deployment)
        if found.model != self.about.model:
            return OTHER_MODEL
        if (found.hook_point, found.mode) != (self.about.hook_point, self.about.mode):
            return OTHER_MODE
        if found.watch != self.about.watch:
            return OTHER_WATCH
        return "" if {one.id for one in table.features} >= set(self.features) else OTHER_FEATURES
