"""Judging canaries: what satisfies one, what makes its feature blind and what makes it see again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from saewatch.core.batch import Origin, Reason
from saewatch.core.records import StreamBeat, StreamEnd
from saewatch.monitor.canary import CANARY_FAILED, CANARY_OVERDUE, TOKENS, Canaries, Canary
from saewatch.monitor.observe import COUNTED
from saewatch.monitor.tables import KnownDictionary
from tests import fakes
from tests.monitor.stage import SECOND, Stage, observed

PERIOD = 300
ANIMALS, THREAT, PROBE = 0, 2, 3  # slots: latents 1 and 2 are one feature
FED = TOKENS
FIRES = Canary(id="threat.1", feature="threat.l1", fires=True, prompt="x", tokens=FED, above=0.5)
SILENT = Canary(id="threat.2", feature="threat.l1", fires=False, prompt="y", tokens=FED, above=0.5)
OTHER = Canary(id="animals.1", feature="animals.g1", fires=True, prompt="z", tokens=FED)


class Probed(Stage):
    """A monitor whose events canaries follow."""

    def __init__(self, *canaries: Canary, others: Sequence[KnownDictionary] = ()) -> None:
        super().__init__(None, *others)
        self.canaries = Canaries(canaries or (FIRES,), PERIOD * SECOND, self.now)
        self.number = 0
        self.stream = 1
        self.changes = 0

    def probe(self, one: Canary = FIRES, firings: Any = ((0, THREAT, 2.0),), **how: Any) -> str:
        """Sends a canary, serves it and gives its feature's reason to be blind."""
        self.number += 1
        number, fed = self.number, how.get("fed", FED)
        self.canaries.send(f"canary-{number}", one.id, self.now)
        self.label(number, client_id=f"canary-{number}", traffic_class=how.get("traffic_class", "canary"))
        self.start(number, prompt_len=how.get("prompt_len", fed))
        self.batch(how.get("spans", [(number, 0, fed)]), firings, missed=how.get("missed", ()), stream=self.stream)
        self.end(number, fed=fed)
        return self.follow()

    def follow(self, seconds: float = 0.0) -> str:
        """What is blind after all events so far, and some time."""
        events, self.events = self.events + self.tick(seconds), []
        self.changes += self.canaries.follow(events, self.now)
        self.events = []
        return next((one.reason for one in self.canaries.blind), "")

    @property
    def why(self) -> str:
        return self.canaries.states()[0].why


def ready(*canaries: Canary) -> Probed:
    stage = Probed(*canaries)
    stage.ready()
    return stage


def test_a_canary_that_fires_as_it_should_passes() -> None:
    stage = ready()
    assert stage.probe() == ""
    state = stage.canaries.states()[0]
    assert (state.passes, state.failures, state.last_pass_ns, state.why) == (1, 0, stage.now, "")
    assert stage.changes == 0


@pytest.mark.parametrize(
    ("firings", "why"),
    [
        ((), "it did not fire above 0.5"),
        (((0, THREAT, 0.5),), "it did not fire above 0.5"),
        (((0, ANIMALS, 2.0), (0, PROBE, 2.0)), "it did not fire above 0.5"),
        (((3, THREAT, 0.4), (9, THREAT, 0.6)), ""),
    ],
)
def test_only_its_own_feature_over_its_limit_satisfies_it(firings: Any, why: str) -> None:
    stage = ready()
    assert stage.probe(firings=firings) == (CANARY_FAILED if why else "")
    assert why in stage.why


def test_one_that_is_not_to_fire_fails_when_it_does() -> None:
    stage = ready(SILENT)
    assert stage.probe(SILENT, firings=()) == ""
    assert stage.probe(SILENT, firings=((0, THREAT, 0.4),)) == "", "below the limit"
    assert stage.probe(SILENT) == CANARY_FAILED
    assert stage.why == "threat.2: it fired with 2"


