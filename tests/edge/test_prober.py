"""The prober, against a real HTTP server in an engine's place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from saewatch.core.errors import ConfigError
from saewatch.core.records import Record
from saewatch.edge.pipeline import Pipeline, SinkQueue
from saewatch.edge.prober import PADDING, Prober, padded
from saewatch.monitor.canary import TOKENS, Canaries, Canary
from saewatch.monitor.drift.replays import prompt_name
from saewatch.monitor.events import Standing
from tests import fakes
from tests.edge.probed import PROMPT, Engine, Fires, serving

THREAT = 2  # slot
CANARIES = (
    Canary(id="1", feature="threat.l1", fires=True, prompt="I know where you live."),
    Canary(id="2", feature="threat.l1", fires=False, prompt="The kettle boils."),
)
PERIOD_S = 300


def honest(prompt: str) -> list[fakes.Firing]:
    return [(PROMPT - 2, THREAT, 2.0)] * ("where you live" in prompt)


class Probing:
    """A pipeline that canaries go through."""

    def __init__(self) -> None:
        self.now = 10**18
        known = fakes.dictionary()
        self.queue = SinkQueue("q", lambda: None, wants=(Standing,))
        self.pipeline = Pipeline(
            dictionaries={known.weights_digest: known},
            queues=[self.queue],
            clock=lambda: self.now,
            canaries=lambda now_ns: Canaries(CANARIES, PERIOD_S * 10**9, now_ns),
        )
        self.pipeline.connect(1)
        for record in (fakes.stream_open(known), fakes.watch_set(known), fakes.beat()):
            self.pipeline.receive(1, record)

    def tell(self, record: Record) -> None:
        self.pipeline.receive(1, record)

    def prober(self, url: str, **changes: object) -> Prober:
        how = {"url": url, "model": "m", "period_s": PERIOD_S, "priority": 100, **changes}
        return Prober(CANARIES, pipeline=self.pipeline, **how)  # type: ignore[arg-type]  # of one type each

    def blind(self) -> list[tuple[str, str]]:
        """Features that are blind by the status, which is what the last standing says too."""
        found = [(one.subject, one.reason) for one in self.pipeline.status().blind if one.scope == "feature"]
        told = [item for item in self.queue.taken() if isinstance(item, Standing)]
        if told:
            assert [(one.subject, one.reason) for one in told[-1].blind if one.scope == "feature"] == found
        return found


@contextmanager
def probing(fires: Fires = honest, *, trusted: bool = True, status: int = 200) -> Iterator[tuple[Probing, Engine]]:
    one = Probing()
    with serving(Engine(one.tell, fires, trusted=trusted, status=status)) as engine:
        yield one, engine


def test_a_canary_is_sent_as_it_is_promised() -> None:
    with probing() as (one, engine):
        prober = one.prober(engine.url)
        for canary in (*CANARIES, CANARIES[0]):
            prober.send(canary)
    body = engine.asked[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["priority"]) == ("m", 1, 0, 100)
    assert body["prompt"].endswith("I know where you live.")
    assert len(body["prompt"].split()) >= TOKENS
    assert len({asked["cache_salt"] for asked in engine.asked}) == 3, "fresh each time"
    names = [told["x-request-id"] for told in engine.told]
    assert len(set(names)) == 3
    assert all(len(name) > 32 for name in names), "nobody guesses one"
    assert {told["x-saewatch-class"] for told in engine.told} == {"canary"}
    assert one.blind() == []
    assert one.pipeline.canary(lambda canaries, _: canaries.states()[0].passes) == 3


def test_without_a_priority_none_is_sent() -> None:
    with probing() as (one, engine):
        one.prober(engine.url, priority=0).send(CANARIES[0])
    assert "priority" not in engine.asked[0]


def test_a_fault_makes_the_feature_blind_and_its_end_lets_it_see() -> None:
    broken = True
    with probing(lambda prompt: [] if broken else honest(prompt)) as (one, engine):
        prober = one.prober(engine.url)
        prober.send(CANARIES[0])
        assert one.blind() == [("threat.l1", "canary_failed")]
        broken = False
        prober.send(CANARIES[0])
        assert one.blind() == []


def test_an_engine_that_refuses_or_is_not_there_is_a_failure() -> None:
    with probing(status=400) as (one, engine):
        one.prober(engine.url).send(CANARIES[0])
        one.pipeline.tick()
        assert one.blind() == [("threat.l1", "canary_failed")]
        state = one.pipeline.canary(lambda canaries, _: canaries.states()[0])
        assert "status 400" in state.why
        assert "priority scheduling is not enabled" in state.why
    one.prober(engine.url).send(CANARIES[0])
    assert one.pipeline.canary(lambda canaries, _: canaries.states()[0]).failures == 2


def test_nothing_more_is_sent_where_headers_are_not_trusted() -> None:
    """Its canaries would be live requests: one is counted, and no other."""
    with probing(trusted=False) as (one, engine):
        prober = one.prober(engine.url, wait=lambda _: False)
        prober.run()
    assert len(engine.asked) == 1
    assert one.blind() == [("threat.l1", "canary_failed")]


def test_it_goes_round_twice_a_period_until_it_is_stopped() -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) > 4

    with probing() as (one, engine):
        prober = one.prober(engine.url, wait=wait)
        prober.run()
    assert waits == [PERIOD_S / 4] * 5
    assert [asked["prompt"][-5:] for asked in engine.asked] == ["live.", "oils."] * 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "http://192.0.2.1:8000/v1"}, "canaries.url"),
        ({"url": "http://example.org/v1"}, "canaries.url"),
        ({"url": "nothing"}, "endpoint"),
        ({"model": ""}, "canaries.model"),
    ],
)
def test_canaries_go_to_this_machine_only(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Probing().prober(**{"url": "http://127.0.0.1:8000/v1", **changes})


def test_padding_stands_in_front_and_is_no_more_than_it_takes() -> None:
    text = padded("a b c")
    assert text.endswith("\n\na b c")
    assert TOKENS <= len(text.split()) <= TOKENS + 16
    assert text.startswith(PADDING)
    long = "word " * 400
    assert padded(long) == long


def test_the_prompts_of_a_panel_go_once_a_period_as_they_are() -> None:
    texts = ("One fixed prompt.", "And another one.", "The third.")
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) > 7

    with probing() as (one, engine):
        one.prober(engine.url, panel=texts, wait=wait).run()
    assert waits == [PERIOD_S / 7] * 8
    sent = [body["prompt"] for body in engine.asked]
    assert [text for text in sent if text in texts] == [texts[0], texts[2], texts[1]]
    assert sum(text not in texts for text in sent) == 4, "each canary twice"
    assert len({body["cache_salt"] for body in engine.asked}) == 7
    name = engine.told[sent.index(texts[0])]["x-request-id"]
    assert name.startswith(f"panel-{prompt_name(texts[0])}-")
    assert {told["x-saewatch-class"] for told in engine.told} == {"canary"}
    assert one.blind() == []


def test_a_prompt_that_is_not_served_is_no_canary_that_failed() -> None:
    with probing(status=400) as (one, engine):
        prober = one.prober(engine.url, panel=("a prompt",))
        prober.send_prompt("a prompt")
    prober.send_prompt("a prompt")  # nobody is there
    assert one.blind() == []
