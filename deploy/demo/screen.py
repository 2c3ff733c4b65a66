"""How the demo shows a request: its text with the tokens marked on which something fired, and what that was.

On a terminal tokens appear as they are known, coloured by category; elsewhere a request is some plain lines once it is
complete. A mark is a correlation between activations and a label, and nothing more; the legend says so.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

RESET, BOLD, DIM, UNDERLINE = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[4m"
COLOURS = {"safety": "\x1b[41;97m", "bias": "\x1b[45;97m", "behaviour": "\x1b[43;30m"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def kind_of(category: str) -> str:
    """safety, bias or behaviour, by the category's prefix."""
    return "bias" if category.startswith("bias.") else "behaviour" if category.startswith("x.") else "safety"


@dataclass(frozen=True, slots=True)
class Mark:
    """One feature on one token."""

    feature: str
    label: str
    category: str
    value: float
    probe: bool  # a direction: what alerts would be made from; else a latent, which explains

    @property
    def concept(self) -> str:
        """What probe and latents of one concept have in common: the feature's id without its last part."""
        return self.feature.rpartition(".")[0]


@dataclass(slots=True)
class View:
    """One request, as far as it is known."""

    title: str
    kind: str = ""  # what the script says of the prompt: benign, safety, bias, hard_negative
    pieces: list[str] = field(default_factory=list)  # text of each token
    prompt_len: int = 0
    marks: dict[int, list[Mark]] = field(default_factory=dict)  # by position
    coverage: str = ""

    def concepts(self) -> set[str]:
        """Concepts whose probe fired."""
        return {mark.concept for marks in self.marks.values() for mark in marks if mark.probe}

    def marked(self, position: int) -> Mark | None:
        """What a token is marked with: the strongest probe, else a latent of a concept whose probe fired elsewhere."""
        concepts = self.concepts()
        marks = [mark for mark in self.marks.get(position, ()) if mark.probe or mark.concept in concepts]
        return max(marks, key=lambda mark: (mark.probe, mark.value), default=None)


class Screen:
    """Writes views. ``colour`` None: on a terminal that does not ask for none."""

    def __init__(self, out: TextIO = sys.stdout, *, colour: bool | None = None) -> None:
        self._out = out
        self.live = out.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self.live and "NO_COLOR" not in os.environ if colour is None else colour
        self._shown = 0

    def line(self, text: str = "") -> None:
        """One line."""
        print(text, file=self._out, flush=True)

    def progress(self, text: str) -> None:
        """A line that the next one replaces; nothing where there is no terminal."""
        if self.live:
            print(f"\r\x1b[K{self.style(text, DIM)}", end="", file=self._out, flush=True)

    def clear(self) -> None:
        """Ends a line of progress."""
        if self.live:
            print("\r\x1b[K", end="", file=self._out, flush=True)

    def style(self, text: str, *codes: str) -> str:
        """``text`` in a style, where there are any."""
        return f"{''.join(codes)}{text}{RESET}" if self._colour and codes else text

    def legend(self) -> None:
        """What marks mean."""
        if self._colour:
            marked = "  ".join(self.style(f" {name} ", code) for name, code in COLOURS.items())
            underlined = self.style("underlined", UNDERLINE)
            self.line(f"marks: {marked}  a probe direction fired;  {underlined}  only its latents did")
        else:
            self.line(
                "marks: [token|feature] a probe direction fired; [token|~feature] only latents of its concept did"
            )
        self.line("A mark is correlational evidence from the model's activations, not a verdict on the text.")

    def begin(self, view: View) -> None:
        """The head of a request."""
        self._shown = 0
        self.line()
        self.line(self.style(f"── {view.title}" + (f"  ({view.kind.replace('_', ' ')})" if view.kind else ""), BOLD))

    def grow(self, view: View, upto: int) -> None:
        """Shows tokens up to position ``upto``."""
        for position in range(self._shown, min(upto + 1, len(view.pieces))):
            if position == view.prompt_len:
                print(self.style("\n» ", BOLD), end="", file=self._out)
            print(self.token(view, position), end="", file=self._out, flush=True)
            self._shown = position + 1

    def end(self, view: View, coverage: str) -> None:
        """What fired, and how much was seen."""
        self.grow(view, len(view.pieces))
        self.line()
        for text in summary(view):
            self.line(f"   {text}")
        self.line(self.style(f"   {coverage}", DIM))

    def token(self, view: View, position: int) -> str:
        """One token's text with its marks."""
        text = _CONTROL.sub("·", view.pieces[position])
        strongest = view.marked(position)
        if strongest is None or not text.strip():
            return self.style(text, DIM) if position < view.prompt_len else text
        lead = text[: len(text) - len(text.lstrip())]
        word = text[len(lead) :]
        if not self._colour:
            return f"{lead}[{word}|{'' if strongest.probe else '~'}{strongest.feature}]"
        return lead + self.style(word, COLOURS[kind_of(strongest.category)] if strongest.probe else UNDERLINE)


def summary(view: View) -> list[str]:
    """One line for each probe that fired, its concept's latents below it; the other latents are only counted."""
    found: dict[str, list[tuple[int, Mark]]] = {}
    for position, marks in view.marks.items():
        for mark in marks:
            found.setdefault(mark.feature, []).append((position, mark))
    concepts = view.concepts()
    shown = {name: fired for name, fired in found.items() if fired[0][1].concept in concepts}
    peaks = {name: max(mark.value for _, mark in fired) for name, fired in found.items()}
    leads = {fired[0][1].concept: peaks[name] for name, fired in shown.items() if fired[0][1].probe}

    def order(name: str) -> tuple[float, str, bool, float]:
        mark = shown[name][0][1]
        return -leads[mark.concept], mark.concept, not mark.probe, -peaks[name]

    lines = [_feature_line(view, name, shown[name]) for name in sorted(shown, key=order)] or ["no probe fired"]
    others = len(found) - len(shown)
    return lines + ([f"latents of {others} further features fired; none of their probes did"] if others else [])


def _feature_line(view: View, name: str, fired: Sequence[tuple[int, Mark]]) -> str:
    peak, mark = max(fired, key=lambda item: item[1].value)
    tokens = {position for position, _ in fired}
    prompt = sum(position < view.prompt_len for position in tokens)
    where = f"{prompt} prompt, {len(tokens) - prompt} answer tokens"
    piece = _CONTROL.sub("·", view.pieces[peak]).strip() if peak < len(view.pieces) else "?"
    return f"{name:<26} {mark.category:<18} {where:<32} peak {mark.value:6.2f} at “{piece}”  {mark.label}"


def coverage_line(*, fed: int, encoded: int, missed: Mapping[str, int], tokens_per_s: float, lag_ms: float) -> str:
    """How much of a request was seen, and how soon."""
    share = encoded / fed if fed else 1.0
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(missed.items()) if count) or "none"
    return (
        f"coverage {share:.1%} of {fed} tokens fed (missed: {reasons})  ·  "
        f"{tokens_per_s:.0f} tokens/s  ·  lag {lag_ms:.0f} ms"
    )
