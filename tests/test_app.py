"""One sidecar, whole, inside the test's loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from saewatch import config
from saewatch.app import App, serve, split_listen, write_addresses
from saewatch.core.errors import ConfigError, ManifestError, SaewatchError
from saewatch.edge.pb import alert_pb2, alert_pb2_grpc, firing_pb2, firing_pb2_grpc, history_pb2
from tests import fakes
from tests.edge.sinks.receiver import Receiver
from tests.fakes import FakeApi, FakeEngine

LOCAL = {"listen": "127.0.0.1:0"}


def settings(tmp_path: Path, **sections: Any) -> config.Config:
    fakes.write_bundle(tmp_path / "bundle", fakes.dictionary())
    values = {"socket": str(tmp_path / "s.sock"), "dictionaries": ("bundle",), "grpc": LOCAL, "web": LOCAL}
    values |= {"history": {"path": ""}}
    return config.read({**values, **sections}, folder=tmp_path)


@contextlib.asynccontextmanager
async def running(tmp_path: Path, **sections: Any) -> AsyncIterator[App]:
    app = App(settings(tmp_path, **sections))
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def left(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(one.name for one in folder.iterdir())


async def in_thread(call: Any, *arguments: Any) -> Any:
    return await asyncio.to_thread(call, *arguments)


async def test_from_the_socket_to_grpc_and_prometheus(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        assert app.addresses is not None
        with FakeEngine(app.addresses.socket, fakes.dictionary()) as engine, FakeApi(app.addresses.socket) as api:
            await in_thread(engine.ready)
            async with grpc.aio.insecure_channel(app.addresses.grpc) as channel:
                stub: Any = firing_pb2_grpc.FiringServiceStub(channel)
                call = stub.WatchFirings(firing_pb2.WatchFiringsRequest())
                await call.read()
                api.label(7)
                engine.start(7)
                engine.batch([(7, 0, 4)], [(1, 2, 2.0)])
                engine.end(7, fed=4, emitted=1)
                kinds = []
                while "ended" not in kinds:
                    kinds.append((await call.read()).WhichOneof("event"))
                assert [kind for kind in kinds if kind not in {"coverage", "heartbeat"}] == ["table", "batch", "ended"]
                call.cancel()

            def scrape() -> str:
                assert app.addresses is not None
                with urllib.request.urlopen(f"{app.addresses.web}/metrics", timeout=5) as answer:
                    return str(answer.read().decode())

            text = await in_thread(scrape)
            assert (
                'saewatch_firings_total{category="vcr",engine="0",feature="threat.l1",model_name="demo-model"} 1.0'
                in text
            )
            assert "saewatch_lag_seconds_count 1.0" in text


async def test_what_fired_can_be_asked_for_after_a_restart(
    tmp_path: Path, threads_left: Callable[[], list[str]]
) -> None:
    history = {"path": "h.db"}
    async with running(tmp_path, history=history) as app:
        assert app.addresses is not None
        with FakeEngine(app.addresses.socket, fakes.dictionary()) as engine:
            await in_thread(engine.ready)
            engine.start(7, name="plain")
            seq = engine.batch([(7, 0, 4)], [(1, 2, 2.0)])
            assert await in_thread(engine.acked, seq)
    assert "saewatch-history" not in threads_left()
    async with running(tmp_path, history=history) as app:
        assert app.addresses is not None
        async with grpc.aio.insecure_channel(app.addresses.grpc) as channel:
            stub: Any = firing_pb2_grpc.FiringServiceStub(channel)
            answer = await stub.QueryFirings(history_pb2.QueryFiringsRequest())
            assert [(row.engine_id, row.value) for row in answer.firings] == [("plain", 2.0)]
            assert answer.coverage.tokens_seen == 4


async def test_a_history_that_another_sidecar_writes_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, history={"path": "h.db"}):
        other = App(settings(tmp_path, socket=str(tmp_path / "t.sock"), history={"path": "h.db"}))
        with pytest.raises(ConfigError, match=r"history\.path"):
            await other.start()
        await other.stop()


async def test_nothing_is_left(tmp_path: Path, threads_left: Callable[[], list[str]]) -> None:
    async with running(tmp_path) as app:
        assert app.addresses is not None
        assert stat.S_IMODE((await in_thread(os.stat, app.addresses.socket)).st_mode) == 0o600
    assert left(tmp_path) == ["bundle"]
    assert len(threads_left()) <= 5, "gRPC's pollers and the executor's threads stay, ours does not"
    assert not any(name.startswith("saewatch") for name in threads_left())


async def test_what_was_received_is_delivered_before_the_end(tmp_path: Path) -> None:
    app = App(settings(tmp_path))
    await app.start()
    assert app.addresses is not None
    async with grpc.aio.insecure_channel(app.addresses.grpc) as channel:
        stub: Any = firing_pb2_grpc.FiringServiceStub(channel)
        call = stub.WatchFirings(firing_pb2.WatchFiringsRequest())
        await call.read()
        with FakeEngine(app.addresses.socket, fakes.dictionary()) as engine:
            await in_thread(engine.ready)
            engine.start(7, name="plain")
            seq = engine.batch([(7, 0, 4)])
            assert await in_thread(engine.acked, seq)
            stopping = asyncio.create_task(app.stop())
            kinds = []
            while "drain" not in kinds:
                kinds.append((await call.read()).WhichOneof("event"))
            await stopping
    assert [kind for kind in kinds if kind not in {"coverage", "heartbeat"}] == ["table", "batch", "drain"]


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"grpc": {"listen": "0.0.0.0:0"}}, "grpc.listen"),
        ({"web": {"listen": "10.0.0.1:0"}}, "web.listen"),
    ],
)
def test_others_can_not_reach_it(tmp_path: Path, sections: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        App(settings(tmp_path, **sections))
    assert caught.value.subject == field


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"bundle\.json"):
        App(settings(tmp_path, dictionaries=("nowhere",)))


@pytest.mark.parametrize("section", ["grpc", "web"])
async def test_a_port_that_is_taken_leaves_nothing_behind(tmp_path: Path, section: str) -> None:
    async with running(tmp_path) as first:
        assert first.addresses is not None
        taken = {"grpc": first.addresses.grpc, "web": first.addresses.web.removeprefix("http://")}[section]
        other = App(settings(tmp_path, socket=str(tmp_path / "t.sock"), **{section: {"listen": taken}}))
        with pytest.raises(ConfigError, match=rf"{section}\.listen"):
            await other.start()
        await other.stop()
    assert left(tmp_path) == ["bundle"]


async def test_a_socket_that_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path):
        other = App(settings(tmp_path))
        with pytest.raises(ConfigError, match="somebody listens"):
            await other.start()
        await other.stop()


async def test_the_failure_of_a_part_ends_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("saewatch.edge.sinks.statelog.StateLog.take", fail)

    async def engine_comes(path: str) -> None:
        with FakeEngine(path, fakes.dictionary()) as engine:
            await in_thread(engine.ready)

    tasks = []
    with pytest.raises(ZeroDivisionError):
        await serve(
            settings(tmp_path), on_start=lambda one: tasks.append(asyncio.create_task(engine_comes(one.socket)))
        )
    assert left(tmp_path) == ["bundle"]


async def test_the_failure_of_the_ingest_thread_ends_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("saewatch.edge.pipeline.Pipeline.tick", fail)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(serve(settings(tmp_path), on_start=lambda _: None), 10)
    assert left(tmp_path) == ["bundle"]


async def test_addresses_are_written_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        assert app.addresses is not None
        write_addresses(tmp_path / "addresses.json", app.addresses)
    found = json.loads(await in_thread((tmp_path / "addresses.json").read_text))
    assert found["metrics"] == f"{found['web']}/metrics"
    assert found["grpc"].startswith("127.0.0.1:")
    assert left(tmp_path) == ["addresses.json", "bundle"]


def test_listen_addresses() -> None:
    assert split_listen("web.listen", "[::1]:80") == ("::1", 80)
    assert split_listen("web.listen", "localhost:0") == ("localhost", 0)


async def test_faults_of_every_part_are_in_the_metrics_from_the_start(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        assert app.addresses is not None
        page = await in_thread(lambda: urllib.request.urlopen(f"{app.addresses.web}/metrics").read().decode())
    own = ("requests_unjudged", "alerts_forgotten")
    for kind in ("CorruptFrame", "consumer_fault", "accept_failed", "internal_error", "seq_gaps", *own):
        assert f'saewatch_faults_total{{kind="{kind}"}} 0.0' in page


def test_a_policy_that_costs_too_much_on_a_dictionary_never_serves(tmp_path: Path) -> None:
    def leaf(above: int) -> dict[str, Any]:
        return {"feature": "threat.l1", "statistic": "64of64", "above": above}

    rules = [
        {"id": f"r{number}", "severity": "low", "when": {"any": [leaf(64 * number + one) for one in range(64)]}}
        for number in range(30)
    ]
    (tmp_path / "p.yaml").write_text(json.dumps({"policy": "hostile", "rules": rules}))
    with pytest.raises(ConfigError, match=r"policy hostile: found \d+ steps a token"):
        App(settings(tmp_path, policies=("p.yaml",)))


async def test_verdicts_on_alerts_survive_a_restart(tmp_path: Path) -> None:
    rule = {"id": "threat", "severity": "high", "uncalibrated": "a test", "when": {"feature": "threat.l1", "above": 1}}
    (tmp_path / "p.yaml").write_text(json.dumps({"policy": "trust", "rules": [rule]}))
    sections = {"history": {"path": "h.db"}, "policies": ("p.yaml",)}
    async with running(tmp_path, **sections) as app, alerts_of(app) as stub:
        assert app.addresses is not None
        with FakeEngine(app.addresses.socket, fakes.dictionary()) as engine:
            await in_thread(engine.ready)
            engine.start(7, name="plain")
            assert await in_thread(engine.acked, engine.batch([(7, 0, 4)], [(1, 2, 2.0)]))
            only = alert_pb2.AlertFilter(kinds=[alert_pb2.ALERT_KIND_FIRED])
            [alert] = (await stub.ListAlerts(alert_pb2.ListAlertsRequest(filter=only))).alerts
            verdict = alert_pb2.ALERT_VERDICT_TRUE_POSITIVE
            asked = alert_pb2.AcknowledgeAlertRequest(id=alert.id, verdict=verdict, reason="a real one")
            await stub.AcknowledgeAlert(asked)
    async with running(tmp_path, **sections) as app, alerts_of(app) as stub:
        found = (await stub.GetAlert(alert_pb2.GetAlertRequest(id=alert.id))).alert
        assert found.acknowledgement.reason == "a real one"
        assert found.state == alert_pb2.ALERT_STATE_RESOLVED, "nobody judges it any more"
        assert (found.precision.true_positives, found.request.engine_id) == (1, "plain")
        assert app.addresses is not None
        with FakeEngine(app.addresses.socket, fakes.dictionary(), epoch=2000) as engine:
            await in_thread(engine.ready)
            engine.start(8, name="other")
            assert await in_thread(engine.acked, engine.batch([(8, 0, 4)], [(1, 2, 2.0)]))
            later = (await stub.ListAlerts(alert_pb2.ListAlertsRequest(filter=only))).alerts
            assert [one.precision.true_positives for one in later] == [1, 1], "the rule goes on with what is known"


async def test_silences_survive_a_restart_and_prometheus_counts_them(tmp_path: Path) -> None:
    rule = {"id": "threat", "severity": "high", "uncalibrated": "a test", "when": {"feature": "threat.l1", "above": 1}}
    own = {"until": "2999-12-01T00:00:00Z", "reason": "known"}
    (tmp_path / "p.yaml").write_text(json.dumps({"policy": "trust", "rules": [rule]}))
    (tmp_path / "q.yaml").write_text(json.dumps({"policy": "other", "rules": [rule], "silences": [own]}))
    sections = {"history": {"path": "h.db"}, "policies": ("p.yaml", "q.yaml")}

    async def counted(app: App) -> str:
        assert app.addresses is not None
        page = f"{app.addresses.web}/metrics"
        text: str = await in_thread(lambda: urllib.request.urlopen(page).read().decode())
        return text

    async with running(tmp_path, **sections) as app, alerts_of(app) as stub:
        asked = [alert_pb2.CreateSilenceRequest(policy="trust", reason=why) for why in ("one", "two")]
        for one in asked:
            one.duration.FromSeconds(3600)
        first, last = [(await stub.CreateSilence(one)).silence for one in asked]
        assert 'saewatch_silences_active{policy="trust"} 2.0' in await counted(app)
        await stub.DeleteSilence(alert_pb2.DeleteSilenceRequest(id=last.id))
        text = await counted(app)
        assert 'saewatch_silences_active{policy="trust"} 1.0' in text
        assert 'saewatch_silences_active{policy="other"} 1.0' in text
    async with running(tmp_path, **sections) as app, alerts_of(app) as stub:
        found = (await stub.ListSilences(alert_pb2.ListSilencesRequest())).silences
        assert [one.id for one in found] == [first.id, "other#0"]
        assert found[0] == first
        text = await counted(app)
        assert 'saewatch_silences_active{policy="trust"} 1.0' in text
        assert 'saewatch_silences_active{policy="other"} 1.0' in text
        await stub.DeleteSilence(alert_pb2.DeleteSilenceRequest(id=first.id))
    async with running(tmp_path, **sections) as app, alerts_of(app) as stub:
        found = (await stub.ListSilences(alert_pb2.ListSilencesRequest())).silences
        assert [one.id for one in found] == ["other#0"], "what was ended stays so"


async def test_an_alert_reaches_a_webhook_and_prometheus(tmp_path: Path) -> None:
    rule = {"id": "threat", "severity": "high", "uncalibrated": "a test", "when": {"feature": "threat.l1", "above": 1}}
    (tmp_path / "p.yaml").write_text(json.dumps({"policy": "trust", "rules": [rule]}))
    (tmp_path / "key").write_text("whsec_" + "c2Vj" * 8)
    with Receiver() as receiver:
        hook = {"name": "pager", "url": receiver.url, "secret_file": "key"}
        async with running(tmp_path, policies=("p.yaml",), webhooks=(hook,)) as app:
            assert app.addresses is not None
            with FakeEngine(app.addresses.socket, fakes.dictionary()) as engine:
                await in_thread(engine.ready)
                engine.start(7, name="plain")
                assert await in_thread(engine.acked, engine.batch([(7, 0, 4)], [(1, 2, 2.0)]))

                def scrape() -> str:
                    assert app.addresses is not None
                    with urllib.request.urlopen(f"{app.addresses.web}/metrics", timeout=5) as answer:
                        return str(answer.read().decode())

                text = await in_thread(scrape)
                labels = 'policy="trust",rule="threat",severity="high"'
                assert f"saewatch_alerts_active{{{labels}}} 1.0" in text
                engine.end(7, fed=4)
                engine.beat()
                await in_thread(engine.acked, engine.batch([]))
        told = [json.loads(body) for _, body in receiver.posts]
        fired = [one["type"] for one in told if one["data"]["kind"] == "ALERT_KIND_FIRED"]
        assert fired == ["alert.active", "alert.resolved"]


@contextlib.asynccontextmanager
async def alerts_of(app: App) -> AsyncIterator[Any]:
    assert app.addresses is not None
    async with grpc.aio.insecure_channel(app.addresses.grpc) as channel:
        yield alert_pb2_grpc.AlertServiceStub(channel)


def probes(folder: Path) -> str:
    one = {"id": "a", "feature": "threat.l1", "fires": True, "prompt": "text"}
    (folder / "canaries.jsonl").write_text(json.dumps(one) + "\n")
    return "canaries.jsonl"


async def test_canaries_of_the_configuration_are_in_the_metrics(
    tmp_path: Path, threads_left: Callable[[], list[str]]
) -> None:
    async with running(
        tmp_path, canaries={"file": probes(tmp_path), "model": "m", "url": "http://127.0.0.1:9/v1"}
    ) as app:
        assert app.addresses is not None
        at = app.addresses.named()["metrics"]
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(at, timeout=5).read().decode())
        assert 'saewatch_canary_blind{feature="threat.l1"} 0.0' in text
    assert "saewatch-prober" not in threads_left()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"file": "none.jsonl"}, "none.jsonl"),
        ({"model": ""}, "canaries.model"),
        ({"url": "http://192.0.2.1/v1"}, "canaries.url"),
        ({"panel": "panel.jsonl", "file": ""}, "a panel alone"),
        ({"panel": "panel.jsonl", "period_s": 601}, "canaries.period_s.*at most 600"),
        ({"panel": "panel.jsonl"}, "panel.jsonl"),
    ],
)
def test_canaries_that_cannot_be_sent_are_refused_at_start(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    section = {"file": probes(tmp_path), "model": "m", **changes}
    with pytest.raises(SaewatchError, match=said):
        App(settings(tmp_path, canaries=section))
