"""How scored texts are shown: tokens marked on which something fired, what that was, and how much was seen.

Where directions are watched, their tokens are marked, else those of latents; a token that fires several is marked with
the largest value. A mark is a correlation between activations and a label, and nothing more; the legend says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from saewatch.core.catalogue import Feature

if TYPE_CHECKING:  # results come with pandas, which only scoring needs
    from saewatch.score import Fired, Peak, Scored, Token

RESET, BOLD, DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
COLOURS = {"safety": "\x1b[41;97m", "bias": "\x1b[45;97m", "behaviour": "\x1b[43;30m"}
LEGEND = "A mark is correlational evidence from the model's activations, not a verdict on the text."
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def kind_of(category: str) -> str:
    """safety, bias or behaviour, by the category's prefix."""
    return "bias" if category.startswith("bias.") else "behaviour" if category.startswith("x.") else "safety"


def legend(*, colour: bool) -> list[str]:
    """What marks mean."""
    if not colour:
        return ["marks: [token|feature]", LEGEND]
    return ["marks: " + "  ".join(f"{code} {name} {RESET}" for name, code in COLOURS.items()), LEGEND]


def lines(scored: Scored, *, colour: bool) -> Iterator[str]:
    """One text: the tokens, a line for each feature and part in which it fired, and the coverage."""
    yield _styled(f"── text {scored.index}", BOLD, colour=colour)
    yield from marked(scored, colour=colour).split("\n")
    peaks = sorted(scored.peaks, key=lambda one: (one.feature.direction is None, -one.value))
    yield from (f"   {_peak(scored, one)}" for one in peaks)
    if not peaks:
        yield "   nothing fired"
    yield _styled(f"   {scored.coverage}", DIM, colour=colour)


def marked(scored: Scored, *, colour: bool) -> str:
    """The text, the answer on a line of its own."""
    directions = any(one.direction is not None for one in scored.table.features)
    parts = []
    for token in scored.tokens:
        if token.position == scored.prompt_len:
            parts.append("\n» ")
        wanted = [one for one in token.firings if not directions or one.feature.direction is not None]
        parts.append(_token(token, max(wanted, key=lambda one: one.value, default=None), colour=colour))
    return "".join(parts)


def _token(token: Token, fired: Fired | None, *, colour: bool) -> str:
    text = _shown(token.text) or ("" if token.text else f"<{token.id}>")
    if fired is None:
        return _styled(text, DIM, colour=colour and token.prompt)
    word = text.lstrip()
    lead = text[: len(text) - len(word)]
    if not colour:
        return f"{lead}[{word}|{fired.feature.id}]"
    return lead + _styled(word or "·", COLOURS[kind_of(fired.feature.category)], colour=True)


def piece(text: str, feature: Feature | None, *, colour: bool) -> str:
    """A token's text on one line, marked where ``feature`` fired on it."""
    shown = _shown(text).replace("\n", " ").replace("\t", " ")
    if feature is None:
        return shown
    word = shown.lstrip()
    lead = shown[: len(shown) - len(word)]
    if not colour:
        return f"{lead}[{word or '·'}]"
    return lead + _styled(word or "·", COLOURS[kind_of(feature.category)], colour=True)


def _peak(scored: Scored, peak: Peak) -> str:
    feature: Feature = peak.feature
    where = f"{peak.position} {_quoted(scored.pieces[peak.position])}"
    counted = f"{peak.firings} in the {peak.part}"
    return f"{feature.id:<26} {feature.category:<18} {counted:<17} max {peak.value:.4g} at {where}   {feature.shown}"


def _quoted(text: str) -> str:
    shown = _shown(text).strip()
    return f"“{shown}”" if shown else "·"


def _shown(text: str) -> str:
    """Without what a terminal would obey."""
    return _CONTROL.sub("·", text)


def _styled(text: str, code: str, *, colour: bool) -> str:
    return f"{code}{text}{RESET}" if colour and text else text
