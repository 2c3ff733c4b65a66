"""The simulation itself: every corner that it promises does occur, and its truth is the design's definition of fed."""

from __future__ import annotations

from collections import Counter

import pytest

from saewatch.core.batch import Reason
from tests.simulate.engine import RECOMPUTED, STOP, Engine, Simulated, Traffic

MODES = {
    "plain": Traffic(),
    "asynchronous": Traffic(asynchronous=True),
    "speculative": Traffic(drafts=3),
    "asynchronous, speculative": Traffic(asynchronous=True, drafts=3, stops=0.05),
}


def facts(engine: Engine, steps: list[Simulated]) -> Counter[str]:
    found: Counter[str] = Counter()
    known: set[str] = set()
    for simulated in steps:
        step = simulated.step
        found["zero-token finishing step"] += bool(step.finished) and not step.computed
        found["uncaptured"] += step.positions is None and bool(step.computed)
        found["back as new"] += sum(new.engine_id in known for new in step.new)
        known |= {new.engine_id for new in step.new}
        found["aborted before it was known"] += sum(name not in known for name in step.finished)
        found["recomputed"] += sum(origin == RECOMPUTED for *_, origin in simulated.rows)
        found["cached"] += sum(reason == Reason.CACHED for _, reason in simulated.missed)
        found["several tokens"] += any(len(tokens) > 1 for tokens in (step.emitted or {}).values())
        found["row that does not count"] += step.starts is not None and int(step.starts[-1]) > len(simulated.rows)
        found["chunk"] += sum(not tokens for tokens in (step.emitted or {}).values())
        found["token after stop"] += any(STOP in tokens[:-1] for tokens in (step.emitted or {}).values())
    found["children"] = sum(request.child > 0 for request in engine.requests.values())
    return found


@pytest.mark.parametrize("mode", MODES)
def test_every_corner_occurs_and_the_truth_is_the_definition(mode: str) -> None:
    found: Counter[str] = Counter()
    for seed in range(6):
        engine = Engine(MODES[mode], seed)
        found += facts(engine, list(engine.steps()))
        for request in engine.requests.values():
            assert request.name in engine.over
            if request.ended_at is not None:
                assert sorted(request.seen) == list(range(request.prompt_len + request.emitted - 1))
    expected = {"zero-token finishing step", "uncaptured", "back as new", "recomputed", "cached", "chunk", "children"}
    expected |= {"aborted before it was known"} if mode == "plain" else set()
    expected |= {"row that does not count"} if mode != "plain" else set()
    expected |= {"several tokens", "token after stop"} if "speculative" in mode else set()
    assert {name for name in expected if not found[name]} == set()


def test_a_seed_gives_the_same_steps() -> None:
    first, second = ([simulated.rows for simulated in Engine(Traffic(), 7).steps()] for _ in range(2))
    assert first == second
