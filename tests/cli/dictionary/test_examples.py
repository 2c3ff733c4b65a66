"""saewatch dictionary examples, from texts that the fixture reads and from a recording."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from dictionaries.train.corpus import Generator
from saewatch import cli
from saewatch.dictionary.examplefile import FILE, read_examples
from saewatch.dictionary.examples import Example
from saewatch.engine.dictionary_file import load_bundle
from saewatch.score import Scorer
from tests.cli.dictionary.recording import recorded

FIXTURE = Path(__file__).resolve().parents[2] / "fixture"
BUNDLE, MODEL = FIXTURE / "bundle", FIXTURE / "model"
WEIGHTS = load_bundle(BUNDLE).sheet.weights
CHOSEN = ("--feature", "threat.p1", "--feature", "threat.l1")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    generator = Generator("b", seed=3)
    requests = generator.innocents(10) + [one for one in generator.hazards(4) if "threat" in one.concepts][:4]
    path.write_text("".join(json.dumps({"text": one.prompt}) + "\n" for one in requests))
    return path


def examples(*words: object) -> int:
    return cli.main(["dictionary", "examples", str(BUNDLE), *map(str, words)])


def rounded(one: Example) -> object:
    """What an example says of values, to what two watch sets agree on."""
    return one.position, [(at, round(value, 4)) for at, value in one.fired]


def test_examples_of_texts_are_what_the_scorer_says(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--texts", texts, "--model", MODEL, *CHOSEN, "--content", "text", "--each", 4, "--window", 3)
    assert examples(*words, "--out", tmp_path / "out", "--json") == cli.GOOD
    said = json.loads(capsys.readouterr().out)
    found = read_examples(tmp_path / "out", WEIGHTS)
    assert (said["digest"], said["content"], said["requests"]) == (found.digest, "text", 14)
    scorer = Scorer.load(MODEL, BUNDLE, features=["threat.p1"])
    scored = list(scorer.each([json.loads(line)["text"] for line in texts.read_text().splitlines()]))
    peaks = sorted((float(one.value.max()) for one in scored if len(one.value)), reverse=True)
    probe = found.of("threat.p1")
    assert probe is not None
    assert (probe.fired, probe.requests) == (len(peaks), 14)
    assert [one.value for one in probe.top] == pytest.approx(peaks[:4], rel=1e-5), "two watch sets round differently"
    best = max(scored, key=lambda one: float(one.value.max(initial=0.0)))
    at = int(best.position[best.value.argmax()])
    top = probe.top[0]
    assert (top.request, top.position) == (f"texts.jsonl:{best.index + 1}", at)
    assert top.pieces == best.pieces[max(0, at - 3) : at + 4]
    silent = {one.request for one in probe.silent}
    assert silent <= {f"texts.jsonl:{one.index + 1}" for one in scored if not len(one.value)}
    assert silent
    assert (found.head.encoded, found.head.tokens) == (
        sum(one.coverage.encoded for one in scored),
        sum(one.coverage.fed for one in scored),
    )


def test_they_are_shown_with_their_tokens_marked(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--texts", texts, "--model", MODEL, *CHOSEN, "--each", 2, "--out", tmp_path / "out")
    assert examples(*words, "--content", "text") == cli.GOOD
    assert "examples   sha256:" in capsys.readouterr().out
    assert examples("--show", "threat.p1", "--out", tmp_path / "out") == cli.GOOD
    said = capsys.readouterr().out
    assert said.startswith("threat.p1  Threats of violence against a person (unreviewed)")
    assert "── largest: 2" in said
    assert "[" in said.split("── largest")[1].splitlines()[1]
    assert "A mark is correlational evidence" in said
    assert examples("--show", "threat.p1", "--out", tmp_path / "out", "--json") == cli.GOOD
    assert json.loads(capsys.readouterr().out)["label_review"] == "unreviewed"
    assert examples("--show", "fraud.p1", "--out", tmp_path / "out") == cli.FAILED
    assert "no examples of fraud.p1" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["none", "ids"])
def test_the_default_keeps_no_text_and_the_folder_is_its_owners(content: str, texts: Path, tmp_path: Path) -> None:
    words = ("--texts", texts, "--model", MODEL, *CHOSEN, "--each", 2, "--out", tmp_path / "out")
    assert examples(*words, *(("--content", content) if content != "none" else ())) == cli.GOOD
    path = tmp_path / "out" / FILE
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    (one, _) = read_examples(tmp_path / "out", WEIGHTS).features
    assert (one.firing[0].pieces, bool(one.firing[0].ids)) == ((), content == "ids")
    assert '"pieces"' not in path.read_text()


def test_a_recording_gives_the_same_values_without_any_text(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the same texts, scored: what was recorded are their firings."""
    path, ids = recorded(tmp_path / "a.frames", MODEL, BUNDLE, texts)
    words = ("--recording", path, *CHOSEN, "--out", tmp_path / "out", "--json")
    assert examples(*words) == cli.GOOD
    assert json.loads(capsys.readouterr().out)["content"] == "none"
    found = read_examples(tmp_path / "out", WEIGHTS)
    scored = ("--texts", texts, "--model", MODEL, *CHOSEN, "--out", tmp_path / "scored")
    assert examples(*scored) == cli.GOOD
    expected = read_examples(tmp_path / "scored", WEIGHTS)
    for mine, theirs in zip(found.features, expected.features, strict=True):
        assert mine.fired == theirs.fired
        assert list(map(rounded, mine.top)) == list(map(rounded, theirs.top))
    assert found.head.encoded == expected.head.encoded
    capsys.readouterr()
    joined = tmp_path / "ids.jsonl"
    joined.write_text("".join(json.dumps({"request": name, "tokens": one}) + "\n" for name, one in ids.items()))
    more = ("--texts", joined, "--model", MODEL, "--content", "text", "--replace")
    assert examples(*words, *more) == cli.GOOD
    (one, _) = read_examples(tmp_path / "out", WEIGHTS).features
    assert one.top[0].text.strip()
    joined.write_text("".join(json.dumps({"request": name, "tokens": one[:3]}) + "\n" for name, one in ids.items()))
    assert examples(*words, *more) == cli.FAILED


