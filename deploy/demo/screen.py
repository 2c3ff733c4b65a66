"""How the demo shows a request: its text with the tokens marked on which something fired, and what that was.

On a terminal tokens appear as they are known, coloured by category; elsewhere a request is some plain lines once it is
complete. A mark is a correlation between activations and a label, and nothing more; the legend says so.

Probes lead: their tokens are marked. Where a concept's probe fired, its group of latents explains: the tokens on which
the group's linear head finds most are marked too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

RESET, BOLD, DIM, UNDERLINE = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[4m"
COLOURS = {"safety": "\x1b[41;97m", "bias": "\x1b[45;97m", "behaviour": "\x1b[43;30m"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def kind_of(category: str) -> str:
    """safety, bias or behaviour, by the category's prefix."""
    return "bias" if category.startswith("bias.") else "behaviour" if category.startswith("x.") else "safety"


EXPLAINED = 3
"""Tokens of a group that are marked: those that speak most for the concept."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One feature on one token."""

    feature: str
    label: str
    category: str
    value: float  # a probe's score; of a group, what its linear head makes of this token
    probe: bool  # a direction: what alerts would be made from; else a group of latents, which explains

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

    def marked(self) -> dict[int, Mark]:
        """What each token is marked with: a probe that fired, else a group among the first of its concept."""
        found: dict[int, Mark] = {}
        for group in self.groups().values():
            for position, mark in group:
                if position not in found or found[position].value < mark.value:
                    found[position] = mark
        return found | {
            position: max(probes, key=lambda mark: mark.value)
            for position, marks in self.marks.items()
            if (probes := [mark for mark in marks if mark.probe])
        }

    def probes(self) -> dict[str, list[tuple[int, Mark]]]:
        """By concept the tokens on which its probe fired, the greatest value first; concepts by that value."""
        return self._ordered(lambda mark: mark.probe)

    def groups(self) -> dict[str, list[tuple[int, Mark]]]:
        """By concept whose probe fired, the tokens that speak most for it by its latents."""
        probes = self.probes()
        found = self._ordered(lambda mark: not mark.probe and mark.concept in probes)
        shown = {concept: [item for item in tokens if self._text(item[0])] for concept, tokens in found.items()}
        return {concept: tokens[:EXPLAINED] for concept, tokens in shown.items()}

    def quoted(self, position: int) -> str:
        """A token's text in quotes."""
        text = self._text(position)
        return f"“{text}”" if text else "the chat template"

    def _text(self, position: int) -> str:
        return _CONTROL.sub("·", self.pieces[position]).strip() if position < len(self.pieces) else ""

    def _ordered(self, wanted: Callable[[Mark], bool]) -> dict[str, list[tuple[int, Mark]]]:
        found: dict[str, list[tuple[int, Mark]]] = {}
        for position, marks in self.marks.items():
            for mark in filter(wanted, marks):
                found.setdefault(mark.concept, []).append((position, mark))
        for tokens in found.values():
            tokens.sort(key=lambda item: -item[1].value)
        return dict(sorted(found.items(), key=lambda item: -item[1][0][1].value))


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
            self.line(f"marks: {marked}  a probe direction fired;  {underlined}  its latents say most here")
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
        marked = view.marked()
        for position in range(self._shown, min(upto + 1, len(view.pieces))):
            if position == view.prompt_len:
                print(self.style("\n» ", BOLD), end="", file=self._out)
            print(self.token(view, position, marked.get(position)), end="", file=self._out, flush=True)
            self._shown = position + 1

    def end(self, view: View, coverage: str) -> None:
        """What fired, and how much was seen."""
        self.grow(view, len(view.pieces))
        self.line()
        for text in summary(view):
            self.line(f"   {text}")
        self.line(self.style(f"   {coverage}", DIM))

    def token(self, view: View, position: int, mark: Mark | None) -> str:
        """One token's text with its mark."""
        text = _CONTROL.sub("·", view.pieces[position])
        if mark is None or not text.strip():
            return self.style(text, DIM) if position < view.prompt_len else text
        lead = text[: len(text) - len(text.lstrip())]
        word = text[len(lead) :]
        if not self._colour:
            return f"{lead}[{word}|{mark.feature if mark.probe else f'~{mark.concept}'}]"
        return lead + self.style(word, COLOURS[kind_of(mark.category)] if mark.probe else UNDERLINE)


def summary(view: View) -> list[str]:
    """For each concept whose probe fired: where, how strongly, and on which tokens its latents say most."""
    groups, lines = view.groups(), []
    for concept, fired in view.probes().items():
        peak, mark = fired[0]
        prompt = sum(position < view.prompt_len for position, _ in fired)
        lines.append(
            f"{mark.feature:<26} {mark.category:<18} {prompt} prompt, {len(fired) - prompt} answer tokens   "
            f"peak {mark.value:.2f} at {view.quoted(peak)}   {mark.label}"
        )
        said = ", ".join(f"{view.quoted(position)} {one.value:.1f}" for position, one in groups.get(concept, ()))
        lines += [f"{'':<26} its latents say most on {said}"] if said else []
    return lines or ["no probe fired"]


def coverage_line(*, fed: int, encoded: int, missed: Mapping[str, int], tokens_per_s: float, lag_ms: float) -> str:
    """How much of a request was seen, and how soon."""
    share = encoded / fed if fed else 1.0
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(missed.items()) if count) or "none"
    return (
        f"coverage {share:.1%} of {fed} tokens fed (missed: {reasons})  ·  "
        f"{tokens_per_s:.0f} tokens/s  ·  lag {lag_ms:.0f} ms"
    )
