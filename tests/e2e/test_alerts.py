"""A real vLLM server and a policy, that of `conftest`: a request that meets a rule, and all who are to hear of it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import io
import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.rig import EXCLUDED, MODEL_NAME, text_tokens
from deploy.demo.chat import Answer, complete, stream
from deploy.demo.collect import Collector, Seen
from saewatch import cli
from saewatch.client import AlertChange, Client, Verdicts
from saewatch.edge.pb import alert_pb2, verdict_pb2
from saewatch.engine.dictionary_file import load_bundle
from tests.e2e.conftest import SECRET, Pair, told
from tests.waiting import wait_until

pytestmark = pytest.mark.engine

ACTIVE, RESOLVED = alert_pb2.ALERT_STATE_ACTIVE, alert_pb2.ALERT_STATE_RESOLVED
CLEAR, FLAGGED = verdict_pb2.VERDICT_STATE_CLEAR, verdict_pb2.VERDICT_STATE_FLAGGED
HEADERS = {"X-Saewatch-Tenant": "acme", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}


@pytest.fixture
def client(pair: Pair) -> Iterator[Client]:
    with Client(pair.watched.addresses["grpc"]) as found:
        yield found


def body(pair: Pair, prompt: int, answer: int) -> dict[str, Any]:
    tokens = text_tokens(pair.watched.model)[2000 : 2000 + prompt]
    return {"model": MODEL_NAME, "prompt": tokens, "max_tokens": answer, "temperature": 0.0, "ignore_eos": True}


def ask(pair: Pair, name: str, prompt: int, answer: int) -> Answer:
    return complete(pair.watched.port, body(pair, prompt, answer), name, headers=HEADERS)


def stamped(name: str) -> str:
    return f"{name}-{time.time_ns()}"


def run(*words: str) -> dict[str, Any]:
    """What ``saewatch …`` says as JSON."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main([*words, "--json"]) == cli.GOOD, printed.getvalue()
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


COPIES = 20
"""Of a recording while a request runs."""


def last(verdicts: Verdicts, name: str) -> verdict_pb2.Verdict:
    """The verdict with which a request has ended."""
    return next(one for one in verdicts if one.name == name and one.ended)


def reached(seen: Seen, fed: int) -> set[int]:
    """Up to where a verdict may cover a request: to its last token, or to what was seen before the first that was lost.

    The shipper's thread gets no turn for three steps, and the next one has no slot: a machine with fewer cores than
    threads may do that to any request. Of excluded tokens nobody tells where they are, only how many.
    """
    rows, excluded = seen.columns()[0], seen.missed[EXCLUDED]
    holes = np.setdiff1d(np.arange(fed), rows)
    assert len(holes) == sum(seen.missed.values()), "what is missing is told of"
    if len(holes) == excluded:
        return {fed - 1}
    return {int(max(rows[rows < hole], default=-1)) for hole in holes[: excluded + 1]}


def test_a_request_that_meets_a_rule_is_heard_of_everywhere(pair: Pair, client: Client, collector: Collector) -> None:
    name, where = stamped("busy"), ("--address", pair.watched.addresses["grpc"])
    with (
        ThreadPoolExecutor(1) as reader,
        client.watch_alerts(request=name) as watch,
        client.verdicts() as verdicts,
    ):
        verdicts.follow(name)
        reading = reader.submit(lambda: [event.alert for event in watch_until_resolved(watch)])
        wait_until(lambda: watch.resume_token != "")  # the stream has begun
        answer = ask(pair, name, 40, 8)
        changes = reading.result(60)
        verdict = last(verdicts, name)
    risen = changes[0]
    assert [one.state for one in changes] == [ACTIVE, RESOLVED]
    assert (risen.rule, risen.claim, risen.runbook) == ("busy", "correlational", "https://runbooks.example.org/busy")
    assert (risen.request.client_id, risen.request.tenant, risen.request.trace_id) == (name, "acme", "a" * 32)
    assert risen.weights_digest == load_bundle(pair.watched.bundle).sheet.weights
    [evidence] = risen.evidence
    assert (list(evidence.feature_ids), evidence.statistic, evidence.value) == (["everything.g1"], "count", 10.0)
    assert evidence.last_position == risen.position >= 9
    assert risen.coverage.tokens_seen > 9
    assert risen.coverage.complete

    seen, fed = told(collector, name), len(answer.prompt) + len(answer.tokens) - 1
    assert (verdict.state, [one.id for one in verdict.alerts]) == (FLAGGED, [risen.id])
    assert verdict.covered_through in reached(seen, fed), verdict
    assert {one.reason: one.tokens for one in verdict.missed} == seen.missed

    [listed] = client.list_alerts(request=name)
    assert listed == client.get_alert(risen.id)
    [shown] = run("alerts", "list", "--request", name, *where)["alerts"]
    assert (shown["id"], shown["state"]) == (risen.id, "ALERT_STATE_RESOLVED")
    before = listed.precision.true_positives
    run("alerts", "ack", risen.id, "--verdict", "true_positive", "--reason", "it was busy", *where)
    judged = client.get_alert(risen.id)
    assert judged.acknowledgement.reason == "it was busy"
    assert judged.precision.true_positives == before + 1
    assert judged.precision.low < 1.0, "of so few the interval is wide"


