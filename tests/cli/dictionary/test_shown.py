"""Examples as they are printed."""

from __future__ import annotations

from dataclasses import replace

from saewatch.cli.dictionary import shown
from saewatch.core.label import Review
from tests import fakes
from tests.dictionary.exemplary import example, head, pets

FEATURE = fakes.feature("pets.l1", latents=(1,))
PETS = pets("pets.l1", count=8)


def test_everything_of_a_feature() -> None:
    said = list(shown.lines(FEATURE, PETS, head("sha256:a", PETS), colour=False))
    assert said[:3] == [
        "pets.l1  label of pets.l1 (unreviewed)",
        "fired over 0.5 in 8 of 1000 requests (0.8 %)",
        "5000 of 6000 tokens were read by the dictionary",
    ]
    kinds = [line for line in said if line.startswith("──")]
    assert kinds == ["── largest: 4", "── from 2 to 10: 8", "── near misses: 8", "── silent: 0"]
    assert "   6        r4 1  the [cat] of town numbere 4" in said
    assert "   0        r100 1  the boat of town numberw 100" in said
    accepted = replace(FEATURE, review=Review(state="accepted", by="ada"))
    assert next(shown.lines(accepted, PETS, head("sha256:a", PETS), colour=False)) == "pets.l1  label of pets.l1"


def test_without_text_ids_or_values_are_shown() -> None:
    one = example(4, "cat", fires=True)
    assert shown.text(replace(one, pieces=()), FEATURE, colour=False) == "6        r4 1  0 [1] 2 3 4 5"
    assert shown.text(replace(one, pieces=(), ids=()), FEATURE, colour=False) == "6        r4 1  1: 6"
    silent = replace(example(4, "cat", fires=False), pieces=(), ids=())
    assert shown.text(silent, FEATURE, colour=False) == "0        r4 1  nothing fired"


def test_a_text_stays_on_its_line_and_commands_no_terminal() -> None:
    hostile = replace(example(4, "cat", fires=True), request="r\x1b[2J", pieces=("a\nb", " \x1b[31mc", "\td"))
    said = shown.text(hostile, FEATURE, colour=False)
    assert "\x1b" not in said
    assert "\n" not in said
    assert "[·[31mc]" in said
    assert "\x1b[43;30m·[31mc\x1b[0m" in shown.text(hostile, FEATURE, colour=True)
