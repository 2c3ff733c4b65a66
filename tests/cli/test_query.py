"""saewatch query, against the services on a real port."""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from saewatch import cli
from saewatch.cli import query
from saewatch.core import limits
from tests import fakes
from tests.edge.rpc.served import serving
from tests.edge.rpc.test_history import T0, S, Storing, storing, two_requests

SINCE = "2023-11-14T22:13:20.000000000Z"


async def ask(one: Storing, *words: str) -> int:
    return await asyncio.to_thread(cli.main, ["query", *words[:1], "--address", one.served.address, *words[1:]])


async def test_firings_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        assert await ask(one, "firings") == cli.GOOD
        said = capsys.readouterr()
        head, first, *_, last = said.out.splitlines()
        names = ["time", "feature_id", "value", "position", "prompt", "client_id", "tenant", "model_name", "hook_point"]
        assert head.split() == [*names, "fit"]
        values = ["threat.l1", "1.5", "0", "True", "client-7", "acme", "demo-model", "resid_post.3", "base"]
        assert first.split() == [SINCE, *values]
        assert last == f"{SINCE} to 2023-11-14T22:13:21.000000001Z: 4 tokens seen, missed excluded 2"
        assert (len(said.out.splitlines()), said.err) == (6, "")


async def test_every_filter_reaches_the_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        for words, values in (
            (["--feature", "animals.g1"], [0.5, 4.0]),
            (["--category", "vcr"], [1.5, 2.5]),
            (["--tenant", "other", "--tenant", "nobody"], [2.5]),
            (["--class", "test"], [2.5]),
            (["--request", "client-7", "--feature", "threat.l1"], [1.5]),
            (["--conversation", "c7", "--max-value", "1"], [0.5]),
            (["--model", "other"], []),
            (["--hook-point", "resid_post.3", "--min-value", "2.5"], [4.0]),
            (["--weights", "sha256:other"], []),
            (["--catalogue", one.served.dictionary.catalogue_digest, "--min-value", "3"], [4.0]),
            (["--until", "2023-11-14T22:13:21+00:00"], [1.5, 0.5]),
            (["--since", "2023-11-14T22:13:21Z"], [2.5, 4.0]),
            (["--latest", "--limit", "1"], [4.0]),
        ):
            assert await ask(one, "firings", "--format", "jsonl", *words) == cli.GOOD
            lines = capsys.readouterr().out.splitlines()
            assert [json.loads(line)["value"] for line in lines] == values, words


async def test_json_lines_and_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        assert await ask(one, "firings", "--format", "jsonl", "--fields", "time,unit_kind,traffic_class") == cli.GOOD
        said = capsys.readouterr()
        assert json.loads(said.out.splitlines()[0]) == {
            "time": SINCE,
            "unit_kind": "latent",
            "traffic_class": "live",
        }
        assert "4 tokens seen" in said.err
        assert await ask(one, "requests", "--json", "--limit", "1") == cli.GOOD
        found = json.loads(capsys.readouterr().out)
        assert (found["more"], found["kept_since"], found["losses"]) == (True, SINCE, [])
        (request,) = found["requests"]
        assert (request["client_id"], request["state"], request["missed"]) == ("client-7", "ended", {"excluded": 2})
        assert request["features"][0] == {"feature_id": "threat.l1", "count": 1, "max_value": 1.5}
        assert await ask(one, "buckets", "--json", "--bucket", "1s", "--by", "tenant") == cli.GOOD
        found = json.loads(capsys.readouterr().out)
        assert [(row["group"], row["firings"]) for row in found["buckets"]] == [("acme", 2), ("other", 1)]
        assert found["coverage"]["missed"] == {"excluded": 2}


async def test_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        out = tmp_path / "requests.csv"
        assert await ask(one, "requests", "--format", "csv", "--out", str(out)) == cli.GOOD
        assert capsys.readouterr().out == ""
        first, second = csv.DictReader(io.StringIO(out.read_text()))
        assert (first["client_id"], first["first_time"], json.loads(first["missed"])) == (
            "client-7",
            SINCE,
            {"excluded": 2},
        )
        assert json.loads(second["features"]) == [{"feature_id": "threat.l1", "count": 1, "max_value": 2.5}]
        assert await ask(one, "buckets", "--format", "csv") == cli.GOOD
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert [(row["group"], row["firings"], row["max_value"]) for row in rows][2] == ("threat.p1", "0", "")


