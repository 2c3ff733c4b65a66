"""How scored texts are drawn."""

from __future__ import annotations

from saewatch.cli import marked
from tests import fakes
from tests.score.texts import a_table, scored


def test_directions_mark_where_there_are_any() -> None:
    one = scored(a_table())
    assert marked.marked(one, colour=False) == "a b c d\n»  [e|threat.p1] [f|threat.p1]."


def test_latents_mark_where_there_are_no_directions() -> None:
    features = (fakes.feature("animals.g1", latents=(1, 2)), fakes.feature("threat.l1", latents=(3,)))
    one = scored(a_table(features), [(1, 0, 2.0), (1, 2, 0.5), (3, 1, 5.0)])
    assert marked.marked(one, colour=False) == "a [b|animals.g1] c [d|animals.g1]\n»  e f."


def test_each_feature_says_where_it_was_largest() -> None:
    first, *lines = marked.lines(scored(a_table()), colour=False)
    assert first == "── text 0"
    said = [line.split() for line in lines if line.startswith("   ")]
    assert [line[0] for line in said] == ["threat.p1", "animals.g1", "animals.g1", "threat.l1", "coverage"]
    assert " ".join(said[0]) == "threat.p1 vcr 2 in the answer max 7.5 at 5 “f” label of threat.p1 (unreviewed)"
    assert "1 in the prompt" not in lines[2]
    assert lines[-1] == "   coverage 83.3% of 6 tokens fed (missed: 1 excluded)"


def test_colour_is_by_category() -> None:
    drawn = marked.marked(scored(a_table()), colour=True)
    assert f" {marked.COLOURS['safety']}e{marked.RESET}" in drawn
    assert f"{marked.DIM}a{marked.RESET}" in drawn, "the prompt"
    assert drawn.endswith("."), "the answer is plain"
    assert [marked.kind_of(category) for category in ("vcr", "bias.age", "x.refusal")] == [
        "safety",
        "bias",
        "behaviour",
    ]
    assert "[token|feature]" in marked.legend(colour=False)[0]
    assert "bias" in marked.legend(colour=True)[0]


def test_nothing_fired_and_no_text() -> None:
    one = scored(a_table(), [], pieces=("",) * 7)
    drawn = list(marked.lines(one, colour=False))
    assert "   nothing fired" in drawn
    assert "<10><11><12><13>" in drawn


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    one = scored(a_table(), pieces=("\x1b[2J", "\x07b", " c", "\r", " e", "\x9bf", "\n"))
    drawn = "".join(marked.lines(one, colour=False))
    assert not any(sign in drawn for sign in "\x1b\x07\r\x9b")
