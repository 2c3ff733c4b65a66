"""saewatch alerts silence, silences and unsilence, against the services on a real port."""

from __future__ import annotations

import json

import pytest

from saewatch import cli
from saewatch.client.fake import FakeServer
from tests.cli.test_alerts import ask
from tests.edge.rpc.alerting import alerting, begin, fire, policy
from tests.edge.rpc.test_silences import OWN

WHY = ("--reason", "a release")


async def test_two_hours_of_peace_and_their_end(capsys: pytest.CaptureFixture[str]) -> None:
    async with alerting() as served:
        assert await ask(served, "silence", "--rule", "trust/threat", "--for", "2h", *WHY) == cli.GOOD
        first, *means = capsys.readouterr().out.splitlines()
        assert " trust/threat until " in first
        assert first.endswith("by local: a release; 0 alerts held back")
        assert "Verdicts on requests count them" in means[1]
        name = first.split()[0]
        assert name in means[2]
        begin(served)
        fire(served)
        assert await ask(served, "list") == cli.GOOD
        assert capsys.readouterr().out == "no alerts\n"
        assert await ask(served, "list", "--held-back") == cli.GOOD
        assert "[silenced]" in capsys.readouterr().out
        assert await ask(served, "silences") == cli.GOOD
        assert capsys.readouterr().out == f"{first.replace('0 alerts', '1 alerts')}\n"
        assert await ask(served, "unsilence", name) == cli.GOOD
        assert capsys.readouterr().out.startswith(f"ended: {name} ")
        assert await ask(served, "silences") == cli.GOOD
        assert capsys.readouterr().out == "no silences: nothing is held back\n"
        assert await ask(served, "unsilence", name) == cli.FAILED
        assert "in force" in capsys.readouterr().err


async def test_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    async with alerting(policies=[policy(silences=[OWN])]) as served:
        words = ("silence", "--policy", "trust", "--tenant", "acme", "--for", "90", *WHY, "--json")
        assert await ask(served, *words) == cli.GOOD
        made = json.loads(capsys.readouterr().out)
        assert (made["policy"], made["rules"], made["tenant"], made["principal"]) == ("trust", [], "acme", "local")
        assert await ask(served, "silences", "--json") == cli.GOOD
        found = json.loads(capsys.readouterr().out)
        assert [one["id"] for one in found["silences"]] == [made["id"], "trust#0"]
        assert (found["silences"][0], found["not_listed"]) == (made, 0)
        assert await ask(served, "silences") == cli.GOOD
        text = capsys.readouterr().out
        assert "trust, all its rules for tenant acme until" in text
        assert "trust#0 trust/probe until 2999-12-01" in text
        assert "by the policy itself: known" in text
        assert await ask(served, "unsilence", made["id"], "--json") == cli.GOOD
        assert json.loads(capsys.readouterr().out) == made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rule", "trust/nothing", "--for", "2h", *WHY], "rule: found 'nothing'"),
        (["--policy", "nobody", "--for", "2h", *WHY], "policy: found 'nobody', expected one of trust"),
        (["--policy", "trust", "--for", "8d", *WHY], "duration: found 691200 s, expected above 0 and at most 604800 s"),
    ],
)
async def test_what_the_sidecar_does_not_know(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with alerting() as served:
        assert await ask(served, "silence", *words) == cli.FAILED
        assert said in capsys.readouterr().err


async def test_the_status_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    async with alerting() as served:
        for _ in range(2):
            assert await ask(served, "silence", "--policy", "trust", "--for", "2h", *WHY) == cli.GOOD
            capsys.readouterr()
        words = ["status", "--address", served.address]
        assert await served.in_thread(lambda: cli.main(words)) == cli.GOOD
        assert "SILENCED 2 silences are in force" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["silence"],
        ["silence", "--policy", "trust", *WHY],
        ["silence", "--policy", "trust", "--for", "2h"],
        ["silence", "--policy", "trust", "--for", "2h", "--reason", "  "],
        ["silence", "--for", "2h", *WHY],
        ["silence", "--policy", "a", "--policy", "b", "--for", "2h", *WHY],
        ["silence", "--policy", "trust", "--rule", "trust/threat", "--for", "2h", *WHY],
        ["silence", "--rule", "threat", "--for", "2h", *WHY],
        ["silence", "--rule", "trust/", "--for", "2h", *WHY],
        ["silence", "--rule", "a/x", "--rule", "b/x", "--for", "2h", *WHY],
        ["silence", "--policy", "trust", "--tenant", "a", "--tenant", "b", "--for", "2h", *WHY],
        ["silence", "--policy", "trust", "--tenant", "", "--for", "2h", *WHY],
        ["silence", "--policy", "trust", "--severity", "low", "--for", "2h", *WHY],
        ["silence", "an-id", "--policy", "trust", "--for", "2h", *WHY],
        ["silences", "an-id"],
        ["unsilence"],
    ],
)
def test_what_is_asked_in_a_wrong_way(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as server:
        assert cli.main(["alerts", *words, "--address", server.address]) == cli.USAGE
        assert not server.alerts.silences
    assert capsys.readouterr().err


@pytest.mark.parametrize("length", ["0", "0s", "-1", "2 h", "nan", "inf", "2w"])
def test_a_length_that_is_none(length: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["alerts", "silence", "--policy", "trust", f"--for={length}", *WHY])
    assert ended.value.code == cli.USAGE
    assert capsys.readouterr().err


def test_nobody_there() -> None:
    assert cli.main(["alerts", "silences", "--address", "127.0.0.1:9"]) == cli.UNREACHED


def test_what_would_command_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as server:
        words = ["silence", "--policy", "trust", "--for", "2h", "--reason", "x \x1b[2J"]
        assert cli.main(["alerts", *words, "--address", server.address]) == cli.GOOD
    assert "\x1b" not in capsys.readouterr().out
