"""How the demo shows a request: which tokens are marked, and what is said below."""

from __future__ import annotations

import io
from pathlib import Path

from tokenizers import Tokenizer

from deploy.demo.run import pieces
from deploy.demo.screen import Mark, Screen, View, coverage_line, summary

TOKENIZER = Path(__file__).resolve().parents[1] / "fixture/model/tokenizer.json"


def mark(feature: str, value: float, category: str = "safety.vcr") -> Mark:
    return Mark(feature, f"label of {feature}", category, value, feature.endswith(".p1"))


def a_view() -> View:
    """The probe of threat fires on one token, its latents on two, and latents of fraud on all."""
    return View(
        title="r",
        pieces=["I", " will", " hurt", " you", " now"],
        prompt_len=3,
        marks={
            **{position: [mark("fraud.l1", 9.0)] for position in range(5)},
            2: [mark("threat.g1", 8.0), mark("threat.p1", 4.0), mark("fraud.l1", 9.0)],
            3: [mark("threat.g1", 2.0), mark("fraud.l1", 9.0)],
        },
    )


def shown(view: View) -> list[str]:
    out = io.StringIO()
    screen = Screen(out)
    screen.begin(view)
    screen.end(view, "coverage")
    return out.getvalue().splitlines()


def test_a_probe_marks_its_token_and_its_latents_mark_theirs() -> None:
    lines = shown(a_view())
    assert lines[2:4] == ["I will [hurt|threat.p1]", "»  [you|~threat.g1] now"]


def test_latents_whose_probe_is_silent_are_only_counted() -> None:
    lines = summary(a_view())
    assert [line.split()[0] for line in lines[:2]] == ["threat.p1", "threat.g1"]
    assert "1 prompt, 0 answer tokens" in lines[0]
    assert "“hurt”" in lines[0]
    assert lines[2:] == ["latents of 1 further features fired; none of their probes did"]


def test_nothing_fired() -> None:
    assert summary(View(title="r", pieces=["a"], prompt_len=1)) == ["no probe fired"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    view = View(title="r", pieces=["\x1b[31m", "x"], prompt_len=1)
    assert "\x1b" not in "".join(shown(view))


def test_the_chat_templates_own_words_are_not_shown() -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    text = "<|im_start|>user\nwill you hurt him?<|im_end|>\n<|im_start|>assistant\nNo."
    found = pieces(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids)
    assert "".join(found) == "will you hurt him?\nNo."


def test_coverage_names_what_was_missed() -> None:
    line = coverage_line(fed=40, encoded=30, missed={"excluded": 4, "cached": 6, "gap": 0}, tokens_per_s=99.6, lag_ms=3)
    assert line == "coverage 75.0% of 40 tokens fed (missed: 6 cached, 4 excluded)  ·  100 tokens/s  ·  lag 3 ms"
