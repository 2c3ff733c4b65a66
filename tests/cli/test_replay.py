"""A real ``saewatch replay``: in a process of its own, asked as a client asks a sidecar; or here, where it ends."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from saewatch.cli import USAGE, main
from saewatch.core.marks import Happening, RecordingHead
from saewatch.core.recording import Recording, Writer
from saewatch.core.records import Beat, Record, RequestEnd, RequestStart, StreamOpen
from saewatch.edge import dictionaries
from saewatch.edge.pb import firing_pb2, firing_pb2_grpc, status_pb2, status_pb2_grpc, tap_pb2, tap_pb2_grpc
from saewatch.monitor.tables import KnownDictionary
from tests import fakes, sidecar
from tests.edge.taped import KNOWN, Taped

S = 1_000_000_000
START_NS = 1_700_000_000 * S
STEPS = 30


@pytest.fixture(scope="module")
def taped(tmp_path_factory: pytest.TempPathFactory) -> Taped:
    """What a sidecar recorded, and the sidecar."""
    one = Taped(tmp_path_factory.mktemp("live"))
    one.play()
    return one


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of idling and then a request of six seconds."""
    folder = tmp_path_factory.mktemp("slow")
    files = dictionaries.files(fakes.write_bundle(folder / "bundle", KNOWN))
    with (folder / "a.frames").open("wb") as file:
        writer = Writer(file, RecordingHead(program="0.1.0", began_ns=START_NS))
        writer.sheets(KNOWN.weights_digest, files)
        writer.happens(1, START_NS, Happening.CONNECTED)
        for at_s, record in request_of_six_seconds():
            writer.write(1, START_NS + int(at_s * S), record)
        writer.close()
    return folder / "a.frames"


def request_of_six_seconds() -> Iterator[tuple[float, Record]]:
    yield 0.0, fakes.stream_open(KNOWN)
    yield 0.0, fakes.watch_set(KNOWN)
    yield from ((second, fakes.beat()) for second in range(60))
    yield 60.0, RequestStart(request=7, engine_id="plain", prompt_len=4)
    for step in range(STEPS):
        at_s = 60.0 + step / 5
        time_ns = START_NS + int(at_s * S)
        yield at_s, fakes.batch([(7, step, 1)], [(0, 1, 2.0 + step)], seq=step + 1, time_ns=time_ns)
        if step % 5 == 4:
            yield at_s, fakes.beat(seq=step + 1, fed=step + 1, encoded=step + 1)
    yield 66.0, RequestEnd(request=7, fed=STEPS, emitted=27)


def facts(*arguments: object) -> dict[str, Any]:
    """What ``--once --json`` prints."""
    return printed(sidecar.called("replay", *arguments, "--once", "--json"))


