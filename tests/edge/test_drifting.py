from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from saewatch.core.records import Record, RequestEnd, Role
from saewatch.edge.pipeline import Item, Pipeline, SinkQueue
from saewatch.edge.rpc import alerted
from saewatch.monitor.alert import Alert, AlertChanged, Cause
from saewatch.monitor.drift.panel import KnownPanel, Replay
from saewatch.monitor.drift.slices import kind_of, name_of, source_of
from saewatch.monitor.events import DriftState
from tests import deployed, fakes
from tests.deployed import KNOWN
from tests.monitor.drift import panels


class Sidecar:
    """A pipeline without services, whose clock is the requests'."""

    def __init__(self, panel: KnownPanel | None = None, *, shop: float = 0.0, **changes: object) -> None:
        self.now_ns = deployed.START_NS
        self.queue = SinkQueue("q", lambda: None, bound=10**6)
        self.pipeline = Pipeline(
            dictionaries={KNOWN.weights_digest: KNOWN},
            queues=[self.queue],
            clock=lambda: self.now_ns,
            baselines=[replace(deployed.baseline(28, shop), panel=panel)],
        )
        self.pipeline.connect(1)
        for record in (fakes.stream_open(KNOWN, **changes), fakes.watch_set(KNOWN)):
            self.pipeline.receive(1, record)
        self.number = 0

    def serve(
        self,
        days: int,
        factors: Mapping[int, float],
        *,
        label: str = "",
        l0: float = 0.0,
        fires: Mapping[int, int] | None = None,
        shop: float = 0.0,
        panel: Callable[[np.random.Generator], Sequence[Replay]] | None = None,
    ) -> list[Item]:
        """``panel`` gives what it fires each time; of so many requests the tenant is the ``shop``.

        ``fires``: latents that fire on another number of sampled tokens.
        """
        chance = np.random.default_rng(5)
        for now_ns in deployed.times(days, self.now_ns):
            self.now_ns = now_ns
            if panel is not None:
                self.read(panel(chance))
            self.pipeline.tick()
            for first in (0, 15) if l0 else ():
                self._receive(deployed.census(now_ns, float(chance.normal(l0, 0.2)), first=first, fires=fires))
            for _ in range(deployed.GROUP):
                self.number += 1
                tenant, its = deployed.asked(chance, shop) if shop else ("", {})
                fired = deployed.fired(chance, {**factors, **its})
                for record in deployed.request(self.number, fired, self.now_ns, label=label, tenant=tenant):
                    self._receive(record)
            self.now_ns += 10**9
            self.pipeline.tick()
        return list(self.queue.take())

    def read(self, run: Sequence[Replay]) -> None:
        """A round of the panel."""
        for record in panels.requests(run, self.number + 1, self.now_ns):
            self._receive(record)
        self.number += len(run)

    def _receive(self, record: Record) -> None:
        self.pipeline.receive(1, record)
        if isinstance(record, RequestEnd):
            self.now_ns += 10**8


def alerts(items: list[Item]) -> list[Alert]:
    return [one.alert for one in items if isinstance(one, AlertChanged) and one.alert.kind == "drift"]


def test_drift_comes_out_as_an_alert_that_can_be_acknowledged() -> None:
    sidecar = Sidecar()
    items = sidecar.serve(4, {4: 2.5})
    found = alerts(items)
    features = [one for one in found if one.rule == "feature"]
    assert {one.evidence[0].features for one in features} == {("demo04.l1",)}
    assert sidecar.pipeline.alert(features[0].id).title == "demo04.l1 has drifted"
    assert features[0].cause is not None
    assert (features[0].cause.name, "no panel" in features[0].cause.reason) == ("cannot_tell", True)
    states = [one for one in items if isinstance(one, DriftState)]
    assert states[-1].counters["judged"] == 4 * deployed.GROUPS_A_DAY - 1
    assert states[-1].alarms["feature"] == 1


def test_as_usual_there_is_none() -> None:
    assert alerts(Sidecar().serve(3, {})) == []


