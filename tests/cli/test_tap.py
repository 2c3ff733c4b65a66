"""saewatch tap selftest: against the services on a real port, and through a real sidecar to a real tap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saewatch import cli
from saewatch.core.records import Command, Result
from saewatch.engine.tap import Tap
from tests import fakes, sidecar
from tests.edge.rpc.served import Served, serving
from tests.engine.standin import BUNDLE, Blocks, a_config, a_step, an_engine, hidden, rows_of
from tests.sidecar import Sidecar
from tests.waiting import wait_until


async def ask(served: Served, *more: str) -> int:
    return await asyncio.to_thread(cli.main, ["tap", "selftest", "--address", served.address, *more])


def answering(served: Served, *, failing: str = "") -> Any:
    def obey(link: int, command: Command) -> None:
        served.pipeline.receive(link, fakes.self_test(failing=failing).result(command.command))

    return obey


async def test_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        served.obey = answering(served)
        assert await ask(served) == cli.GOOD
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"ok      engine-0 resid_post.3 {served.dictionary.weights_digest[:19]}: ")
        assert ": 12 calls for 12 steps, 90 in all; 0 of 13 rows not finite; " in line
        assert line.endswith("0 of 214 firings differ from oracle 1.0, values by 3.0e-07")
        assert await ask(served, "--json", "--engine", "engine-0") == cli.GOOD
        found = json.loads(capsys.readouterr().out)
        assert found["good"] is True
        (test,) = found["self_tests"]
        assert (test["engine"], test["sink_calls"], test["rows_not_finite"]) == ("engine-0", "90", "0")
        assert [check["state"] for check in test["checks"]] == ["CHECK_STATE_GOOD"] * 4


async def test_a_failed_one_says_what_was_found_expected_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        served.obey = answering(served, failing="sink")
        assert await ask(served) == cli.FAILED
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith("FAILED  engine-0 resid_post.3 ")
        assert second == "        sink FAILED: found no call, expected something else. Restart it."
        assert await ask(served, "--json") == cli.FAILED
        assert json.loads(capsys.readouterr().out)["good"] is False


async def test_no_engine(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        served.pipeline.disconnect(1)
        assert await ask(served) == cli.UNREACHED
        said = capsys.readouterr().err
        assert said.startswith("saewatch: engine: found none connected, expected one at least. ")
        assert "saewatch vllm-args" in said


async def test_an_unknown_engine(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        assert await ask(served, "--engine", "engine-9") == cli.FAILED
        assert "found 'engine-9', expected one of 'engine-0'" in capsys.readouterr().err


async def test_an_engine_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        assert await ask(served, "--timeout-s", "0.2") == cli.UNREACHED
        assert "engine engine-0: found no answer in 0.2 s, expected a self-test." in capsys.readouterr().err


async def test_an_engine_that_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        served.obey = lambda link, _: served.pipeline.disconnect(link)
        assert await ask(served, "--json") == cli.UNREACHED
        error = json.loads(capsys.readouterr().out)["error"]
        assert (error["kind"], error["subject"]) == ("UnreachableError", "engine engine-0")
        assert error["hint"]


async def test_an_older_engine(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        served.obey = lambda link, command: served.pipeline.receive(
            link, Result(command=command.command, good=False, message="self_test: not carried out yet")
        )
        assert await ask(served) == cli.FAILED
        assert "not carried out yet" in capsys.readouterr().err


async def test_a_silent_engine_beside_one_that_answers(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        served.pipeline.connect(2)
        served.pipeline.receive(2, fakes.stream_open(served.dictionary, engine="engine-1"))
        answer = answering(served)
        served.obey = lambda link, command: answer(link, command) if link == 2 else None
        assert await ask(served, "--timeout-s", "0.3") == cli.FAILED
        silent, why, good = capsys.readouterr().out.splitlines()
        assert silent == "FAILED  engine-0: not tested"
        assert "engine FAILED: found no answer in 0.3 s" in why
        assert good.startswith("ok      engine-1 ")


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tap", "selftest", "--address", "127.0.0.1:1"]) == cli.UNREACHED
    assert "saewatch serve" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("action", "text", "at_most"),
    [("selftest", "0", 60), ("selftest", "-1", 60), ("selftest", "61", 60), ("off", "nan", 600), ("load", "601", 600)],
)
def test_a_wrong_timeout_is_a_wrong_usage(
    action: str, text: str, at_most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    dictionary = ["--dictionary", "x"] if action == "load" else []
    assert cli.main(["tap", action, *dictionary, "--timeout-s", text]) == cli.USAGE
    assert f"expected above 0 and at most {at_most}" in capsys.readouterr().err


# --- the whole way ----------------------------------------------------------------------------------------------------
class Whole:
    """A sidecar's process, and a tap that ships to it."""

    def __init__(self, process: Sidecar, tap: Tap, blocks: Blocks) -> None:
        self.process, self.tap, self.blocks = process, tap, blocks
        self.steps = 0

    def step(self, *, stale: bool = False) -> None:
        """One engine step, settled when this returns."""
        self.steps += 1
        rows = rows_of(**{f"r{self.steps}": (0, 10)})
        if not stale:
            self.blocks.run(hidden(10))
        self.tap.snapshot(lambda: rows)
        self.tap.step(**a_step(rows))
        wait_until(lambda: self.tap.books[0].fed == 10 * self.steps)

    def ask(self, *more: str) -> tuple[int, str]:
        """Exit code and what was printed."""
        done = sidecar.run("tap", "selftest", "--address", self.process.addresses["grpc"], *more)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    with Sidecar(tmp_path, [], dictionaries=[str(BUNDLE)]) as process:
        blocks = Blocks()
        tap = Tap.open(a_config(tmp_path, socket=process.addresses["socket"]), an_engine(), blocks)
        blocks.run(hidden(1))
        tap.prove()
        tap.start()
        wait_until(lambda: process.get("/readyz")[0] == 200)
        yield Whole(process, tap, blocks)
        tap.close()


def test_the_whole_way_and_back(whole: Whole) -> None:
    code, said = whole.ask()
    assert (code, said[:8]) == (0, "idle    ")
    assert "sink not verified: found no step since the last look" in said
    assert "The engine is idle" in said
    whole.step()
    code, said = whole.ask()
    assert code == 0
    assert said.startswith("ok      i resid_post.2 sha256:")
    assert "1 calls for 1 steps" in said
    assert "0 of 10 rows not finite" in said
    assert "firings differ from sae-lens 6." in said
    for _ in range(3):
        whole.step(stale=True)
    code, said = whole.ask()
    assert code == 2
    assert said.startswith("FAILED  i resid_post.2")
    assert "sink FAILED: found 0 calls, expected one for each of 3 steps since the last look. The engine runs" in said
    assert whole.process.blind() == ["self_test_failed"]
    assert 'reason="self_test_failed",scope="tap"} 1.0' in whole.process.get("/metrics")[1]
    whole.step()
    code, said = whole.ask("--json")
    assert (code, json.loads(said)["self_tests"][0]["steps_since"]) == (0, "1")
    assert whole.process.get("/readyz")[0] == 200
    whole.tap.disable("fault")
    code, said = whole.ask()
    assert (code, "tap FAILED: found blind: fault" in said) == (2, True)
    whole.tap.close()
    assert whole.tap.books[0].imbalance == 0
    code, said = whole.ask()
    assert (code, "found none connected" in said) == (3, True)