async def test_parquet(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        for what in ("firings", "buckets", "requests"):
            assert await ask(one, what, "--format", "parquet", "--out", str(tmp_path / what)) == cli.GOOD
        firings = pq.read_table(tmp_path / "firings")
        assert [moment.value for moment in firings["time"].to_pandas()] == [T0, T0, T0 + S, T0 + S]
        assert firings["value"].to_pylist() == [1.5, 0.5, 2.5, 4.0]
        (first, second) = pq.read_table(tmp_path / "requests").to_pylist()
        assert (first["missed"], first["features"][1]["feature_id"]) == ([("excluded", 2)], "animals.g1")
        assert second["tenant"] == "other"
        assert pq.read_table(tmp_path / "buckets")["max_value"].to_pylist()[-1] is None


async def test_all_pages_up_to_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_ITEMS", 7)
    async with storing(tmp_path) as one:
        one.start(7)
        for step in range(40):
            one.served.batch([(7, step, 1)], [(0, 2, step + 1.0)], time_ns=T0 + step * 3 * S)
        one.write()
        for limit, rows in (("0", 40), ("30", 30), ("100", 40), ("40", 40)):
            assert await ask(one, "firings", "--format", "jsonl", "--limit", limit) == cli.GOOD
            said = capsys.readouterr()
            values = [json.loads(line)["value"] for line in said.out.splitlines()]
            assert values == [step + 1.0 for step in range(rows)]
            assert ("There are more than these 30" in said.err) == (limit == "30")
            seen = 29 if limit == "30" else rows  # up to the time of the last row, where there are more
            assert f": {seen} tokens seen" in said.err


async def test_an_empty_answer_says_why_it_may_be_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with storing(tmp_path) as one:
        assert await ask(one, "firings") == cli.GOOD
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("No firings match. Nothing is kept yet.")
        two_requests(one)
        for position in range(limits.SINK_QUEUE_BATCHES + 10):
            one.served.batch([(7, position, 1)], [(0, 2, 1.0)], time_ns=T0 + 5 * S)
        one.write()
        assert await ask(one, "requests", "--since", "2d") == cli.GOOD
        assert f"No requests match. What is kept begins at {SINCE}." in capsys.readouterr().out
        assert await ask(one, "firings", "--feature", "threat.p1") == cli.GOOD
        said = capsys.readouterr().out
        assert "not stored (queue_full): 10 tokens, 10 slot firings, 2023-11-14T22:13:25.000000000Z to" in said


async def test_a_name_of_a_client_writes_nothing_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with storing(tmp_path) as one:
        one.start(7, client_id="a\x1b[31mb\nc")
        one.served.batch([(7, 0, 1)], [(0, 2, 1.0)])
        one.write()
        assert await ask(one, "firings") == cli.GOOD
        assert "a?[31mb?c" in capsys.readouterr().out


async def test_what_cannot_be_done_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storing(tmp_path) as one:
        nowhere = str(tmp_path / "no" / "folder")
        for kind in ("csv", "parquet"):
            assert await ask(one, "firings", "--format", kind, "--out", nowhere) == cli.UNREACHED
            assert "expected a file that can be written" in capsys.readouterr().err
            assert await ask(one, "firings", "--format", kind, "--out", str(tmp_path)) == cli.UNREACHED
            assert f"{tmp_path}: found a folder" in capsys.readouterr().err
        monkeypatch.setitem(sys.modules, "saewatch.cli.parquet", None)
        assert await ask(one, "firings", "--format", "parquet", "--out", str(tmp_path / "x")) == cli.FAILED
        assert "pip install 'saewatch[tables]'" in capsys.readouterr().err


async def test_a_sidecar_without_a_history(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as served:
        assert await asyncio.to_thread(cli.main, ["query", "firings", "--address", served.address]) == cli.FAILED
        assert "Configure history.path" in capsys.readouterr().err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["query", "requests", "--address", "127.0.0.1:1"]) == cli.UNREACHED
    assert "saewatch serve" in capsys.readouterr().err


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    query.arguments(parser)
    return parser.parse_args(["firings", *words])


def test_times_are_ages_or_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: T0)
    for text, before_s in (("90s", 90), ("15m", 900), ("2h", 7200), ("3d", 259_200), ("1.5h", 5400)):
        assert parsed("--since", text).since == T0 - before_s * S
    assert parsed("--since", "99999d").since == 0, "everything"
    assert parsed("--until", "2023-11-14T22:13:20.000123Z").until == T0 + 123_000
    assert parsed("--until", "2023-11-14T22:13:20.000000001Z").until == T0 + 1
    assert parsed("--until", "2023-11-14T23:13:20.9+01:00").until == T0 + 900_000_000
    assert parsed("--until", "20231114T221320.000123Z").until == T0 + 123_000
    assert parsed("--until", "2023-11-14T23:13:20+01:00").until == T0
    assert parsed("--bucket", "250ms").bucket == S // 4


