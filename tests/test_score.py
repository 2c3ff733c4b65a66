"""Scoring texts on the fixture: what may be given, what is refused, and that the numbers are those of the oracle."""

from __future__ import annotations

import copy
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.oracle import Oracle, Reading
from benchmarks.tiny import make_bundle, make_model
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.hookpoint import HookPoint
from saewatch.score import Exchange, Scored, Scorer

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "tests" / "fixture"
MODEL, BUNDLE = FIXTURE / "model", FIXTURE / "bundle"
TEXT = "The old bridge was repaired in spring, and I will find out where you live."
MESSAGES = [{"role": "user", "content": "Why can't they hold down a job?"}]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(MODEL, BUNDLE)


def same(left: Scored, right: Scored) -> bool:
    names = ("ids", "excluded", "position", "slot", "feature", "value")
    return left.prompt_len == right.prompt_len and all(
        np.array_equal(getattr(left, name), getattr(right, name)) for name in names
    )


def one(scorer: Scorer, given: Any, **options: Any) -> Scored:
    (found,) = scorer.score(given, **options).texts
    return found


# --- the numbers ------------------------------------------------------------------------------------------------------
def test_a_texts_firings_are_those_of_saelens_above_each_features_floor(scorer: Scorer) -> None:
    found, oracle = one(scorer, TEXT), Oracle(MODEL, FIXTURE / "source", Reading("model.layers.2"))
    expected = oracle.expected(found.ids.tolist())
    assert scorer.opening.model_proof == "weights"
    assert "".join(found.pieces) == TEXT
    fires = 0
    for number, feature in enumerate(scorer.table.features):
        rows = np.array(feature.rows(scorer_sheet(scorer)))
        value = np.where(found.excluded[:, None], 0, expected.value[:, rows])
        mine = found.value[found.feature == number]
        assert sorted(mine) == pytest.approx(sorted(value[value > np.float32(feature.floor)]), rel=1e-4), feature.id
        fires += len(mine)
    assert fires == len(found.value) > 100


def scorer_sheet(scorer: Scorer) -> Any:
    known = scorer.table.stream.dictionary
    assert known is not None
    return known.manifest.encoder


def test_a_text_reads_the_same_beside_others(scorer: Scorer) -> None:
    alone, beside = one(scorer, TEXT), scorer.score(["short", TEXT, TEXT * 9]).texts
    assert same(alone, beside[1])
    assert [text.index for text in beside] == [0, 1, 2]


def test_everything_that_may_be_given(scorer: Scorer) -> None:
    text = one(scorer, TEXT)
    ids = text.ids.tolist()
    for given in (ids, text.ids, torch.tensor(ids), [ids], [TEXT], [Exchange(ids)], Exchange(ids)):
        assert same(one(scorer, given), text)
    chat = one(scorer, MESSAGES)
    assert "".join(chat.pieces) == f"<|im_start|>user\n{MESSAGES[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    assert same(one(scorer, [MESSAGES]), chat)
    assert [len(found.ids) for found in scorer.score([TEXT, MESSAGES, ids]).texts] == [
        len(ids),
        len(chat.ids),
        len(ids),
    ]
    assert chat.coverage.missed == {"excluded": int(np.isin(chat.ids, [0, 1, 2]).sum())}


def test_nothing_given(scorer: Scorer) -> None:
    assert scorer.score([]).texts == ()
    empty = scorer.score(["", TEXT], generate=3).texts[0]
    assert (len(empty.ids), empty.coverage.fed, empty.coverage.share, empty.peaks) == (0, 0, 1.0, ())


def test_an_answer_is_scored_apart_and_its_last_token_is_not_fed(scorer: Scorer) -> None:
    found = one(scorer, MESSAGES, generate=12)
    prompt, answer = found.ids[: found.prompt_len].tolist(), found.ids[found.prompt_len :].tolist()
    assert prompt == one(scorer, MESSAGES).ids.tolist()
    assert 0 < len(answer) <= 12
    assert found.coverage.fed == len(prompt) + len(answer) - 1
    assert {peak.part for peak in found.peaks} == {"prompt", "answer"}
    assert same(one(scorer, Exchange(prompt, answer)), found)
    assert one(scorer, Exchange(prompt, answer), generate=5).ids.tolist() == [*prompt, *answer], "it has an answer"


def test_the_answer_is_greedy(scorer: Scorer) -> None:
    found = one(scorer, MESSAGES, generate=6)
    model = scorer.model
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([found.ids.tolist()])).logits[0]
    expected = logits[found.prompt_len - 1 : -1].argmax(dim=1).tolist()
    assert found.ids[found.prompt_len :].tolist() == expected


def test_characters_of_several_tokens_come_with_the_last(scorer: Scorer) -> None:
    text = "naïve 日本 🙂 ok"
    found = one(scorer, text)
    assert "".join(found.pieces) == text
    assert "" in found.pieces
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(found.pieces)


