"""The generated corpus: dialogues with known concepts, as requests with labelled character spans.

Thirteen hazards that a prompt can carry, three behaviours that a reply can show, requests that resemble a hazard and
are none (hard negatives, negations, quotations) and ordinary talk. The phrases are in hazards.toml and innocent.toml.
Their lines are split by number: half `a` is for training and choosing, half `b` for reporting; no line is in both.
Everything is drawn from a seeded generator: the same seed gives the same corpus.
"""

import functools
import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Half = Literal["a", "b"]
HERE = Path(__file__).parent
WHOLE_SENTENCE = "{said}"


@dataclass(frozen=True, slots=True)
class Family:
    """A concept: its catalogue entry, and its phrases as (wording, other wording) with the same content."""

    concept: str
    category: str
    severity: str
    label: str
    reply_side: bool
    asks: tuple[tuple[str, str], ...]
    statements: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of the prompt or of the reply that carry `concept`."""

    concept: str
    in_reply: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Request:
    """One dialogue. `template` names the phrase it was built around, the unit of every resampling."""

    prompt: str
    reply: str
    spans: tuple[Span, ...]
    kind: str  # hazard, behaviour, hard, confound, topic, reply, counterfactual
    template: str
    half: Half

    @property
    def concepts(self) -> frozenset[str]:
        """What the request carries."""
        return frozenset(span.concept for span in self.spans)


@functools.cache
def families() -> Mapping[str, Family]:
    """The sixteen concepts by name."""
    tables = _toml("hazards.toml")
    return {name: _family(name, table) for name, table in tables.items() if name != "slots"}


def _family(name: str, table: Mapping[str, Any]) -> Family:
    pairs = {
        part: tuple((one, other) for line in _lines(table.get(part, "")) for one, other in [line.split(" | ")])
        for part in ("asks", "statements")
    }
    return Family(
        name, table["category"], table["severity"], table["label"], table.get("side") == "reply",
        pairs["asks"], pairs["statements"],
    )  # fmt: skip


@functools.cache
def _toml(name: str) -> Mapping[str, Any]:
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))


def _lines(block: str) -> list[str]:
    return block.strip().splitlines()


def phrases() -> Iterator[str]:
    """Every phrase of the generator, slots and all."""
    for family in families().values():
        for pair in (*family.asks, *family.statements):
            yield from pair
    yield from _leaves(_toml("innocent.toml"))


def _leaves(table: Any) -> Iterator[str]:
    if isinstance(table, str):
        yield from _lines(table)
    elif isinstance(table, dict):
        for part in table.values():
            yield from _leaves(part)


class Generator:
    """Draws requests from one half of the phrases."""

    def __init__(self, half: Half, *, seed: int) -> None:
        self.half: Half = half
        self.random = random.Random(f"{half}{seed}")
        self.innocent = _toml("innocent.toml")
        self.slots: Mapping[str, list[str]] = _toml("hazards.toml")["slots"]

    def hazards(self, count: int) -> list[Request]:
        """`count` requests for each of the sixteen concepts; 8 % carry a second one."""
        return [self._hazard(family, n) for family in families().values() for n in range(count)]

    def innocents(self, count: int) -> list[Request]:
        """`count` requests without a concept: 40 % hard negatives, 15 % confounds, 25 % topics, 20 % honest replies."""
        makers = (self._hard, self._confound, self._topic, self._honest)
        return [self.random.choices(makers, (40, 15, 25, 20))[0](n) for n in range(count)]

    def paraphrases(self, count: int) -> list[tuple[Request, Request]]:
        """`count` pairs per concept that differ in the wording only."""
        return [self._paraphrase(family) for family in families().values() for _ in range(count)]

    def counterfactuals(self) -> list[tuple[str, Request, Request]]:
        """(axis, request, the same request with the other group): innocent, and a probe should not tell them apart."""
        made = []
        for axis, table in self.innocent["counterfactual"].items():
            for number, ask in enumerate(self._half(_lines(table["asks"]))):
                for groups in table["swap"]:
                    slots = self._slots()
                    opener = self.random.choice(self._half(_lines(self.innocent["openers"])))
                    text = opener.format(ask=ask)
                    one, other = (self._swapped(text, group, slots) for group in groups)
                    made.append((axis, *(self._request(t, "counterfactual", f"{axis}.{number}") for t in (one, other))))
        return made

    def _swapped(self, text: str, group: str, slots: Mapping[str, str]) -> str:
        return re.sub(r"\ba (?=[aeiouAEIOU])", "an ", text.format(group=group, **slots))

    def _request(self, prompt: str, kind: str, template: str) -> Request:
        return Request(prompt, "", (), kind, template, self.half)

    def _half(self, items: Any) -> list[Any]:
        return list(items)[0 if self.half == "a" else 1 :: 2]

    def _pick(self, block: str) -> str:
        return str(self.random.choice(self._half(_lines(block))))

    def _slots(self) -> dict[str, str]:
        return {name: self.random.choice(values) for name, values in self.slots.items()}

    def _fill(self, text: str) -> str:
        """Each occurrence of a slot is drawn on its own."""
        return re.sub(r"\{(\w+)\}", lambda found: self.random.choice(self.slots[found[1]]), text)

    # --- hazards --------------------------------------------------------------------------------------------------

    def _hazard(self, family: Family, number: int) -> Request:
        phrase, template = self._phrase(family, self.random.randrange(2))
        if family.reply_side:
            return self._behaviour(family, phrase, template)
        parts: list[tuple[str, str | None]] = [(phrase, family.concept)]
        if self.random.random() < 0.08:
            other = self.random.choice([f for f in families().values() if not f.reply_side and f != family])
            parts.append((self._phrase(other, 0)[0], other.concept))
        elif self.random.random() < 0.25:
            parts.append((self._phrase(family, self.random.randrange(2))[0], family.concept))
        prompt, spans = self._joined(self._surrounded(parts), in_reply=False)
        reply = self._fill(self._pick(self.innocent["replies"]["helpful"])) if number % 2 else ""
        return Request(prompt, reply, spans, "hazard", template, self.half)

    def _behaviour(self, family: Family, phrase: str, template: str) -> Request:
        replies = self.innocent["replies"]
        parts: list[tuple[str, str | None]] = [(phrase, family.concept)]
        if self.random.random() < 0.5:
            parts.append((self._fill(self._pick(replies["helpful"])), None))
        if self.random.random() < 0.3:
            parts.append((self._phrase(family, self.random.randrange(2))[0], family.concept))
        if self.random.random() < 0.3:
            parts.insert(0, (self._fill(self._pick(replies["helpful"])), None))
        reply, spans = self._joined(parts, in_reply=True)
        return Request(self._bait(), reply, spans, "behaviour", template, self.half)

    def _bait(self) -> str:
        if self.random.random() < 0.5:
            return self._fill(self._pick(self.innocent["replies"]["bait"]))
        return self._innocent_sentence("topic" if self.random.random() < 0.5 else "hard")[0]

    def _paraphrase(self, family: Family) -> tuple[Request, Request]:
        lines = self._half(range(len(family.asks) + len(family.statements)))
        line = self.random.choice(lines)
        seed = self.random.random()
        pair = []
        for wording in (0, 1):
            drawn = Generator(self.half, seed=0)
            drawn.random.seed(seed)
            phrase = drawn._sentence(family, line, wording)
            prompt = drawn._bait() if family.reply_side else phrase
            reply = phrase if family.reply_side else ""
            span = Span(family.concept, family.reply_side, 0, len(phrase))
            pair.append(Request(prompt, reply, (span,), "paraphrase", f"{family.concept}.{line}", self.half))
        return pair[0], pair[1]

    def _phrase(self, family: Family, wording: int) -> tuple[str, str]:
        line = self.random.choice(self._half(range(len(family.asks) + len(family.statements))))
        return self._sentence(family, line, wording), f"{family.concept}.{line}"

    def _sentence(self, family: Family, line: int, wording: int) -> str:
        if line >= len(family.asks):
            return _capital(self._fill(family.statements[line - len(family.asks)][wording]))
        opener = self._pick(self.innocent["openers"])
        return _capital(self._fill(opener.replace("{ask}", family.asks[line][wording])))

    # --- innocents ------------------------------------------------------------------------------------------------

    def _hard(self, number: int) -> Request:
        return self._innocent("hard", number)

    def _topic(self, number: int) -> Request:
        return self._innocent("topic", number)

    def _innocent(self, kind: str, number: int) -> Request:
        sentence, template = self._innocent_sentence(kind)
        parts: list[tuple[str, str | None]] = [(sentence, None)]
        if self.random.random() < 0.35:
            parts.append((self._innocent_sentence(kind)[0], None))
        prompt, _ = self._joined(self._surrounded(parts), in_reply=False)
        return Request(prompt, self._reply() if number % 2 else "", (), kind, template, self.half)

    def _innocent_sentence(self, kind: str) -> tuple[str, str]:
        group = self.random.choice(list(self.innocent[kind]))
        table = self.innocent[kind][group]
        choices = [("asks", n) for n in self._half(range(len(_lines(table["asks"]))))]
        choices += [("statements", n) for n in self._half(range(len(_lines(table["statements"]))))]
        part, number = self.random.choice(choices)
        text = _lines(table[part])[number]
        if part == "asks":
            text = self._pick(self.innocent["openers"]).replace("{ask}", text)
        return _capital(self._fill(text)), f"{kind}.{group}.{part}.{number}"

    def _confound(self, number: int) -> Request:
        """A hazard's phrase under a negation or in a quotation: the words without the act."""
        quoted = self.random.random() < 0.5
        fit = [
            f for f in families().values() if not f.reply_side and f.concept != "pii_disclosure" and (quoted or f.asks)
        ]
        family = self.random.choice(fit)
        part = family.statements if quoted else family.asks
        line = self.random.choice(self._half(range(len(part))))
        wording = part[line][self.random.randrange(2)]
        frame = self._pick(self.innocent["quotations" if quoted else "negations"])
        text = frame.replace(WHOLE_SENTENCE if quoted else "{ask}", wording)
        prompt, _ = self._joined(self._surrounded([(_capital(self._fill(text)), None)]), in_reply=False)
        template = f"confound.{family.concept}.{'quotation' if quoted else 'negation'}.{line}"
        return Request(prompt, self._reply() if number % 2 else "", (), "confound", template, self.half)

    def _honest(self, _number: int) -> Request:
        reply = self._reply(honest=True)
        template = "reply." + reply.split(".")[0][:24]
        return Request(self._bait(), reply, (), "reply", template, self.half)

    def _reply(self, *, honest: bool = False) -> str:
        replies = self.innocent["replies"]
        kinds = ["honest" if honest or self.random.random() < 0.3 else "helpful"]
        kinds += ["helpful"] * self.random.randrange(3)
        self.random.shuffle(kinds)
        return " ".join(self._fill(self._pick(replies[kind])) for kind in kinds)

    # --- joining --------------------------------------------------------------------------------------------------

    def _surrounded(self, parts: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
        """`parts` among 0 to 3 fillers (in 10 % of the requests 4 to 12), sometimes with a tail."""
        count = self.random.randrange(4, 13) if self.random.random() < 0.1 else self.random.choice((0, 0, 1, 1, 2, 3))
        out = list(parts)
        for _ in range(count):
            out.insert(self.random.randrange(len(out) + 1), (self._fill(self._pick(self.innocent["fillers"])), None))
        if self.random.random() < 0.25:
            out.append((self._fill(self._pick(self.innocent["tails"])), None))
        return out

    def _joined(self, parts: list[tuple[str, str | None]], *, in_reply: bool) -> tuple[str, tuple[Span, ...]]:
        text, spans = "", []
        for part, concept in parts:
            text += " " if text else ""
            if concept:
                spans.append(Span(concept, in_reply, len(text), len(text) + len(part)))
            text += part
        return text, tuple(spans)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def five_grams(text: str) -> set[tuple[str, ...]]:
    """The sets of five words in a row: what two texts must not share to count as disjoint."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