@pytest.mark.parametrize(
    "words",
    [
        ["--since", "soon"],
        ["--since", "1969-12-31T00:00:00Z"],
        ["--until", "2263-01-01T00:00:00Z"],
        ["--bucket", "x"],
        ["--bucket", "0s"],
        ["--bucket", "99ms"],
        ["--bucket", "367d"],
        ["--min-value", "nan"],
        ["--max-value", "high"],
        ["--by", "weather"],
        ["--limit", "-1"],
        ["--class", "odd"],
    ],
)
def test_wrong_words_are_a_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["query", "firings", *words])
    assert caught.value.code == cli.USAGE
    assert words[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["buckets", "--latest"], "--latest: found buckets, expected firings or requests"),
        (["buckets", "--fields", "group"], "--fields: found buckets, expected firings or requests"),
        (["firings", "--bucket", "1m"], "--bucket: found firings, expected buckets"),
        (["requests", "--by", "tenant"], "--by: found requests, expected buckets"),
        (["firings", "--json", "--out", "x"], "--out: found x and --json, expected one of them"),
        (["firings", "--json", "--format", "csv"], "--format: found csv and --json, expected one of them"),
        (["firings", "--format", "parquet"], "--out: found nothing, expected a file, since Parquet is not text"),
        (["firings", "--fields", "time,tims"], "--fields: found 'tims', expected some of time, feature_id"),
        (["firings", "--fields", ""], "--fields: found '', expected some of"),
        (["buckets", "--min-value", "2", "--max-value", "1"], "--max-value: found 1, expected above --min-value, 2"),
        (["requests", "--min-value", "2", "--max-value", "2"], "--max-value: found 2, expected above --min-value, 2"),
        (["firings", "--since", "1h", "--until", "2h"], "--until: found"),
        (["firings", "--since", SINCE, "--until", SINCE], f"--until: found {SINCE}, expected after --since, {SINCE}"),
    ],
)
def test_options_that_change_nothing_are_a_wrong_usage(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anybody is asked."""
    assert cli.main(["query", *words, "--address", "127.0.0.1:1"]) == cli.USAGE
    told = capsys.readouterr()
    if "--json" in words:
        error = json.loads(told.out)["error"]
        assert f"{error['subject']}: found {error['found']}, expected {error['expected']}" == said
    else:
        assert said in told.err


async def test_columns_come_as_they_were_asked_for_and_times_to_the_nanosecond(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with storing(tmp_path) as one:
        one.start(7)
        one.served.batch([(7, 0, 1)], [(0, 2, 1.5)], time_ns=T0 + 123_456_789)
        one.write()
        moment = "2023-11-14T22:13:20.123456789Z"
        words = ["firings", "--fields", "key,unit,time", "--format"]
        found = {}
        for kind in ("table", "csv", "jsonl"):
            assert await ask(one, *words, kind) == cli.GOOD
            found[kind] = capsys.readouterr().out.splitlines()
        key = fakes.key(7)
        assert [line.split() for line in found["table"][:2]] == [["key", "unit", "time"], [key, "3", moment]]
        assert found["csv"] == ["key,unit,time", f"{key},3,{moment}"]
        assert list(json.loads(found["jsonl"][0]).items()) == [("key", key), ("unit", 3), ("time", moment)]
        out = tmp_path / "out"
        assert await ask(one, *words, "parquet", "--out", str(out)) == cli.GOOD
        table = pq.read_table(out)
        assert table.schema.names == ["key", "unit", "time"]
        assert table["time"].cast("int64").to_pylist() == [T0 + 123_456_789]
        for until, rows in ((moment, 0), ("2023-11-14T22:13:20.123456790Z", 1)):
            assert await ask(one, "firings", "--until", until, "--format", "jsonl") == cli.GOOD
            assert len(capsys.readouterr().out.splitlines()) == rows


async def test_a_label_is_never_without_what_was_said_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        assert await ask(one, "firings", "--fields", "feature_id,label") == cli.GOOD
        head, first, *_ = capsys.readouterr().out.splitlines()
        assert head.split() == ["feature_id", "label", "label_review"]
        assert "label of threat.l1 (unreviewed)" in first
        assert await ask(one, "firings", "--fields", "label", "--format", "csv") == cli.GOOD
        assert capsys.readouterr().out.splitlines()[:2] == ["label,label_review", "label of threat.l1,unspecified"]