# --- what is chosen ---------------------------------------------------------------------------------------------------
def test_only_chosen_features_are_watched(scorer: Scorer) -> None:
    few = Scorer(scorer.model, None, BUNDLE, features=["threat.g1", "threat.p1", "fraud.g1"], categories=["vcr"])
    assert [feature.id for feature in few.table.features] == ["threat.g1", "threat.p1"]
    assert few.table.slots < scorer.table.slots, "the others are not encoded"
    ids = one(scorer, TEXT).ids
    every, found = scorer.score(ids).frame(), few.score(ids).frame()
    wanted = every[every["feature"].isin(["threat.g1", "threat.p1"])]
    assert len(found) == len(wanted) > 0
    assert found["unit"].tolist() == wanted["unit"].tolist()
    assert few.opening.model_proof == "shape"


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (
            {"features": ["no.l1"]},
            r"feature: found 'no.l1', expected a feature of the catalogue. It has age\S+, .* \d+ more\.$",
        ),
        ({"categories": ["nonsense"]}, "category: found 'nonsense'.*It has bias.age"),
        ({"features": ["threat.l1"], "categories": ["ncr"]}, "features: found none"),
    ],
)
def test_what_cannot_be_chosen(scorer: Scorer, chosen: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Scorer(scorer.model, None, BUNDLE, **chosen)


# --- what is refused --------------------------------------------------------------------------------------------------
def test_a_long_text_is_refused_before_anything_is_read_or_cut_and_said(scorer: Scorer) -> None:
    long = [7] * (scorer.limit + 5)
    with pytest.raises(ConfigError, match=rf"texts\[1\]: found {len(long)} tokens .* expected at most 2048 together"):
        scorer.each([TEXT, long])
    found = one(scorer, long, cut=True)
    assert (len(found.ids), found.coverage.cut, found.coverage.fed) == (2048, 5, 2048)
    assert len(one(scorer, [7] * scorer.limit).ids) == 2048
    with pytest.raises(ConfigError, match=r"^prompts:8: found 2053 tokens"):
        scorer.each([TEXT, long], names=["prompts:3", "prompts:8"])
    with pytest.raises(ConfigError, match="an answer of 9"):
        scorer.each([7] * 2040, generate=9)
    with pytest.raises(ConfigError, match="an answer of 2048"):
        scorer.each("a", generate=2048, cut=True)


@pytest.mark.parametrize("token", [-1, 1536])
def test_a_token_that_the_model_does_not_have(scorer: Scorer, token: int) -> None:
    with pytest.raises(ConfigError, match=rf"texts\[0\]: token: found {token}, expected an id below 1536"):
        scorer.score([5, token])


def test_a_negative_answer(scorer: Scorer) -> None:
    with pytest.raises(ConfigError, match="generate: found -1"):
        scorer.score(TEXT, generate=-1)


def test_text_needs_a_tokenizer_and_messages_a_template(scorer: Scorer) -> None:
    bare = Scorer(scorer.model, None, BUNDLE)
    assert one(bare, [5, 6, 7]).pieces == ("", "", "")
    with pytest.raises(ConfigError, match=r"texts\[0\]: tokenizer: found none.*Give token ids"):
        bare.score(TEXT)
    tokenizer = copy.deepcopy(scorer.tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat template"):
        Scorer(scorer.model, tokenizer, BUNDLE).score(MESSAGES)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ConfigError, match="roles must alternate"):
        Scorer(scorer.model, tokenizer, BUNDLE).score(MESSAGES)


def test_a_model_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=f"{tmp_path}/config.json: found No such file"):
        Scorer.load(tmp_path, BUNDLE)
    (tmp_path / "config.json").write_bytes((MODEL / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match=f"{tmp_path}: found .*expected a model that can be read"):
        Scorer.load(tmp_path, BUNDLE)


@pytest.mark.parametrize("name", ["/nowhere", "./nowhere", "a/b/c", ""])
def test_a_path_is_never_taken_for_a_name_on_a_hub(name: str) -> None:
    with pytest.raises(UnreachableError, match=r"config.json: found No such file or directory"):
        Scorer.load(name, BUNDLE)


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"device": "cuda:77"}])
def test_a_type_or_device_that_is_not_there(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Scorer.load(MODEL, BUNDLE, **wrong)


def test_a_model_with_a_soft_cap_and_without_a_tokenizer(tmp_path: Path) -> None:
    """It is loaded with the attention that has the cap; its token ids can be scored."""
    model = make_model("gemma2", tmp_path / "model")
    bundle = make_bundle(HookPoint("mlp_out", 1), model, tmp_path / "bundle")
    scorer = Scorer.load(model, bundle)
    assert len(scorer.score([20, 21, 22]).value) > 10
    with pytest.raises(ConfigError, match=r"tokenizer: found .*Give token ids"):
        scorer.score(TEXT)


def test_numbers_that_are_not_finite_are_told(scorer: Scorer) -> None:
    model = copy.deepcopy(scorer.model)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(torch.inf)
    coverage = Scorer(model, scorer.tokenizer, BUNDLE).score(TEXT).coverage
    assert coverage.not_finite == coverage.fed > 0
    assert "NOT FINITE" in str(coverage)


# --- the example ------------------------------------------------------------------------------------------------------
def test_the_example_of_the_docs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["score.py", str(MODEL), str(BUNDLE)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "docs" / "examples" / "score.py"), run_name="__main__")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "hook point resid_post.2, fit proven by weights" in said
    assert "coverage" in said


def test_the_python_of_the_docs_page() -> None:
    page = (ROOT / "docs" / "score.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    snippet = snippet.replace("path/of/the/model", str(MODEL)).replace("path/of/the/bundle", str(BUNDLE))
    found: dict[str, Any] = {}
    exec(snippet, found)
    assert found["scores"].coverage.fed > 0
    columns = re.findall(r"a DataFrame: (.*)", page)[0].split(", ")
    assert list(found["scores"].frame()) == columns
