"""A certificate of what an engine fired: the fixture's own tap in the engine's place, and a recording of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saewatch import cli
from saewatch.core.batch import Reason
from saewatch.core.marks import RecordingHead
from saewatch.core.recording import Writer
from saewatch.core.records import Record, RequestEnd, RequestLabel, RequestStart
from saewatch.engine.hf import HfTap
from saewatch.score import Scorer
from tests import fakes

FIXTURE = Path(__file__).resolve().parents[2] / "fixture"
BUNDLE, MODEL = FIXTURE / "bundle", FIXTURE / "model"
TEXTS = [f"I will find out where you live, number {number}, and then you will see." for number in range(12)]
WATCHED = ["threat.l1", "threat.g1", "jailbreak.g1"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(MODEL, BUNDLE, progress=False)


def served(tap: HfTap, number: int, ids: Sequence[int], *, emitted: int = 1) -> list[Record]:
    """One request as an engine tells it: spans of what was seen, and the rest as excluded."""
    found = tap.read(ids).encoded
    seen = np.flatnonzero(~found.excluded)
    cuts = np.flatnonzero(np.diff(seen) > 1) + 1
    spans = [(number, int(part[0]), len(part)) for part in np.split(seen, cuts)]
    row = np.searchsorted(seen, found.row)
    order = np.lexsort((found.slot, row))
    firings = [(int(row[i]), int(found.slot[i]), float(found.value[i])) for i in order]
    out = len(ids) - len(seen)
    excluded = [(number, Reason.EXCLUDED, out)] if out else []
    return [
        RequestLabel(key=fakes.key(number), client_id=f"text-{number}", traffic_class="test"),
        RequestStart(request=number, engine_id=fakes.engine_id(number), prompt_len=len(ids)),
        fakes.batch(spans, firings, missed=excluded, seq=number),
        RequestEnd(request=number, fed=len(ids) + emitted - 1, emitted=emitted),
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, scorer: Scorer) -> tuple[Path, Path]:
    """The recording, in which the last text is lacking, and the texts."""
    folder = tmp_path_factory.mktemp("served")
    tap = HfTap(scorer.model, BUNDLE, folder=MODEL)
    tap.watch(WATCHED)
    opening = replace(tap.opening, versions={"vllm": "0.32.0"})
    records: list[Record] = [opening, *tap.watch_sets(), fakes.beat()]
    beat: Any = records[-1]
    records[-1] = replace(beat, engine=opening.engine, epoch=opening.epoch)
    for number, text in enumerate(TEXTS[:-1], start=1):
        records += served(tap, number, scorer.tokenizer(text)["input_ids"])
    recording = folder / "served.frames"
    with recording.open("wb") as file:
        writer = Writer(file, RecordingHead(program="test", began_ns=1))
        for number, record in enumerate(records):
            writer.write(1, number * 1_000_000, record)
        writer.close()
    texts = folder / "texts.jsonl"
    lines = [{"text": text, "request": f"text-{number}"} for number, text in enumerate(TEXTS, start=1)]
    texts.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return recording, texts


def certify(recording: Path, texts: Path, *words: object) -> int:
    given = [BUNDLE, "--reference", MODEL, "--served", recording, "--texts", texts, *words]
    return cli.main(["dictionary", "certify", *map(str, given)])


def test_what_was_watched_is_compared_as_it_was_served(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The tap on the reference itself: nothing differs. Of so few texts none lie over a 95 % point: not measured."""
    assert certify(*files, "--json") == cli.FAILED
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["attestation"]["scope"] == "watched"
    assert told["attestation"]["served"]["reader"] == "vllm 0.32.0"
    assert [one["figure"] for one in told["why"]] == ["measured"]
    assert {one["feature"] for one in told["features"]} >= set(WATCHED)
    assert told["texts"] == len(TEXTS) - 1
    assert told["left_out"] == {"they are not whole in the recording": 1}
    assert told["fvu"] == {"reference": None, "served": None}
    assert told["latents"]["count"] == 0
    assert told["attestation"]["excluded_apart"] == 0
    for one in told["features"]:
        assert one["reference"] == one["served"] == one["both"] > 0, one
        assert one["corr"] == pytest.approx(1.0, abs=1e-5)
    assert "fraud.p1 is not compared: direction" in said.err
    assert any("other latents and FVU were not compared" in one for one in told["warnings"])


def test_what_is_refused(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording, texts = files
    assert certify(recording, texts, "--feature", "fraud.p1") == cli.FAILED
    assert "not in the recording's watch set" in capsys.readouterr().err
    other = tmp_path / "texts.jsonl"
    other.write_text('{"text": "a"}\n')
    assert certify(recording, other) == cli.FAILED
    assert "texts.jsonl:1: request" in capsys.readouterr().err
    other.write_text('{"text": "a", "request": "x"}\n{"text": "b", "request": "x"}\n')
    assert certify(recording, other) == cli.FAILED
    assert "expected each once" in capsys.readouterr().err
    other.write_text('{"text": "a", "request": "x"}\n')
    assert certify(recording, other) == cli.FAILED
    assert "none of 1 requests" in capsys.readouterr().err
    other.write_text('{"text": "of another length", "request": "text-1"}\n')
    assert certify(recording, other) == cli.FAILED
    assert "texts: found none" in capsys.readouterr().err