def watch_until_resolved(watch: Any) -> Iterator[AlertChange]:
    for event in watch:
        if isinstance(event, AlertChange):
            yield event
            if event.alert.state == RESOLVED:
                return


def test_prometheus_and_the_webhook_are_told(pair: Pair, client: Client) -> None:
    name = stamped("told")
    ask(pair, name, 40, 4)
    wait_until(lambda: [one.state for one in client.list_alerts(request=name)] == [RESOLVED])
    [alert] = client.list_alerts(request=name)

    def posted() -> list[tuple[dict[str, str], bytes]]:
        return [one for one in pair.receiver.posts if json.loads(one[1])["data"]["id"] == alert.id]

    wait_until(lambda: len(posted()) >= 2)
    assert [json.loads(said)["type"] for _, said in posted()] == ["alert.active", "alert.resolved"]
    for headers, said in posted():
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + said
        signature = base64.b64encode(hmac.digest(SECRET, content, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{signature}"
    with urllib.request.urlopen(pair.watched.addresses["metrics"]) as page:
        lines = page.read().decode().splitlines()
    labels = 'policy="everything",rule="busy",severity="high"'
    made = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if labels in line}
    assert made[f"saewatch_alerts_active{{{labels}}}"] == 0
    counted = [value for line, value in made.items() if line.startswith("saewatch_alerts_total")]
    assert len(counted) == 2
    assert min(counted) >= 1


def test_a_request_that_meets_no_rule_is_clear_up_to_its_last_token(pair: Pair, client: Client) -> None:
    name = stamped("short")
    with client.verdicts() as verdicts:
        verdicts.follow(name)
        answer = ask(pair, name, 4, 3)
        verdict = last(verdicts, name)
    fed = len(answer.prompt) + len(answer.tokens) - 1
    assert (verdict.state, verdict.covered_through) == (CLEAR, fed - 1)
    assert list(client.list_alerts(request=name, held_back=True)) == []


def explained(pair: Pair, name: str, rule: str, recording: Path) -> dict[str, Any]:
    policy = pair.watched.folder / "policy.yaml"
    where = ("--on", str(recording), "--dictionary", str(pair.watched.bundle))
    [found] = run("policy", "explain", name, f"{policy}:{rule}", *where)["requests"]
    return dict(found)


def history_of(pair: Pair, name: str, recording: Path) -> list[str]:
    """States that a recording tells of; none where it has nothing of the request yet."""
    with contextlib.suppress(AssertionError):
        return [one["state"] for one in explained(pair, name, "busy", recording)["history"]]
    return []


def copied(pair: Pair, folder: Path) -> Path:
    """What the sidecar has received so far: a thread of its own writes it."""
    return Path(shutil.copy(pair.watched.recordings[-1], folder / f"{time.monotonic_ns()}.frames"))


def test_why_it_fired_is_explained_from_the_recording(pair: Pair, client: Client, tmp_path: Path) -> None:
    name = stamped("why")
    ask(pair, name, 40, 4)
    wait_until(lambda: [one.state for one in client.list_alerts(request=name)] == [RESOLVED])
    [alert] = client.list_alerts(request=name)
    wait_until(lambda: history_of(pair, name, copied(pair, tmp_path)) == ["active", "resolved"])
    recording = copied(pair, tmp_path)
    fired, silent = (explained(pair, name, rule, recording) for rule in ("busy", "never"))
    assert [one["state"] for one in fired["history"]] == ["active", "resolved"]
    assert fired["history"][0]["position"] == alert.evidence[0].first_position
    assert (fired["end"], fired["fed"]) == ("ended", 43)
    assert (silent["fired"], silent["parts"][0]["over"]) == (False, 0)
    assert 0.0 < silent["parts"][0]["largest"] < 1e6


def test_a_request_that_runs_is_explained_so_far(pair: Pair, client: Client, tmp_path: Path) -> None:
    name = stamped("running")
    running = stream(pair.watched.port, "/v1/completions", body(pair, 40, 900), Answer(name), headers=HEADERS)
    for _ in range(12):
        next(running)
    wait_until(lambda: [one.state for one in client.list_alerts(request=name)] == [ACTIVE])
    copies = [copied(pair, tmp_path)]
    while len(copies) < COPIES and [one.state for one in client.list_alerts(request=name)] == [ACTIVE]:
        time.sleep(0.1)  # to explain one takes longer than the request may run
        copies.append(copied(pair, tmp_path))
    for _ in running:
        pass  # to its end: vLLM's counters know no half request
    recording = next(one for one in copies if history_of(pair, name, one) == ["active"])
    found = explained(pair, name, "busy", recording)
    assert found["end"] == "open"
    assert 40 <= found["fed"] < 939
