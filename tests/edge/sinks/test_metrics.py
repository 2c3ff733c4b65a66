"""What Prometheus scrapes, read with its own parser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from saewatch.core import limits
from saewatch.core.batch import Origin, Reason
from saewatch.core.records import RequestStart, StreamBeat, StreamEnd
from saewatch.edge.pipeline import QueueState, SinkQueue
from saewatch.edge.sinks.metrics import MetricsSink
from saewatch.monitor.events import Event
from saewatch.monitor.monitor import Monitor
from tests import fakes
from tests.monitor.stage import ENGINE, Stage

Labels = frozenset[tuple[str, str]]


def sink(faults: Mapping[str, int] | None = None, queues: Sequence[QueueState] = (), series: int = 1000) -> MetricsSink:
    return MetricsSink(faults=lambda: faults or {}, queues=lambda: queues, series=series)


def scrape(one: MetricsSink) -> dict[str, dict[Labels, float]]:
    """Sample name to labels to value, without labels that are empty."""
    text = generate_latest(one.registry, version="1.0.0").decode()
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = frozenset((name, value) for name, value in sample.labels.items() if value)
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def after(events: Sequence[Event], one: MetricsSink | None = None) -> dict[str, dict[Labels, float]]:
    one = one or sink()
    one.take(list(events))
    return scrape(one)


def where(samples: Mapping[Labels, float], **labels: str) -> float:
    """The value of the one series with these labels."""
    (value,) = [value for found, value in samples.items() if set(labels.items()) <= found]
    return value


def stage(*requests: int) -> Stage:
    one = Stage().ready()
    for request in requests:
        one.label(request)
        one.start(request)
    return one


def test_tokens_by_class_outcome_and_reason() -> None:
    one = stage(7)
    one.label(8, traffic_class="canary")
    one.start(8)
    spans: list[fakes.Span] = [(7, 0, 5), (7, 2, 3, Origin.RECOMPUTED), (8, 0, 2, Origin.REUSED), (99, 0, 1)]
    one.batch(spans, missed=[(7, Reason.EXCLUDED, 2), (8, Reason.GAP, 3), (0, Reason.GAP, 4)])
    tokens = after(one.events)["saewatch_tokens_total"]
    common = {("hook_point", "resid_post.3"), ("role", "stable"), ("model_name", "demo-model"), ("engine", "0")}
    assert tokens == {
        frozenset({*common, ("class", traffic), ("outcome", outcome), *(("reason", one) for one in reason)}): count
        for traffic, outcome, reason, count in [
            ("live", "encoded", [], 5),
            ("canary", "reused", [], 2),
            ("unlabelled", "encoded", [], 1),
            ("live", "missed", ["excluded"], 2),
            ("canary", "missed", ["gap"], 3),
            ("unlabelled", "missed", ["gap"], 4),
        ]
    }


def test_tokens_of_adapters_by_fit() -> None:
    one = Stage(replace(fakes.dictionary(), adapters=frozenset({"sql"}))).ready()
    for request, adapter in ((7, ""), (8, "sql"), (9, "chat")):
        one.put(RequestStart(request=request, engine_id=f"plain-{request}", prompt_len=4, adapter=adapter))
    one.batch([(7, 0, 5), (8, 0, 3), (9, 0, 2), (9, 0, 1, Origin.RECOMPUTED), (99, 0, 1)])
    one.batch([(8, 3, 1), (7, 5, 1)])
    found = after(one.events)["saewatch_adapter_tokens_total"]
    assert len(found) == 2
    assert where(found, fit="attested", hook_point="resid_post.3", role="stable") == 4
    assert where(found, fit="unverified") == 2


def test_firings_and_requests_of_a_feature() -> None:
    one = stage(7, 8)
    one.batch([(7, 0, 3), (8, 0, 1)], [(0, 0, 1.0), (1, 0, 1.0), (1, 1, 1.0), (3, 0, 1.0), (3, 3, 1.0)])
    found = after(one.events)
    assert where(found["saewatch_firings_total"], feature="animals.g1", category="x.animals") == 4
    assert where(found["saewatch_firing_requests_total"], feature="animals.g1") == 2
    assert where(found["saewatch_firings_total"], feature="threat.p1", category="vcr") == 1
    assert where(found["saewatch_firings_total"], feature="threat.l1") == 0, "a series from the start"


def test_counting_goes_on_between_scrapes() -> None:
    one, metrics = stage(7), sink()
    for position in range(3):
        events = one.batch([(7, position, 1)], [(0, 2, 1.0)])
        found = after(events, metrics)
        assert where(found["saewatch_firings_total"], feature="threat.l1") == position + 1
        assert where(found["saewatch_firing_requests_total"], feature="threat.l1") == 1


def test_a_scrape_takes_what_is_pending_once() -> None:
    stage, queue = Stage().ready(), SinkQueue("metrics", lambda: None)
    stage.start(7, name="plain")
    one = MetricsSink(faults=dict, queues=tuple, pending=queue.taken)
    queue.put(stage.batch([(7, 0, 3)]))
    for _ in range(2):
        assert sum(scrape(one)["saewatch_tokens_total"].values()) == 3


def test_what_is_no_users_traffic_or_recomputed_or_shadow_fires_in_no_series() -> None:
    one = stage()
    one.label(7, traffic_class="canary")
    one.start(7)
    one.label(9)
    one.start(9)
    spans: list[fakes.Span] = [(7, 0, 1), (9, 0, 1, Origin.RECOMPUTED)]
    one.batch(spans, [(row, 2, 1.0) for row in range(2)])
    found = after(one.events)["saewatch_firings_total"]
    assert where(found, feature="threat.l1") == 0
    shadow = Stage()
    shadow.put(fakes.stream_open(shadow.known, role="shadow"), fakes.watch_set(shadow.known))
    shadow.label(7)
    shadow.start(7)
    shadow.batch([(7, 0, 1)], [(0, 2, 1.0)])
    found_shadow = after(shadow.events)
    assert "saewatch_firings_total" not in found_shadow
    assert where(found_shadow["saewatch_tokens_total"], role="shadow") == 1


def test_tokens_of_an_unknown_dictionary_are_missed_for_blindness() -> None:
    one = Stage()
    one.monitor = Monitor(dictionaries={})
    one.monitor.connect(ENGINE)
    one.put(fakes.stream_open(one.known))
    one.batch([(7, 0, 5)])
    found = after(one.events)
    assert where(found["saewatch_tokens_total"], outcome="missed", reason="blind") == 5
    assert where(found["saewatch_blind"], reason="unknown_dictionary", model_name="demo-model") == 1


def test_blindness_is_a_series_before_during_and_after() -> None:
    one, metrics = stage(), sink()
    assert where(after(one.events, metrics)["saewatch_blind"], reason="no_beat") == 0
    blind = after(one.tick(5.0), metrics)["saewatch_blind"]
    assert where(blind, reason="no_beat", engine="0") == 1
    assert where(after(one.beat(), metrics)["saewatch_blind"], reason="no_beat", engine="0") == 0


def test_an_engine_that_was_started_again_under_another_name_is_blind_no_more_and_its_tokens_stay() -> None:
    one, metrics = stage(7), sink()
    one.batch([(7, 0, 3)])
    one.monitor.disconnect(ENGINE, one.now)
    one.tick(5.0)
    one.monitor.connect(3)
    other = {"engine": "engine-1", "epoch": one.now}
    one.put(fakes.stream_open(one.known, **other), fakes.watch_set(one.known), link=3)
    assert where(after(one.events, metrics)["saewatch_blind"], reason="no_beat", engine="0") == 1
    one.events.clear()
    one.now += limits.LOST_ENGINE_NS
    one.beat(link=3, **other)
    found = after([*one.events, *one.tick()], metrics)
    assert where(found["saewatch_blind"], reason="no_beat", engine="0") == 0
    assert where(found["saewatch_tokens_total"], outcome="encoded") == 3


def test_cost_and_queues() -> None:
    one = stage()
    for seconds in (1.0, 1.5, 2.25):
        one.beat(stage_seconds={"ship": seconds, "encode": 2 * seconds}, queue_bytes=77)
    metrics = sink(queues=[QueueState("grpc", 5, 3)])
    found = after(one.events, metrics)
    assert where(found["saewatch_overhead_seconds_total"], stage="ship") == 2.25
    assert where(found["saewatch_overhead_seconds_total"], stage="encode") == 4.5
    assert where(found["saewatch_queue_bytes"], sink="engine", engine="0") == 77
    assert where(found["saewatch_queue_bytes"], sink="grpc") == 5
    assert where(found["saewatch_dropped_total"], sink="grpc", reason="queue_full") == 3


def test_lag() -> None:
    one = sink()
    one.observe_lag([0.004, 0.02, 100.0])
    found = scrape(one)
    buckets = {dict(labels)["le"]: value for labels, value in found["saewatch_lag_seconds_bucket"].items()}
    assert (buckets["0.0025"], buckets["0.005"], buckets["0.025"], buckets["10.0"], buckets["+Inf"]) == (0, 1, 2, 2, 3)
    assert found["saewatch_lag_seconds_count"][frozenset()] == 3
    assert found["saewatch_lag_seconds_sum"][frozenset()] == 100.024


def test_a_value_at_a_bound_is_within_it() -> None:
    one = sink()
    one.observe_lag([0.005])
    buckets = {dict(labels)["le"]: value for labels, value in scrape(one)["saewatch_lag_seconds_bucket"].items()}
    assert (buckets["0.0025"], buckets["0.005"]) == (0, 1)


def test_versions_can_be_joined() -> None:
    one = stage()
    found = after(one.events)["saewatch_dictionary_info"]
    labels = {"weights": one.known.weights_digest, "catalogue": one.known.catalogue_digest, "mode": "exact"}
    assert where(found, **labels, ref="stable", hook_point="resid_post.3") == 1


def test_faults_by_kind() -> None:
    found = scrape(sink(faults={"CorruptFrame": 2, "seq_gaps": 0}))["saewatch_faults_total"]
    assert (where(found, kind="CorruptFrame"), where(found, kind="seq_gaps")) == (2, 0)


def test_series_are_capped_and_the_cut_is_counted() -> None:
    features = [fakes.feature(f"f{number:02d}.l1", latents=(number,)) for number in range(50)]
    one = Stage(fakes.dictionary(features)).ready()
    one.label(7)
    one.start(7)
    one.batch([(7, 0, 1)], [(0, slot, 1.0) for slot in range(50)])
    found = after(one.events, sink(series=10))
    assert len(found["saewatch_firings_total"]) == 10
    assert where(found["saewatch_series_dropped_total"], metric="saewatch_firings") == 10


def test_no_label_is_of_a_requests_making() -> None:
    one = stage()
    for request in range(1, 200):
        one.label(request, client_id=f"id-{request}", tenant=f"tenant-{request}", conversation=f"c-{request}")
        one.start(request)
        one.batch([(request, 0, 1)], [(0, 0, 1.0)])
    found = after(one.events)
    assert len(found["saewatch_tokens_total"]) == 1
    assert not any(
        value.startswith(("id-", "tenant-", "c-")) for series in found.values() for key in series for _, value in key
    )


def test_changing_watch_sets_without_a_scrape_are_folded() -> None:
    one, metrics = stage(7), sink()
    for watch in range(2, 200):
        one.put(fakes.watch_set(one.known, watch=watch))
        metrics.take(one.batch([(7, watch, 1)], [(0, 2, 1.0)], watch=watch))
    assert where(scrape(metrics)["saewatch_firings_total"], feature="threat.l1") == 198


def test_books_make_no_counter() -> None:
    one = stage()
    one.beat(StreamBeat(stream=1, seq=0, fed=1000, encoded=1000, firings=5000))
    assert "saewatch_tokens_total" not in after(one.events), "a restart of the sidecar must not count them again"


def test_no_choice_of_endpoint_takes_a_request_out_of_the_metric() -> None:
    one = stage()
    one.start(8, name="resp_without_a_key")
    one.batch([(8, 0, 1), (99, 0, 1)], [(0, 2, 1.0), (1, 2, 1.0)])
    found = after(one.events)
    assert where(found["saewatch_firings_total"], feature="threat.l1") == 2, "the unlabelled one and the unknown one"
    assert where(found["saewatch_firing_requests_total"], feature="threat.l1") == 1


def test_a_canary_whose_label_comes_late_does_not_count_and_one_that_is_never_labelled_does() -> None:
    one, metrics = stage(), sink()
    for request in (7, 8):
        one.start(request)
        one.batch([(request, 0, 1)], [(0, 2, 1.0)])
    one.tick(0.9)
    one.label(7, traffic_class="canary")
    one.tick(0.2)
    found = after(one.events, metrics)
    assert where(found["saewatch_firings_total"], feature="threat.l1") == 1
    assert where(found["saewatch_firing_requests_total"], feature="threat.l1") == 1


def test_the_queues_of_engines_that_are_gone_are_forgotten() -> None:
    one, metrics = stage(), sink()
    for number in range(2, 100):
        one.put(fakes.stream_open(one.known, stream=number, engine="engine-0", model_name=f"model-{number}"))
        one.put(StreamEnd(stream=number - 1, reason="swap", final=StreamBeat(stream=number - 1, seq=0)))
        one.beat(queue_bytes=number)
    found = after(one.events, metrics)["saewatch_queue_bytes"]
    assert [value for labels, value in found.items() if ("sink", "engine") in labels] == [99]
