"""A real tap with a stable dictionary and a shadow, on the real socket: what the sidecar makes of both."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from saewatch.core.tapconfig import DictionaryUse
from saewatch.edge import dictionaries
from saewatch.edge.pipeline import Pipeline, SinkQueue
from saewatch.edge.sinks.metrics import MetricsSink
from saewatch.edge.sources import SocketSource
from saewatch.engine.staging import Rows
from saewatch.engine.tap import Tap
from saewatch.monitor.compared import Comparison
from tests.engine.standin import BUNDLE, Blocks, a_config, a_step, an_engine, another_bundle, hidden, rows_of
from tests.waiting import wait_until

REQUESTS, TOKENS = 6, 30


@pytest.fixture
def compared(tmp_path: Path) -> tuple[Comparison, set[str]]:
    """The comparison, and the features that the metrics count."""
    shadow = another_bundle(tmp_path / "shadow", features=3)
    known = [dictionaries.load_one(folder) for folder in (BUNDLE, shadow)]
    queue = SinkQueue("metrics", lambda: None)
    # the same weights: the first one's labels explain both streams
    pipeline = Pipeline(dictionaries={known[0].weights_digest: known[0]}, queues=[queue])
    source = SocketSource(path=str(tmp_path / "s"), consumer=pipeline)
    source.start()
    blocks = Blocks()
    uses = (DictionaryUse(path=str(BUNDLE)), DictionaryUse(path=str(shadow), role="shadow"))
    tap = Tap.open(a_config(tmp_path, dictionaries=uses, slots=2 * REQUESTS), an_engine(), blocks)
    blocks.run(hidden(1))
    tap.prove()
    tap.start()
    for number in range(REQUESTS):
        rows = rows_of(**{f"r{number}": (0, TOKENS)})
        blocks.run(hidden(TOKENS, seed=number))
        tap.snapshot(partial(_given, rows))
        tap.step(**{**a_step(rows), "finished": (f"r{number - 1}",) if number else ()})
    tap.step(**{**a_step(rows, new=False), "computed": {}, "emitted": {}, "finished": (f"r{REQUESTS - 1}",)})
    wait_until(lambda: sum(one.requests + one.uneven for one in pipeline.comparisons()) == REQUESTS)
    tap.close()
    source.stop()
    (found,) = pipeline.comparisons()
    metrics = MetricsSink(faults=dict, queues=list)
    metrics.take(queue.take())
    samples = [sample for family in metrics.collect() for sample in family.samples]
    counted = {one.labels["feature"] for one in samples if one.name == "saewatch_firings_total" and one.value}
    return found, counted


def _given(rows: Rows) -> Rows:
    return rows


def test_where_both_watch_the_same_latents_they_agree_in_every_request(compared: tuple[Comparison, set[str]]) -> None:
    found, counted = compared
    assert (found.requests, found.uneven) == (REQUESTS, 0)
    assert found.stable.tokens == found.shadow.tokens == REQUESTS * (TOKENS - 1), "the first token is left out"
    assert found.features, "some of the features are watched by both"
    assert found.stable_only, "and others by the stable one alone"
    assert found.both.sum() > 0
    assert found.stable_alone.sum() == found.shadow_alone.sum() == 0
    assert found.stable_firings.tolist() == found.shadow_firings.tolist()
    assert found.stable.firings > found.shadow.firings
    assert counted, "the stable one's features are counted"