def test_a_census_of_more_latents_a_token_is_an_alert_of_the_whole() -> None:
    as_usual, more = (Sidecar().serve(4, {}, l0=l0) for l0 in (20.0, 24.0))
    assert alerts(as_usual) == []
    assert {one.title for one in alerts(more)} == {"more or fewer latents of the whole dictionary fire on a token"}


def test_latents_of_the_whole_dictionary_that_die_are_one_alert() -> None:
    sidecar = Sidecar()
    items = sidecar.serve(10, {}, l0=20.0, fires={2: 0, 18: 0, 3: 60})  # the last was dense before
    (found,) = alerts(items)
    assert (found.title, found.rule) == ("latents of the whole dictionary have died", "latents")
    assert found.why.startswith("2 latents have not fired on a sampled token for 7 days")
    assert found.why.endswith("new: 2, 18")
    state = [one for one in items if isinstance(one, DriftState)][-1]
    assert state.latents == {(KNOWN.weights_digest[:19], "dead"): 2, (KNOWN.weights_digest[:19], "dense"): 0}
    assert state.alarms["latents"] == 1


def test_latents_that_come_to_fire_on_everything_are_one_alert_and_more_of_them_belong_to_it() -> None:
    sidecar = Sidecar()
    (first,) = alerts(sidecar.serve(3, {}, l0=20.0, fires={1: 100}))
    assert first.title == "latents of the whole dictionary have become dense"
    (second,) = alerts(sidecar.serve(3, {}, l0=20.0, fires={1: 100, 17: 100}))
    assert (second.id, second.activations) == (first.id, 2)
    assert second.why.startswith("2 latents fire on over 10 %")
    assert second.why.endswith("new: 17")


@pytest.mark.parametrize("changes", [{"role": Role.SHADOW}, {"mode": "thresholded"}])
def test_the_census_of_another_stream_enters_nothing(changes: dict[str, object]) -> None:
    sidecar = Sidecar()
    sidecar.pipeline.receive(1, fakes.stream_open(KNOWN, stream=9, **changes))
    for number in range(8):
        sidecar.pipeline.receive(1, replace(deployed.census(number, 500.0), stream=9))
    assert alerts(sidecar.serve(3, {}, l0=20.0)) == []


def test_canaries_enter_nothing() -> None:
    assert not [one for one in Sidecar().serve(1, {4: 3.0}, label="canary") if isinstance(one, DriftState)]


@pytest.mark.parametrize("changes", [{"model_digest": "sha256:" + "1" * 64}, {"mode": "thresholded"}])
def test_what_the_baseline_is_not_about_is_blind(changes: dict[str, Any]) -> None:
    sidecar = Sidecar(None, **changes)
    sidecar.serve(1, {4: 3.0})
    blind = [one for one in sidecar.pipeline.status().blind if one.scope == "detector"]
    assert [one.reason for one in blind] == ["no_baseline"]


# --- why --------------------------------------------------------------------------------------------------------------
def causes(items: list[Item], rule: str = "feature") -> set[tuple[str, str]]:
    found = [one.cause for one in alerts(items) if one.rule == rule]
    return {(one.name, one.exercised) for one in found if one is not None}


def test_a_clean_panel_says_that_it_is_the_traffic() -> None:
    items = Sidecar(panels.known()).serve(2, {4: 2.5}, panel=panels.replayed)
    assert causes(items) == {("traffic", "direct")}
    alert, *_ = [one for one in alerts(items) if one.rule == "feature"]
    assert alert.cause is not None
    [moved] = alert.cause.moved
    assert (moved.feature, moved.statistic) == ("demo04.l1", "n")
    assert moved.low < moved.effect < moved.high
    state = [one for one in items if isinstance(one, DriftState)][-1]
    assert state.counters["panel_clean"] == 2 * deployed.GROUPS_A_DAY
    assert state.causes["traffic"] >= 1
    assert list(state.overlaps) == [KNOWN.weights_digest[:19]]