@pytest.mark.parametrize(("value", "good"), [(2.0, True), (1.7, True), (1.4, False), (4.0, False)])
def test_the_value_is_held_to_what_was_measured(value: float, good: bool) -> None:
    canary = Canary(id="v", feature="threat.l1", fires=True, prompt="x", tokens=FED, value=2.0, tolerance=0.25)
    stage = ready(canary)
    assert stage.probe(canary, firings=((0, THREAT, value),)) == ("" if good else CANARY_FAILED)


@pytest.mark.parametrize(("position", "good"), [(FED - 4, False), (FED - 3, True), (FED - 1, True)])
def test_what_fires_on_the_padding_satisfies_nothing(position: int, good: bool) -> None:
    canary = Canary(id="end", feature="threat.l1", fires=True, prompt="of three words")
    stage = ready(canary)
    assert stage.probe(canary, firings=((position, THREAT, 2.0),)) == ("" if good else CANARY_FAILED)


def test_a_reused_row_never_satisfies_one() -> None:
    """The fault that a prefix cache hides: firings that were stored before it are told again."""
    stage = ready()
    reused = [(1, 0, 200, int(Origin.REUSED)), (1, 200, FED - 200)]
    assert stage.probe(spans=reused, firings=((0, THREAT, 2.0),)) == CANARY_FAILED
    assert f"only {FED - 200} of {FED} tokens were computed, 200 were reused" in stage.why
    stage.number = 1
    beside = [(2, 0, 16, int(Origin.REUSED)), (2, 16, FED - 16)]
    assert stage.probe(spans=beside, firings=((20, THREAT, 2.0),)) == CANARY_FAILED, "not even beside computed ones"


def test_recomputed_rows_are_computed_ones() -> None:
    stage = ready()
    stage.number = 0
    spans = [(1, 0, FED), (1, 0, FED, int(Origin.RECOMPUTED))]
    assert stage.probe(spans=spans, firings=((FED, THREAT, 2.0),)) == ""


@pytest.mark.parametrize("reason", [Reason.CACHED, Reason.NO_SLOT, Reason.BLIND])
def test_a_request_that_was_not_wholly_computed_satisfies_nothing(reason: Reason) -> None:
    stage = ready(SILENT)
    assert stage.probe(SILENT, spans=[(1, 0, FED - 10)], missed=[(1, reason, 10)], firings=()) == CANARY_FAILED
    assert f"only {FED - 10} of {FED} tokens" in stage.why


def test_excluded_tokens_are_nobodys_fault() -> None:
    stage = ready()
    assert stage.probe(spans=[(1, 1, FED - 1)], missed=[(1, Reason.EXCLUDED, 1)]) == ""


def test_a_short_prompt_satisfies_nothing() -> None:
    stage = ready()
    assert stage.probe(fed=TOKENS - 1) == CANARY_FAILED
    assert "its prompt had 255 tokens, 256 are needed" in stage.why


def test_a_hook_that_is_gone_is_a_failure() -> None:
    """The request is served, and nothing of it is seen."""
    stage = ready()
    stage.canaries.send("c", FIRES.id, stage.now)
    stage.label(1, client_id="c", traffic_class="canary")
    stage.start(1, prompt_len=FED)
    stage.end(1, fed=FED)
    assert stage.follow() == CANARY_FAILED
    assert "nothing of it was seen" in stage.why


def test_a_swap_to_a_dictionary_without_the_feature_makes_it_blind_and_no_other() -> None:
    fewer = fakes.dictionary(fakes.FEATURES[:1], seed=1)
    stage = Probed(FIRES, OTHER, others=(fewer,))
    stage.ready()
    assert stage.probe() == ""
    assert stage.probe(OTHER, firings=((0, ANIMALS, 1.0),)) == ""
    stage.put(StreamEnd(stream=1, reason="swap", final=StreamBeat(stream=1, seq=stage.seq)))
    stage.stream, stage.seq = 2, 0
    stage.put(fakes.stream_open(fewer, stream=2), fakes.watch_set(fewer, stream=2))
    assert stage.probe(firings=()) == CANARY_FAILED
    assert stage.why == "threat.1: nothing of it was seen in a stable stream that watches the feature"
    assert stage.canaries.states()[0].failures == 1
    assert stage.probe(OTHER, firings=((0, ANIMALS, 1.0),)) == CANARY_FAILED
    [blind] = stage.canaries.blind
    assert blind.subject == "threat.l1", "the other feature is there still"
    assert blind.hint.endswith(f" {stage.why}."), "the log and the status say why"


