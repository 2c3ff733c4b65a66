"""saewatch diff: exit codes, pairing, parts, gates, and what is not comparable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from saewatch import cli
from saewatch.core import limits
from saewatch.core.batch import FiringBatch, WatchSet
from saewatch.core.records import Record
from tests import fakes
from tests.cli.upgrade.taped import KNOWN, Firing, model, requests, tape

THREAT, ANIMALS = 2, 0  # slots
N = 120


def quiet(number: int) -> Sequence[Firing]:
    """`animals.g1` on the prompt of every second request, `threat.l1` on that of every fifth."""
    return [(1, ANIMALS, 1.0)] * (number % 2) + [(2, THREAT, 2.0)] * (number % 5 == 0)


def louder(number: int) -> Sequence[Firing]:
    """`threat.l1` on two of three instead."""
    return [(1, ANIMALS, 1.0)] * (number % 2) + [(2, THREAT, 2.0)] * (number % 3 > 0)


@pytest.fixture(autouse=True)
def logging() -> Iterator[None]:
    """The verb sets the level of the log; other tests read all of it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return fakes.write_bundle(tmp_path / "bundle", KNOWN)


def diff(*words: object) -> int:
    return cli.main(["diff", *map(str, words)])


def between(before: Path, after: Path, *words: object) -> int:
    return diff("--before", before, "--after", after, *words)


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_changed_feature_is_told_first_and_fails(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tape(tmp_path / "a.frames", requests(N, quiet), folder=bundle)
    after = tape(tmp_path / "b.frames", requests(N, louder), folder=bundle, **model("tuned"))
    assert between(before, after, "--json") == cli.FAILED
    found = told(capsys)
    assert (found["comparable"], found["paired"], found["part"]) == (True, True, "prompt")
    assert found["gated"] == ["threat.l1"]
    first, *others = found["features"]
    assert (first["id"], first["verdict"], first["by"]) == ("threat.l1", "changed", "prevalence")
    assert first["prevalence"]["ratio"] == pytest.approx((80.5) / (24.5))
    assert (first["prevalence"]["n_before"], first["prevalence"]["n_after"]) == (24, 80)
    assert {one["id"]: one["verdict"] for one in others} == {"animals.g1": "unchanged", "threat.p1": "insufficient"}
    sides = [found["before"], found["after"]]
    names = ("units", "requests", "coverage", "tokens")
    assert [[one[name] for name in names] for one in sides] == [[N, N, 1.0, 3 * N]] * 2
    assert sides[0]["served"]["model"] != sides[1]["served"]["model"]
    assert between(before, after) == cli.FAILED
    said = capsys.readouterr().out
    assert said.startswith("CHANGED: 1 features; 1 unchanged, 0 undecided, 1 insufficient\npaired by request")
    assert re.search(r"changed +threat.l1 +vcr +prevalence x3.29 \[2\.\d+, 4\.\d+\], q \S+, in 24 and 80 units", said)
    assert "correlational" in said


def test_nothing_changed_is_good(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = (tape(tmp_path / f"{name}.frames", requests(N, quiet), folder=bundle) for name in "ab")
    assert between(before, after) == cli.GOOD
    assert capsys.readouterr().out.startswith("nothing changed: 0 features")


def test_a_change_outside_of_the_gate_is_told_and_good(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tape(tmp_path / "a.frames", requests(N, quiet), folder=bundle)
    after = tape(tmp_path / "b.frames", requests(N, louder), folder=bundle)
    assert between(before, after, "--gate", "animals.g1") == cli.GOOD
    assert capsys.readouterr().out.startswith("CHANGED: 1 features (0 of them gated)")
    assert between(before, after, "--gate", "vcr") == cli.FAILED, "a category"
    assert between(before, after, "--gate", "nobody") == cli.USAGE


def test_other_requests_are_unpaired_and_told_as_traffic(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tape(tmp_path / "a.frames", requests(N, quiet), folder=bundle)
    after = tape(tmp_path / "b.frames", requests(N, quiet, first=10_001), folder=bundle)
    assert between(before, after) == cli.GOOD
    said = capsys.readouterr().out
    assert "unpaired: other requests; tokens of the prompt and the answer" in said
    assert "traffic may have made a difference" in said
    assert between(before, after, "--pairing", "paired") == cli.UNREACHED
    assert "there are 0 pairs, 50 are needed" in capsys.readouterr().out


def test_conversations_are_units(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One conversation of all requests is one unit: nothing can be said of it."""
    sides = [
        tape(tmp_path / f"{name}.frames", requests(N, fires, conversation="c"), folder=bundle)
        for name, fires in (("a", quiet), ("b", louder))
    ]
    assert between(*sides, "--json") == cli.UNREACHED
    found = told(capsys)
    assert (found["before"]["units"], found["before"]["requests"], found["comparable"]) == (1, N, False)


def test_the_answer_is_compared_where_it_is_asked_for(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tape(tmp_path / "a.frames", requests(N, lambda _: [(4, THREAT, 1.0)]), folder=bundle)
    after = tape(tmp_path / "b.frames", requests(N, lambda _: []), folder=bundle)
    assert between(before, after) == cli.GOOD, "the prompts are the same"
    assert between(before, after, "--part", "answer", "--json") == cli.FAILED
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["features"][0]["id"] == "threat.l1"


def watched(*, drop: int | None = None, floor: float | None = None) -> WatchSet:
    whole = fakes.watch_set(KNOWN)
    kept = [place for place in range(whole.total) if place != drop]
    floors = whole.floor.copy()
    if floor is not None:
        floors[THREAT] = floor
    columns: dict[str, Any] = {
        "row": whole.row[kept],
        "floor": floors[kept].astype(np.float32),
        "kind": whole.kind[kept],
    }
    return replace(whole, total=len(kept), digest="sha256:" + "1" * 64, **columns)


def test_a_feature_that_one_side_did_not_watch_wholly_is_not_compared(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tape(tmp_path / "a.frames", requests(N, quiet), folder=bundle)
    after = tape(tmp_path / "b.frames", requests(N, louder), folder=bundle, watched=watched(floor=0.5))
    assert between(before, after, "--json") == cli.GOOD
    found = told(capsys)
    assert list(found["not_compared"]) == ["threat.l1"]
    assert "recorded above 0.5 only" in found["not_compared"]["threat.l1"]
    assert "threat.l1" not in {one["id"] for one in found["features"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"missed": 20}, "share of requests that were wholly seen"),
        ({"count": 49}, "there are 49 conversations or requests, 50 are needed"),
        ({"mode": "thresholded"}, "mode is exact before and thresholded after"),
        ({"excluded": {"first": "1"}}, "excluded is"),
        ({"traffic_class": "canary"}, "coverage is 1.000 before and nan after"),
    ],
)
def test_what_is_not_comparable(
    changes: dict[str, Any], said: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opening = {name: changes.pop(name) for name in ("mode", "excluded") if name in changes}
    count = changes.pop("count", N)
    before = tape(tmp_path / "a.frames", requests(N, quiet), folder=bundle)
    after = tape(tmp_path / "b.frames", requests(count, quiet, **changes), folder=bundle, **opening)
    assert between(before, after, "--json") == cli.UNREACHED
    found = told(capsys)
    assert not found["comparable"]
    assert any(said in why for why in found["why"]), found["why"]
    assert between(before, after) == cli.UNREACHED
    assert capsys.readouterr().out.startswith("NOT COMPARABLE: ")


def test_what_is_refused_is_never_called_changed(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 says that something changed: a file that cannot be read has to be told from that."""
    before = tape(tmp_path / "a.frames", requests(N, quiet), folder=bundle)
    foreign = fakes.dictionary(seed=1)
    other = fakes.write_bundle(tmp_path / "other", foreign)
    after = tape(tmp_path / "b.frames", requests(N, quiet), folder=other, known=foreign)
    assert between(before, after) == cli.UNREACHED
    assert "expected one dictionary that is in both" in capsys.readouterr().err
    plain = tmp_path / "plain"
    plain.write_text("no recording")
    assert between(before, plain) == cli.UNREACHED
    assert between(before, tmp_path / "none") == cli.UNREACHED
    bare = tape(tmp_path / "c.frames", requests(N, quiet))
    assert between(before, bare) == cli.UNREACHED, "it holds no sheets"
    assert between(before, bare, "--dictionary", bundle) == cli.GOOD
    assert between(before, before, "--dictionary", tmp_path) == cli.UNREACHED
    monkeypatch.setattr(limits, "DIFF_REQUESTS", 100)
    assert between(before, before) == cli.UNREACHED
    assert "more than 100 requests" in capsys.readouterr().err


def test_two_models_in_one_recording_are_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second: list[Record] = [fakes.stream_open(KNOWN, stream=2, **model("other")), fakes.watch_set(KNOWN, stream=2)]
    more = [replace(one, stream=2) if isinstance(one, FiringBatch) else one for one in requests(60, quiet, first=1000)]
    before = tape(tmp_path / "a.frames", [*requests(60, quiet), *second, *more], folder=bundle)
    assert between(before, before) == cli.UNREACHED
    assert "expected one model, in one mode" in capsys.readouterr().err


def test_a_page_is_written(bundle: Path, tmp_path: Path) -> None:
    before = tape(tmp_path / "a.frames", requests(N, quiet), folder=bundle)
    after = tape(tmp_path / "b.frames", requests(N, louder), folder=bundle)
    page = tmp_path / "page.html"
    assert between(before, after, "--page", page) == cli.FAILED
    assert "threat.l1" in page.read_text()
    assert between(before, after, "--page", tmp_path / "none" / "page.html") == cli.UNREACHED


def test_what_is_left_out_and_what_is_damaged_is_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tape(tmp_path / "a.frames", requests(N, quiet), folder=bundle)
    after = tape(tmp_path / "b.frames", requests(N, quiet), folder=bundle)
    after.write_bytes(after.read_bytes()[:-20])
    assert between(before, after, "--json", "--class", "test") == cli.UNREACHED
    found = told(capsys)
    assert (found["before"]["defects"], found["before"]["left_out"]) == ([], {"they are of other classes": N})
    assert found["after"]["defects"][0].startswith("its end is missing")
    between(before, after, "--class", "test")
    text = capsys.readouterr().out
    assert f"left out: {N} (they are of other classes)" in text
    assert "THE RECORDING IS DAMAGED: its end is missing" in text