def test_what_the_panel_does_not_exercise_is_said_to_be_so() -> None:
    items = Sidecar(panels.known()).serve(2, {11: 1.6}, panel=panels.replayed)
    assert causes(items) == {("traffic", "indirect")}


def test_a_panel_that_changed_is_an_alert_by_itself_and_says_that_it_is_the_model() -> None:
    moved = {4: 1.5, 5: 0.7, 6: 1.2}
    sidecar = Sidecar(panels.known())
    items = sidecar.serve(2, {4: 2.5}, panel=lambda chance: panels.replayed(chance, factors=moved))
    assert causes(items) == {("model", "")}
    [alert] = [one for one in alerts(items) if one.rule == "panel"]
    assert (alert.state, alert.held_back, alert.action) == ("active", "", "notify")
    assert alert.cause is not None
    assert [one.feature for one in alert.cause.moved] == ["demo04.l1", "demo05.l1", "demo06.l1"]
    assert alert.cause.moved[1].effect == pytest.approx(0.7, abs=0.02)
    for one in alerts(items):  # one that were no message would end the sidecar
        sent = alerted.message(one).SerializeToString()
        assert alerted.message(alerted.alert(sent)).SerializeToString() == sent
        assert alerted.alert(sent).cause == one.cause
    over = [one for one in alerts(sidecar.serve(1, {}, panel=panels.replayed)) if one.rule == "panel"]
    assert [(one.id, one.state) for one in over] == [(alert.id, "resolved")]


def test_a_panel_that_collapsed_is_the_dictionarys() -> None:
    items = Sidecar(panels.known()).serve(2, {4: 2.5}, panel=lambda chance: panels.replayed(chance, gone=0.7))
    assert causes(items) == causes(items, "panel") == {("dictionary", "")}


# --- slices -----------------------------------------------------------------------------------------------------------
USUAL, GROWN = 0.15, 0.6


def first_cause(items: list[Item]) -> Cause:
    alert, *_ = [one for one in alerts(items) if one.rule == "feature"]
    assert alert.evidence[0].features == ("demo04.l1",)
    assert alert.cause is not None
    return alert.cause


def test_more_of_the_same_requests_are_another_mix_and_which_ones_is_told() -> None:
    """The shop's requests fire demo04 more often, as they always did, and there are four times as many of them."""
    items = Sidecar(panels.known(), shop=USUAL).serve(2, {}, label="live", shop=GROWN, panel=panels.replayed)
    assert causes(items) == {("traffic", "")}
    cause = first_cause(items)
    assert "1 of 1 could be compared" in cause.reason
    kind = name_of(kind_of(source_of(deployed.SHOP), deployed.TOKENS))
    grown = {one.slice: one for one in cause.slices if one.share > one.high}
    [name] = grown
    assert (name.startswith(kind[0]), name.endswith(kind[1])) == (True, True)
    assert grown[name].share == pytest.approx(GROWN, abs=0.08)
    assert grown[name].before == pytest.approx(USUAL, abs=0.02)
    assert grown[name].low < grown[name].before < grown[name].high
    for one in alerts(items):
        assert alerted.alert(alerted.message(one).SerializeToString()).cause == one.cause


def test_what_everybody_asks_more_often_is_new_content() -> None:
    items = Sidecar(panels.known(), shop=USUAL).serve(2, {4: 2.0}, label="live", shop=USUAL, panel=panels.replayed)
    assert causes(items) == {("traffic", "direct")}
    cause = first_cause(items)
    assert cause.reason.endswith("; 1 of them moved within slices too")
    assert cause.slices == ()


def test_a_model_that_changed_is_none_of_the_slices() -> None:
    moved = {4: 1.5, 5: 0.7, 6: 1.2}
    items = Sidecar(panels.known(), shop=USUAL).serve(
        2, {}, label="live", shop=GROWN, panel=lambda chance: panels.replayed(chance, factors=moved)
    )
    assert causes(items) == {("model", "")}
    assert first_cause(items).slices == ()