WRONG: dict[str, tuple[tuple[Any, ...], int, str]] = {
    "nothing to read": (("--out", "o"), cli.USAGE, "--texts and --model, or --recording"),
    "nowhere to write": (("--recording", "r"), cli.USAGE, "--out: found nothing"),
    "texts without a model": (("--texts", "t", "--out", "o"), cli.USAGE, "--model"),
    "text of a recording": (("--recording", "r", "--out", "o", "--content", "text"), cli.USAGE, "holds no text"),
    "none of a kind": (("--recording", "r", "--out", "o", "--each", "0"), cli.USAGE, "--each: found 0"),
    "no such feature": (("--recording", "r", "--out", "o", "--feature", "none.l1"), cli.FAILED, "found 'none.l1'"),
    "no such recording": (("--recording", "r", "--out", "o"), cli.UNREACHED, "expected a recording"),
    "no such texts": (("--texts", "t", "--model", str(MODEL), "--out", "o"), cli.UNREACHED, "a file of prompts"),
    "no examples": (("--show", "threat.p1", "--out", "o"), cli.UNREACHED, "a folder of examples"),
}


@pytest.mark.parametrize(("words", "code", "said"), WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_is_refused(
    words: tuple[Any, ...],
    code: int,
    said: str,
    *,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert examples(*words) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_examples_are_not_written_over(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE).write_text("")
    assert examples("--texts", texts, "--model", MODEL, "--out", tmp_path / "out") == cli.FAILED
    assert "or --replace" in capsys.readouterr().err


def test_they_never_lie_in_a_bundle(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    words = ("--texts", texts, "--model", MODEL, *CHOSEN, "--content", "text", "--out", tmp_path / "bundle")
    assert examples(*words, "--replace") == cli.FAILED
    assert "found a bundle, expected a folder of their own" in capsys.readouterr().err
    assert not (tmp_path / "bundle" / FILE).exists()


def test_half_a_surrogate_pair_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a \\ud800 b"}')
    assert examples("--texts", path, "--model", MODEL, *CHOSEN, "--out", tmp_path / "out") == cli.FAILED
    assert "texts.jsonl:1: found half a surrogate pair" in capsys.readouterr().err
