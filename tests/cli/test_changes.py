"""saewatch tap off, on, watch and load: what is sent, and in which words it is said what is in force."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import structlog

from saewatch import cli
from saewatch.core.records import Command, Result
from tests import fakes, sidecar
from tests.edge.obeying import ObeyingEngine
from tests.edge.rpc.served import Served, serving
from tests.sidecar import Sidecar
from tests.waiting import wait_until

OLD, NEW = fakes.dictionary(), replace(fakes.dictionary(seed=1), folder="/bundles/new")


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    """The sidecar's log is not our output: here it runs in this process."""
    with structlog.testing.capture_logs():
        yield


async def tap(served: Served, *words: str) -> int:
    return await asyncio.to_thread(cli.main, ["tap", *words, "--address", served.address])


def doing(served: Served, **details: str) -> Callable[[int, Command], None]:
    """An engine that does what it is asked for, and says these details."""

    def obey(link: int, command: Command) -> None:
        served.pipeline.receive(link, Result(command=command.command, good=True, details=details))

    return obey


async def test_off_says_plainly_that_nothing_is_watched(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        served.obey = doing(served)
        assert await tap(served, "off") == cli.GOOD
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("ok      engine-0: NOT WATCHED from now on")
        assert "`saewatch tap on`" in line
        assert await tap(served, "on", "--engine", "engine-0", "--json") == cli.GOOD
        found = json.loads(capsys.readouterr().out)
        assert found["good"] is True
        assert [(one["engine"], one["good"]) for one in found["changes"]] == [("engine-0", True)]
        assert [command.verb for _, command in served.commands] == ["off", "on"]


async def test_other_features(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        served.obey = doing(served, weights=OLD.weights_digest, watch="sha256:0123456789abcdef", slots="2")
        assert await tap(served, "watch", "--features", "threat.l1, threat.p1") == cli.GOOD
        (line,) = capsys.readouterr().out.splitlines()
        assert line == (
            f"ok      engine-0: {OLD.weights_digest[:19]}: from the next step on 2 slots are watched, "
            "watch set sha256:0123456789ab"
        )
        await tap(served, "watch", "--dictionary", OLD.weights_digest[7:12], "--hook-point", "resid_post.3")
        first, second = (command.arguments for _, command in served.commands)
        assert (first["weights"], first["watch"]) == (OLD.weights_digest, '["threat.l1","threat.p1"]')
        assert (second["weights"], second["watch"]) == (OLD.weights_digest, "")
        assert second["hook_point"] == "resid_post.3"


async def test_another_dictionary(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(known=[OLD, NEW]) as served:

        def obey(link: int, command: Command) -> None:
            served.put(fakes.stream_open(NEW, stream=2))
            doing(served, weights=NEW.weights_digest, watch="sha256:w", slots="4", opened="2")(link, command)

        served.obey = obey
        assert await tap(served, "load", "--dictionary", NEW.weights_digest[:19]) == cli.GOOD
        (line,) = capsys.readouterr().out.splitlines()
        assert line == (
            f"ok      engine-0: {NEW.weights_digest[:19]} is in force at resid_post.3, stream 2; "
            "4 slots are watched, watch set sha256:w"
        )
        ((_, command),) = served.commands
        assert command.arguments == {
            "replace": OLD.weights_digest,
            "hook_point": "",
            "path": "/bundles/new",
            "weights": NEW.weights_digest,
        }


async def test_what_is_refused_is_said_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        assert await tap(served, "watch", "--features", "threat.l9") == cli.FAILED
        said = capsys.readouterr().err
        assert "feature_ids: found 'threat.l9', expected ids of its catalogue. The nearest that there are: " in said
        assert await tap(served, "load", "--dictionary", "sha256:77") == cli.FAILED
        assert "found sha256:77, expected a dictionary that this sidecar knows" in capsys.readouterr().err
        assert served.commands == []
        assert await tap(served, "off", "--timeout-s", "0.1") == cli.UNREACHED
        assert "It may still come into force" in capsys.readouterr().err


async def test_an_engine_that_refuses_beside_one_that_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        served.pipeline.connect(2)
        served.pipeline.receive(2, fakes.stream_open(OLD, engine="engine-1"))
        served.obey = lambda link, command: served.pipeline.receive(
            link, Result(command=command.command, good=link == 1, message="off: not carried out yet")
        )
        assert await tap(served, "off") == cli.FAILED
        good, failed = capsys.readouterr().out.splitlines()
        assert good.startswith("ok      engine-0: NOT WATCHED")
        assert failed.startswith("FAILED  engine-1: engine engine-1: found off: not carried out yet, expected a tap ")
        assert "Update saewatch" in failed


async def test_a_digest_that_names_several_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(known=[OLD, NEW]) as served:
        served.put(fakes.stream_open(NEW, stream=2))
        assert await tap(served, "watch") == cli.USAGE
        said = capsys.readouterr().err
        assert said.startswith("saewatch: --dictionary: found nothing, and ")
        assert OLD.weights_digest[:19] in said
        assert NEW.weights_digest[:19] in said
        assert await tap(served, "watch", "--engine", "engine-7") == cli.USAGE
        assert "found nothing, and none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["off", "--features", "a"], "--features: found off, expected watch"),
        (["on", "--dictionary", "a"], "--dictionary: found on, expected watch or load"),
        (["selftest", "--hook-point", "a"], "--hook-point: found selftest, expected watch or load"),
        (["watch", "--replaces", "a"], "--replaces: found watch, expected load"),
        (["watch", "--path", "/a"], "--path: found watch, expected load"),
        (["load"], "--dictionary: found nothing, expected the dictionary that is to be in force"),
    ],
)
def test_an_option_that_would_change_nothing(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tap", *words]) == cli.USAGE
    assert said in capsys.readouterr().err


# --- the whole way ----------------------------------------------------------------------------------------------------
class Whole:
    """A sidecar's process, and an engine on its socket that does what it is told."""

    def __init__(self, process: Sidecar, engine: ObeyingEngine) -> None:
        self.process, self.engine = process, engine
        self.asked: list[Command] = []

    def tap(self, *words: str) -> tuple[int, str]:
        """Exit code and what was printed; the engine obeys meanwhile."""
        obeying = Thread(target=lambda: self.asked.append(self.engine.obey()))
        obeying.start()
        done = sidecar.run("tap", *words, "--address", self.process.addresses["grpc"])
        obeying.join()
        return done.returncode, done.stdout + done.stderr

    def info(self) -> list[str]:
        """The dictionaries that the metrics name."""
        return [line for line in self.process.get("/metrics")[1].splitlines() if "dictionary_info{" in line]


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    with Sidecar(tmp_path, [OLD, NEW]) as process, ObeyingEngine(process.addresses["socket"], OLD, NEW) as engine:
        engine.ready()
        wait_until(lambda: process.get("/readyz")[0] == 200)
        yield Whole(process, engine)


def test_the_whole_way(whole: Whole) -> None:
    code, said = whole.tap("off")
    assert (code, said[:29]) == (0, "ok      engine-0: NOT WATCHED")
    assert whole.process.blind() == ["off"]
    assert whole.tap("on")[0] == 0
    assert whole.process.blind() == []
    code, said = whole.tap("watch", "--features", "threat.p1")
    assert (code, "1 slots are watched" in said) == (0, True)
    code, said = whole.tap("load", "--dictionary", NEW.weights_digest)
    assert (code, f"{NEW.weights_digest[:19]} is in force at resid_post.3, stream 2" in said) == (0, True)
    (info,) = whole.info()
    assert f'weights="{NEW.weights_digest}"' in info
    assert whole.asked[-1].arguments["path"] == str(whole.process.folder / "bundle1"), "where the sidecar has it"
    changes = [line for line in whole.process.lines() if line["event"].startswith("tap change")]
    assert [(line["event"], line["verb"], line["principal"]) for line in changes] == [
        (event, verb, "local")
        for verb in ("off", "on", "watch", "load")
        for event in ("tap change asked for", "tap changed")
    ]
