"""saewatch score, on the fixture."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers

from saewatch import cli
from saewatch.core import limits
from saewatch.score import Scorer, Scores
from tests import made, sidecar

FIXTURE = Path(__file__).resolve().parent.parent / "fixture"
WHAT = ("--model", str(FIXTURE / "model"), "--dictionary", str(FIXTURE / "bundle"))
TEXT = "I will find out where you live."


@pytest.fixture(scope="module")
def expected() -> Scores:
    return Scorer.load(FIXTURE / "model", FIXTURE / "bundle").score([TEXT, "Fine."])


def score(*words: str) -> int:
    return cli.main(["score", *WHAT, *words])


def test_for_people(capsys: pytest.CaptureFixture[str], expected: Scores) -> None:
    assert score(TEXT, "Fine.") == cli.GOOD
    said = capsys.readouterr()
    assert "── text 0\n" in said.out
    assert "── text 1\n" in said.out
    for text in expected.texts:
        for peak in text.peaks:
            assert f"{peak.firings} in the {peak.part}" in said.out
            assert f"max {peak.value:.4g} at {peak.position} " in said.out
        assert str(text.coverage) in said.out
    assert "not a verdict" in said.out
    assert said.err == f"saewatch: {expected.coverage}\n", "no line of progress where there is no terminal"


def test_for_programs(capsys: pytest.CaptureFixture[str], expected: Scores) -> None:
    assert score(TEXT, "Fine.", "--json") == cli.GOOD
    found = json.loads(capsys.readouterr().out)
    assert (found["hook_point"], found["model_proof"]) == ("resid_post.2", "weights")
    for plain, text in zip(found["texts"], expected.texts, strict=True):
        assert plain["tokens"] == text.ids.tolist()
        assert (plain["fed"], plain["encoded"], plain["missed"]) == (
            text.coverage.fed,
            text.coverage.encoded,
            dict(text.coverage.missed),
        )
        assert [one["value"] for one in plain["firings"]] == text.value.tolist()
        assert [(one["id"], one["value"]) for one in plain["features"]] == [
            (peak.feature.id, peak.value) for peak in text.peaks
        ]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_every_format_holds_the_frame(form: str, tmp_path: Path, expected: Scores) -> None:
    out = tmp_path / "firings"
    assert score(TEXT, "Fine.", "--format", form, "--out", str(out)) == cli.GOOD
    read: Any = {
        "jsonl": lambda: pd.read_json(out, lines=True),
        "csv": lambda: pd.read_csv(out),
        "parquet": lambda: pd.read_parquet(out),
    }[form]
    found, frame = read(), expected.frame()
    assert list(found) == list(frame)
    for name in frame:
        if name == "value":
            assert found[name].to_numpy() == pytest.approx(frame[name].to_numpy())
        else:
            assert found[name].tolist() == frame[name].tolist(), name


def test_files_of_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, expected: Scores
) -> None:
    plain, lines = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    plain.write_text(f"{TEXT}\n\nFine.\n")
    tokens = expected.texts[0].ids.tolist()
    entries = [
        {"text": TEXT, "kind": "safety"},
        {"messages": [{"role": "user", "content": "Fine."}]},
        {"tokens": tokens[:5], "answer": tokens[5:]},
    ]
    lines.write_text("\n".join(map(json.dumps, entries)))

    def found(*words: str) -> list[dict[str, Any]]:
        assert score(*words, "--json") == cli.GOOD
        texts: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["texts"]
        return texts

    assert [text["tokens"] for text in found("--file", str(plain))] == [text.ids.tolist() for text in expected.texts]
    text, chat, exchange = found("--file", str(lines))
    assert (text["tokens"], text["prompt_len"], text["fed"]) == (tokens, len(tokens), len(tokens))
    assert (exchange["tokens"], exchange["prompt_len"], exchange["fed"]) == (tokens, 5, len(tokens) - 1)
    assert chat == found("Fine.", "--chat")[0]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert found("--file", "-")[0]["tokens"] == tokens


def test_chosen_features_an_answer_and_another_type(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--chat", "--generate", "5", "--dtype", "bfloat16", "--category", "vcr", "--feature", "threat.g1")
    assert score(TEXT, *words, "--json") == cli.GOOD
    (text,) = json.loads(capsys.readouterr().out)["texts"]
    answer = len(text["tokens"]) - text["prompt_len"]
    assert 1 <= answer <= 5
    assert text["fed"] == len(text["tokens"]) - 1
    assert {one["feature"] for one in text["firings"]} == {"threat.g1"}


def test_a_long_text_is_refused_or_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a " * 3000
    assert score(long) == cli.FAILED
    assert "text 0: found 3001 tokens" in (said := capsys.readouterr().err)
    assert "--cut" in said
    assert score(long, "--cut") == cli.GOOD
    assert "tokens cut off beforehand" in capsys.readouterr().out


def test_progress_is_for_terminals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert score(TEXT, "Fine.", "--out", str(tmp_path / "out")) == cli.GOOD
    said = capsys.readouterr().err
    assert "1 of 2 texts" in said
    assert "2 of 2 texts\r\x1b[K" in said, "and leaves nothing behind"


def test_a_model_whose_numbers_are_not_finite_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(FIXTURE / "model", tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(torch.nan)
    model.save_pretrained(folder)
    bundle = made.bundle(tmp_path / "bundle", made.dictionary(d_in=128)).folder
    assert cli.main(["score", "--model", str(folder), "--dictionary", str(bundle), TEXT]) == cli.FAILED
    said = capsys.readouterr()
    assert "NOT FINITE" in said.out
    assert "the model's numbers are not finite" in said.err


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "prompts.jsonl:2: found Expecting"),
        ("[1]", "found [1], expected an object with one of text, messages, tokens"),
        ('{"text": "a", "tokens": [1]}', "expected an object with one of"),
        ('{"text": 7}', "prompts.jsonl:2: text: found [7]"),
        ('{"tokens": [true]}', "prompts.jsonl:2: tokens: found [True]"),
        ('{"tokens": [1], "answer": "b"}', "prompts.jsonl:2: answer: found 'b'"),
        ('{"messages": "hello"}', "prompts.jsonl:2: messages: found 'hello'"),
    ],
)
def test_a_line_that_is_no_prompt(line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"text": "a"}\n' + line)
    assert score("--file", str(tmp_path / "prompts.jsonl")) == cli.FAILED
    assert said in capsys.readouterr().err


def test_a_prompt_that_is_refused_is_named_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a"}\n\n{"tokens": [99999]}\n')
    assert score("--file", str(path)) == cli.FAILED
    assert f"{path}:3: token: found 99999" in capsys.readouterr().err


def test_files_that_cannot_be_read_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score("--file", str(tmp_path / "none.txt")) == cli.UNREACHED
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    assert score("--file", str(tmp_path / "latin.txt")) == cli.FAILED
    assert "UTF-8" in capsys.readouterr().err
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(limits.SCORE_FILE_BYTES + 1)
    assert score("--file", str(tmp_path / "large.txt")) == cli.FAILED
    assert "a larger file" in capsys.readouterr().err
    for path in (tmp_path / "no" / "out", tmp_path):
        assert score(TEXT, "--out", str(path)) == cli.UNREACHED
        assert f"{path}: found " in capsys.readouterr().err


def test_usage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ([], [TEXT, "--file", "prompts.txt"], [TEXT, "--dtype", "int8"], [TEXT, "--generate", "-1"]):
        with pytest.raises(SystemExit) as caught:
            score(*words)
        assert caught.value.code == cli.USAGE
    capsys.readouterr()
    assert score(TEXT, "--json", "--format", "csv") == cli.USAGE
    assert json.loads(capsys.readouterr().out)["error"]["subject"] == "--format"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert score(TEXT, "--format", "parquet") == cli.USAGE
    assert "--out: found nothing, expected a file, since Parquet is not text" in capsys.readouterr().err


def test_no_model_and_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> tuple[int, str, str]:
        code = cli.main(["score", *words, TEXT, "--json"])
        error = json.loads(capsys.readouterr().out)["error"]
        return code, error["kind"], error["subject"]

    nothing = (cli.UNREACHED, "UnreachableError")
    assert refused("--model", str(tmp_path), *WHAT[2:]) == (*nothing, f"{tmp_path}/config.json")
    assert refused(*WHAT[:2], "--dictionary", str(tmp_path)) == (*nothing, f"{tmp_path}/bundle.json")
    (tmp_path / "bundle.json").write_text("{}")
    named = f"{tmp_path}/bundle.json: schema"
    assert refused(*WHAT[:2], "--dictionary", str(tmp_path)) == (cli.FAILED, "ManifestError", named)
    assert refused(*WHAT, "--feature", "nonsense") == (cli.FAILED, "ConfigError", "feature")


def test_without_its_extra_help_works_and_the_refusal_names_it(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from saewatch.cli import main\n"
        "try: main(['score', '--help'])\n"
        "except SystemExit: print('helped')\n"
        "sys.exit(main(['score', '--model', 'm', '--dictionary', 'd', 'a']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=sidecar.ENVIRONMENT, check=False
    )
    assert "helped" in done.stdout
    assert done.returncode == cli.FAILED
    assert "found no torch" in done.stderr
    assert "pip install 'saewatch[score]'" in done.stderr