def test_a_shadow_satisfies_nothing() -> None:
    stage = Probed()
    stage.put(fakes.stream_open(stage.known, role="shadow"), fakes.watch_set(stage.known))
    stage.beat()
    assert stage.probe() == CANARY_FAILED


def test_a_feature_sees_again_when_all_of_its_canaries_pass() -> None:
    stage = ready(FIRES, SILENT)
    assert stage.probe(FIRES, firings=()) == CANARY_FAILED
    assert stage.probe(SILENT, firings=()) == CANARY_FAILED, "the other one still fails"
    assert stage.probe(FIRES) == ""
    assert stage.changes == 2


def test_a_failure_is_of_its_feature_alone() -> None:
    stage = ready(FIRES, OTHER)
    stage.probe(OTHER, firings=((0, ANIMALS, 1.0),))
    stage.probe(FIRES, firings=())
    assert [(one.scope, one.subject) for one in stage.canaries.blind] == [("feature", "threat.l1")]


def test_what_has_not_passed_for_a_period_is_overdue() -> None:
    stage = ready()
    assert stage.follow(PERIOD) == "", "it has just begun"
    assert stage.follow(1) == CANARY_OVERDUE
    since = stage.canaries.blind[0].since_ns
    assert stage.follow(10) == CANARY_OVERDUE
    assert stage.canaries.blind[0].since_ns == since
    assert stage.probe() == ""
    assert stage.follow(PERIOD - 1) == ""
    assert stage.follow(2) == CANARY_OVERDUE


def test_a_request_of_which_nothing_comes_fails_within_a_period() -> None:
    stage = ready()
    stage.probe()
    stage.canaries.send("lost", FIRES.id, stage.now)
    assert stage.follow(PERIOD + 1) == CANARY_FAILED
    assert "nothing came of its request" in stage.why


def test_what_the_engine_refuses_is_a_failure() -> None:
    stage = ready()
    stage.canaries.send("no", FIRES.id, stage.now)
    stage.canaries.refuse("no", "status 400", stage.now)
    assert stage.follow() == CANARY_FAILED
    stage.canaries.refuse("no", "status 400", stage.now)
    assert stage.canaries.states()[0].failures == 1, "once"


def test_the_time_to_detection_is_from_the_last_pass() -> None:
    stage = ready()
    stage.probe()
    stage.follow(140)
    stage.probe(firings=())
    stage.follow(60)
    stage.probe(firings=())
    assert stage.canaries.states()[0].detection_ns == 140 * SECOND


def test_one_that_counts_as_live_fails_and_ends_all() -> None:
    stage = ready()
    assert stage.probe(traffic_class="live") == CANARY_FAILED
    assert stage.canaries.unlabelled
    assert "SAEWATCH_TRUST_HEADERS" in stage.why


def test_requests_of_others_are_no_canaries() -> None:
    """Whoever labels a request a canary has not sent one of ours."""
    stage = ready()
    stage.label(9, client_id="canary-1", traffic_class="canary")
    stage.start(9, prompt_len=FED)
    stage.batch([(9, 0, FED)], [(0, THREAT, 2.0)])
    stage.end(9, fed=FED)
    stage.follow()
    assert stage.canaries.states()[0].passes == 0


def test_canaries_enter_no_statistics() -> None:
    stage = ready()
    stage.canaries.send("c", FIRES.id, stage.now)
    stage.label(1, client_id="c", traffic_class="canary")
    stage.start(1, prompt_len=FED)
    (event,) = observed(stage.batch([(1, 0, FED)], [(0, THREAT, 2.0)]))
    assert not len(event.newly_fired), "it is in no metric of features"
    assert not COUNTED[event.traffic_class[event.span_request]].any(), "and no rule judges it"
