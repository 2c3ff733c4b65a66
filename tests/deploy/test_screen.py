"""How the demo shows a request: which tokens are marked, and what is said below."""

from __future__ import annotations

import io
from pathlib import Path

from tokenizers import Tokenizer

from deploy.demo.pieces import Pieces
from deploy.demo.screen import Mark, Screen, View, coverage_line, summary

TOKENIZER = Path(__file__).resolve().parents[1] / "fixture/model/tokenizer.json"


def mark(feature: str, value: float, category: str = "vcr") -> Mark:
    return Mark(feature, f"label of {feature}", category, value, feature.endswith(".p1"))


def a_view() -> View:
    """The probe of threat fires on one token; its latents speak on four, those of fraud on all."""
    return View(
        title="r",
        pieces=["I", " will", " hurt", " you", " now", " then"],
        prompt_len=3,
        marks={
            0: [mark("threat.g1", 0.5), mark("fraud.g1", 9.0)],
            1: [mark("threat.g1", 1.0), mark("fraud.g1", 9.0)],
            2: [mark("threat.g1", 8.0), mark("threat.p1", 4.0), mark("fraud.g1", 9.0)],
            3: [mark("threat.g1", 2.0), mark("fraud.g1", 9.0)],
        },
    )


def shown(view: View) -> list[str]:
    out = io.StringIO()
    screen = Screen(out)
    screen.begin(view)
    screen.end(view, "coverage")
    return out.getvalue().splitlines()


def test_a_probe_marks_its_token_and_its_latents_their_three() -> None:
    lines = shown(a_view())
    assert lines[2:4] == ["I [will|~threat] [hurt|threat.p1]", "»  [you|~threat] now then"]


def test_latents_explain_only_a_concept_whose_probe_fired() -> None:
    lines = summary(a_view())
    assert len(lines) == 2
    assert lines[0].startswith("threat.p1 ")
    assert "1 prompt, 0 answer tokens" in lines[0]
    assert "peak 4.00 at “hurt”" in lines[0]
    assert lines[1].strip() == "its latents say most on “hurt” 8.0, “you” 2.0, “will” 1.0"


def test_what_the_chat_template_adds_explains_nothing() -> None:
    view = View(title="r", pieces=["", " a"], prompt_len=2)
    view.marks = {0: [mark("threat.p1", 4.0), mark("threat.g1", 9.0)], 1: [mark("threat.g1", 1.0)]}
    lines = summary(view)
    assert "peak 4.00 at the chat template" in lines[0]
    assert lines[1].strip() == "its latents say most on “a” 1.0"


def test_nothing_fired() -> None:
    assert summary(View(title="r", pieces=["a"], prompt_len=1)) == ["no probe fired"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    view = View(title="r", pieces=["\x1b[31m", "x"], prompt_len=1)
    assert "\x1b" not in "".join(shown(view))


def test_the_chat_templates_own_words_are_not_shown() -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    text = "<|im_start|>user\nwill you hurt him?<|im_end|>\n<|im_start|>assistant\nNo."
    found = Pieces(tokenizer).upto(tokenizer.encode(text, add_special_tokens=False).ids)
    assert "".join(found) == "will you hurt him?\nNo."


def test_tokens_that_come_one_by_one_give_the_same_pieces() -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    ids = tokenizer.encode("naïve “quotes” 日本語 and plenty of plain words", add_special_tokens=False).ids
    growing = Pieces(tokenizer)
    for end in range(1, len(ids) + 1):
        found = growing.upto(ids[:end])
    assert "".join(found) == tokenizer.decode(ids)
    assert found == Pieces(tokenizer).upto(ids)


def test_coverage_names_what_was_missed() -> None:
    line = coverage_line(fed=40, encoded=30, missed={"excluded": 4, "cached": 6, "gap": 0}, tokens_per_s=99.6, lag_ms=3)
    assert line == "coverage 75.0% of 40 tokens fed (missed: 6 cached, 4 excluded)  ·  100 tokens/s  ·  lag 3 ms"