def printed(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Serving:
    """A replay that goes on serving."""

    def __init__(self, process: subprocess.Popen[str], addresses: dict[str, str]) -> None:
        self.process = process
        self.addresses = addresses

    def page(self, name: str) -> str:
        """A page, found by its name among the addresses."""
        with urllib.request.urlopen(self.addresses[name], timeout=5) as answer:
            return str(answer.read().decode())

    def line(self) -> str:
        """The next one that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextlib.contextmanager
def serving(folder: Path, *arguments: object) -> Iterator[Serving]:
    local = {"listen": "127.0.0.1:0"}
    (folder / "c.yaml").write_text(json.dumps({"grpc": local, "web": local}))
    words = sidecar.command("replay", "-c", folder / "c.yaml", *arguments, "--addresses", folder / "addresses.json")
    own = {"TMPDIR": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**sidecar.ENVIRONMENT, **own}
    ) as process:
        try:
            end = time.monotonic() + 20
            while not (folder / "addresses.json").exists():
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            yield Serving(process, json.loads((folder / "addresses.json").read_text()))
        finally:
            process.kill()


def test_a_client_sees_firings_while_it_plays(slow: Path, tmp_path: Path) -> None:
    with serving(tmp_path, slow) as one:
        assert "socket" not in one.addresses
        with grpc.insecure_channel(one.addresses["grpc"]) as channel:
            stub: Any = firing_pb2_grpc.FiringServiceStub(channel)
            for message in stub.WatchFirings(firing_pb2.WatchFiringsRequest(), timeout=20):
                if message.WhichOneof("event") == "batch":
                    break
            assert message.batch.value[0] >= 2.0
        page = one.page("metrics")
        assert 'saewatch_firings_total{category="x.animals",engine="0",feature="animals.g1",model_name="demo' in page
        assert json.loads(one.page("health")) == {"alive": True}
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(10) == 0


def test_after_its_end_everything_can_be_asked(taped: Taped, tmp_path: Path) -> None:
    with serving(tmp_path, taped.file, "--fast") as one:
        lines = [one.line() for _ in range(6)]
        assert "The recording has ended" in lines[-1]
        assert f"`saewatch query firings --address {one.addresses['grpc']}`" in lines[-1]
        assert "Ctrl-C ends" in lines[-1]
        with grpc.insecure_channel(one.addresses["grpc"]) as channel:
            firings: Any = firing_pb2_grpc.FiringServiceStub(channel)
            asked = firing_pb2.GetRequestRecordRequest(request_id="client-7")
            (record,) = firings.GetRequestRecord(asked, timeout=5).records
            assert (record.request.tenant, record.fed, record.emitted) == ("acme", 6, 3)
            statuses: Any = status_pb2_grpc.StatusServiceStub(channel)
            status = statuses.GetStatus(status_pb2.GetStatusRequest(), timeout=5)
            assert [stream.connected for stream in status.streams] == [True, False]
            assert status.counters["seq_gaps"] == 1
            taps: Any = tap_pb2_grpc.TapServiceStub(channel)
            with pytest.raises(grpc.RpcError, match="a recording, which carries nothing out"):
                taps.RunSelfTest(tap_pb2.RunSelfTestRequest(), timeout=5)
        assert json.loads(one.page("health")) == {"alive": True}
        one.process.send_signal(signal.SIGINT)
        assert one.process.wait(10) == 0


def test_its_figures_do_not_depend_on_the_pace(taped: Taped) -> None:
    fast = printed(sidecar.run("replay", taped.file, "--fast", "--once", "--json"))
    paced = facts(taped.file, "--speed", 3)
    assert fast.pop("first_firing_s") > 0
    assert paced.pop("first_firing_s") > 0
    assert fast == paced
    assert fast == {
        "frames": 24,
        "damaged_frames": 0,
        "damaged_bytes": 0,
        "lost_records": 0,
        "lost_tokens": 0,
        "lost_slot_firings": 0,
        "requests": 4,
        "gaps": 1,
        "fed": 24,
        "encoded": 20,
        "reused": 0,
        "missed": 4,
        "missed_by_reason": {"no_slot": 4},
        "imbalance": 0,
        "coverage": 20 / 24,
        "slot_firings": 9,
        "dropped": 0,
        "duration_s": fast["duration_s"],
    }


def test_a_part_of_it(slow: Path) -> None:
    assert facts(slow, "--from", 62, "--to", 63.1, "--speed", 4)["slot_firings"] == 16
    refused = sidecar.called("replay", slow, "--from", 70)
    assert (refused.returncode, "at most 66.000 s" in refused.stderr) == (2, True)
    assert sidecar.called("replay", slow, "--from", 5, "--to", 1).returncode == USAGE


@pytest.mark.parametrize(
    "words", [["--from", "-1"], ["--to", "nan"], ["--speed", "0"], ["--fast", "--speed", "2"], ["--from", "soon"]]
)
def test_a_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["replay", "a.frames", *words])
    assert caught.value.code == USAGE


def test_neither_torch_nor_vllm_is_imported(taped: Taped, tmp_path: Path) -> None:
    for name in ("torch", "vllm", "safetensors", "transformers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} was imported')")
    path = f"{tmp_path}:{sidecar.ENVIRONMENT['PYTHONPATH']}"
    words = sidecar.command("replay", taped.file, "--fast", "--once", "--json")
    environment = {**sidecar.ENVIRONMENT, "PYTHONPATH": path}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["slot_firings"] == 9
    spoilt = subprocess.run(
        [words[0], "-c", "import torch"], capture_output=True, text=True, env=environment, timeout=30, check=False
    )
    assert "torch was imported" in spoilt.stderr, "or the test shows nothing"


def test_a_configured_catalogue_has_precedence(taped: Taped, tmp_path: Path) -> None:
    features = (fakes.feature("renamed.g1", latents=(1, 2), category="x.animals"),)
    relabelled: KnownDictionary = replace(KNOWN, catalogue=replace(KNOWN.catalogue, features=features))
    bundle = fakes.write_bundle(tmp_path / "bundle", relabelled)
    with serving(tmp_path, taped.file, "--fast", "--dictionary", bundle) as one:
        assert [one.line() for _ in range(6)][-1]
        page = one.page("metrics")
    assert 'feature="renamed.g1"' in page
    assert 'feature="animals.g1"' not in page


def without_sheets(path: Path, to: Path) -> Path:
    with path.open("rb") as source, to.open("wb") as file:
        writer = Writer(file, RecordingHead(program="0.1.0", began_ns=0))
        for got in Recording(source).received():
            if got.record is None:
                writer.happens(got.mark.link, got.mark.time_ns, Happening(got.mark.what))
            else:
                writer.write(got.mark.link, got.mark.time_ns, got.record)
    return to


def test_without_its_dictionary_it_is_blind_and_says_so(taped: Taped, tmp_path: Path) -> None:
    bare = without_sheets(taped.file, tmp_path / "bare.frames")
    done = sidecar.called("replay", bare, "--fast", "--once", "--json")
    assert "unknown_dictionary" in done.stderr
    assert "recording without an index" in done.stderr
    assert "the recorder was killed, or the copy is not complete" in done.stderr
    assert facts(bare, "--fast", "--dictionary", taped.file.parent / "bundle")["slot_firings"] == 9


def test_damage_is_told(taped: Taped, tmp_path: Path) -> None:
    data = bytearray(taped.file.read_bytes())
    data[-3000] ^= 1
    (tmp_path / "hurt.frames").write_bytes(data)
    done = sidecar.called("replay", tmp_path / "hurt.frames", "--fast", "--once")
    assert done.returncode == 0
    said = re.search(r"(\d+) damaged frames \((\d+) B\) were left out", done.stdout)
    assert said is not None
    assert int(said[1]) >= 1
    assert int(said[2]) > 50


def test_what_damage_took_is_told_alike_in_words_and_in_figures(tmp_path: Path) -> None:
    demo = sidecar.ROOT / "recordings" / "demo.frames"
    data = bytearray(demo.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60_000] = bytes(60_000)
    (tmp_path / "hurt.frames").write_bytes(data)
    found, whole = facts(tmp_path / "hurt.frames", "--fast"), facts(demo, "--fast")
    assert found["fed"] == whole["fed"] == found["encoded"] + found["missed"]
    assert found["slot_firings"] + found["lost_slot_firings"] == whole["slot_firings"]
    assert 0 < whole["encoded"] - found["encoded"] <= found["lost_tokens"]
    assert found["coverage"] == found["encoded"] / found["fed"] < whole["coverage"]
    said = sidecar.called("replay", tmp_path / "hurt.frames", "--fast", "--once").stdout
    for words in (
        f"fed {found['fed']:,} (encoded {found['encoded']:,}, missed {found['missed']:,})",
        f"coverage {found['coverage']:.4f} (missed: ",
        f", slot firings {found['slot_firings']:,}.",
        f"{found['lost_tokens']:,} tokens with {found['lost_slot_firings']:,} slot firings that the file lacks",
    ):
        assert words in said


def test_where_nothing_was_fed_there_is_no_coverage(tmp_path: Path) -> None:
    with (tmp_path / "a.frames").open("wb") as file:
        writer = Writer(file, RecordingHead(program="0.1.0", began_ns=START_NS))
        writer.write(1, START_NS, fakes.stream_open(KNOWN))
        writer.write(1, START_NS, fakes.beat())
        writer.close()
    assert facts(tmp_path / "a.frames")["coverage"] is None
    assert "nothing was fed." in sidecar.called("replay", tmp_path / "a.frames", "--once").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_nothing_behind(slow: Path, tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, slow) as one:
        assert len(list(tmp_path.glob("saewatch-run-*"))) == 1
        one.process.send_signal(number)
        assert one.process.wait(10) == 0
    assert list(tmp_path.glob("saewatch-*")) == []


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    assert sidecar.called("replay", tmp_path).returncode == 3
    (tmp_path / "a").write_text("no recording")
    done = sidecar.called("replay", tmp_path / "a")
    assert done.returncode == 2
    assert f"{tmp_path / 'a'}: found no frame of ours" in done.stderr


def test_another_version_is_refused(taped: Taped, tmp_path: Path) -> None:
    data = bytearray(taped.file.read_bytes())
    at = 0
    while (at := data.find(b"SAEW\x01", at)) >= 0:
        data[at + 4] = 9
    (tmp_path / "later.frames").write_bytes(data)
    done = sidecar.called("replay", tmp_path / "later.frames", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["found"], error["expected"]) == ("VersionMismatch", "9", "1 to 1")


def test_the_recording_that_is_shipped() -> None:
    path = sidecar.ROOT / "recordings" / "demo.frames"
    found = facts(path, "--fast")
    assert path.stat().st_size < 2 * 2**20
    assert found["fed"] == found["encoded"] + found["reused"] + found["missed"] > 1000
    assert found["coverage"] == found["encoded"] / found["fed"]
    assert [found[name] for name in ("imbalance", "gaps", "dropped", "lost_records", "damaged_frames")] == [0] * 5
    assert found["requests"] == 24
    assert found["slot_firings"] > 1000
    assert found["first_firing_s"] > 0
    with path.open("rb") as file:
        recording = Recording(file)
        engines = {got.record.engine for got in recording.received() if isinstance(got.record, StreamOpen | Beat)}
    assert engines == {"demo"}, "and not the name of a machine"
    assert recording.index is not None


def test_what_it_replays_can_be_queried_and_is_nobody_elses_history(slow: Path, tmp_path: Path) -> None:
    with serving(tmp_path, slow, "--fast") as one:
        one.line()
        one.line()
        asked = ("query", "firings", "--address", one.addresses["grpc"], "--json", "--limit", "0")
        end, found = time.monotonic() + 10, dict[str, Any]()
        while len(found.get("firings", ())) < STEPS:
            assert time.monotonic() < end, found
            found = json.loads(sidecar.called(*asked).stdout)
        assert [row["value"] for row in found["firings"]] == [2.0 + step for step in range(STEPS)]
        assert (found["coverage"]["tokens_seen"], found["losses"]) == (STEPS, [])
        assert found["firings"][0]["time"].startswith("2023-11-14T22:14:20")
    assert not (tmp_path / "state").exists()
