"""Scoring: which features fire on which tokens of a text, without serving. For notebooks and CI.

    scorer = Scorer.load("path/of/the/model", "path/of/the/bundle")
    scores = scorer.score(["some text", "another one"])
    scores.frame()

A transformers model, and the tap that serves behind it (`engine.hf`). A text's tokens are those that the server would
give it: with the tokenizer's own special tokens for a text, with the model's chat template and a generation prompt for
messages. Each text is one forward pass over its own tokens, without padding: no number depends on the other texts. An
answer is greedy, and what it was generated from is read again with it, as one sequence; its last token is never fed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from saewatch.core.catalogue import Catalogue
from saewatch.core.errors import ConfigError
from saewatch.core.records import StreamOpen
from saewatch.engine.batching import Encoded
from saewatch.engine.hf import HfTap, Seen
from saewatch.monitor.tables import KnownDictionary, StreamIdentity, WatchTable, join
from saewatch.score.loading import DTYPES, load_model, tokenizer_of
from saewatch.score.results import Coverage, Fired, Peak, Scored, Scores, Token, total
from saewatch.score.rows import places, rows_at, rows_at_each
from saewatch.score.spliced import cross_entropy

__all__ = [
    "DTYPES",
    "Coverage",
    "Exchange",
    "Fired",
    "Peak",
    "Scored",
    "Scorer",
    "Scores",
    "Token",
    "cross_entropy",
    "load_model",
    "places",
    "rows_at",
    "rows_at_each",
    "total",
]

BEHIND = 8
"""Tokens before a token that are decoded with it: no character has as many."""
NAMED = 16
"""Features or categories that a refusal lists."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Token ids of a prompt, and of an answer that was given to it."""

    prompt: Sequence[int]
    answer: Sequence[int] = ()


Given = str | Exchange | Iterable[Any]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A text as the model takes it."""

    prompt: list[int]
    answer: list[int] = field(default_factory=list)
    cut: int = 0


class Scorer:
    """A model, its tokenizer and a dictionary.

    Args:
        model: of transformers, as `engine.hf` takes it.
        tokenizer: its own; None: only token ids can be scored.
        bundle: the dictionary's folder.
        folder: of the model's files, where its weights are as they stand there; without it only the fit of the shapes
            is checked, not of the digests.
        features: ids; none: all.
        categories: only features of these; none: all.
        mode: exact | thresholded, for latents that compete.

    Raises:
        SaewatchError: as `HfTap`; ConfigError for a feature or category that the catalogue does not have.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        bundle: str | Path,
        *,
        folder: str | Path | None = None,
        features: Collection[str] = (),
        categories: Collection[str] = (),
        mode: str = "exact",
    ) -> None:
        self.model, self.tokenizer, self._no_tokenizer = model, tokenizer, "none"
        self._tap = HfTap(model, Path(bundle), folder=Path(folder) if folder else None, mode=mode)
        chosen = _chosen(self._tap.bundle.catalogue, features, categories)
        self._tap.watch([one.id for one in chosen.features])
        self.table = _table(self._tap, chosen)

    @classmethod
    def load(
        cls,
        model: str | Path,
        bundle: str | Path,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        progress: bool = True,
        **chosen: Any,
    ) -> Self:
        """With the model in a folder, or of a name that transformers knows. Weights are read from safetensors only.

        Args:
            model: its folder or name.
            bundle: the dictionary's folder.
            dtype: a name of ``DTYPES``.
            device: where the model and the encoder are.
            progress: show transformers' bars while it loads.
            chosen: features, categories and mode.

        Raises:
            UnreachableError: there is no such model, or it cannot be read.
            ConfigError: it is no model that transformers knows.
            SaewatchError: as the class.
        """
        loaded, folder = load_model(str(model), dtype=dtype, device=device, progress=progress)
        tokenizer, why = tokenizer_of(str(model))
        made = cls(loaded, tokenizer, bundle, folder=folder, **chosen)
        made._no_tokenizer = why
        return made

    @property
    def opening(self) -> StreamOpen:
        """What a stream of it would open with: digests, hook point, and how far the dictionary's fit is proven."""
        return self._tap.opening

    @property
    def limit(self) -> int:
        """Tokens that the model takes, prompt and answer together."""
        return int(self.model.config.max_position_embeddings)

    def score(self, given: Given, *, generate: int = 0, cut: bool = False) -> Scores:
        """What fires on ``given``; see `each`."""
        return self.together(self.each(given, generate=generate, cut=cut))

    def together(self, texts: Iterable[Scored]) -> Scores:
        """Texts of `each` as one result."""
        return Scores(texts, self.table)

    def each(
        self, given: Given, *, generate: int = 0, cut: bool = False, names: Sequence[str] = ()
    ) -> Iterator[Scored]:
        """One text after the other. All of them are tokenised and checked before the first is read.

        Args:
            given: a text, its token ids, chat messages (mappings with role and content), an `Exchange`; or a list of
                any of these. A text without a token gives an empty result.
            generate: tokens of an answer to generate, greedily, to each prompt without one; 0: no answer.
            cut: leave out what exceeds the model's limit, instead of refusing it.
            names: what a refusal calls each text; ``texts[0]`` and so on without them.

        Raises:
            ConfigError: a text that cannot be tokenised, or is too long; a token that the model does not have.
        """
        if generate < 0:
            raise ConfigError("generate", found=generate, expected="tokens of an answer, or 0 for none")
        texts = _many(given)
        subjects = names or [f"texts[{index}]" for index in range(len(texts))]
        ready = [self._ready(subject, one, generate, cut=cut) for subject, one in zip(subjects, texts, strict=True)]
        return (self._scored(index, one, generate) for index, one in enumerate(ready))

    def rows(self, given: Given, *, cut: bool = False, names: Sequence[str] = ()) -> Iterator[tuple[list[int], Tensor]]:
        """The tokens of each text, and what the model has at the dictionary's hook point there, ``[T, d_in]``.

        Nothing is left out: what the dictionary excludes is among them. Raises as `each` does.
        """
        for one in self.tokens(given, cut=cut, names=names):
            ids = [*one.prompt, *one.answer]
            if ids:
                yield ids, rows_at(self.model, self.opening.hook_point, ids)

    def tokens(self, given: Given, *, cut: bool = False, names: Sequence[str] = ()) -> list[Exchange]:
        """Each text as the model takes it; `rows` and `each` take these too. Raises as `each` does."""
        texts = _many(given)
        subjects = names or [f"texts[{index}]" for index in range(len(texts))]
        ready = [self._ready(subject, one, 0, cut=cut) for subject, one in zip(subjects, texts, strict=True)]
        return [Exchange(one.prompt, one.answer) for one in ready]

    def _ready(self, subject: str, given: Any, generate: int, *, cut: bool) -> _Ready:
        """ConfigError unless the model can take it."""
        prompt, answer = self._ids(subject, given)
        vocabulary = self.model.get_input_embeddings().num_embeddings
        for token in (*prompt, *answer):
            if not 0 <= token < vocabulary:
                raise ConfigError(f"{subject}: token", found=token, expected=f"an id below {vocabulary}")
        room = self.limit - (len(answer) or generate)
        if room < 1 or (len(prompt) > room and not cut):
            found = f"{len(prompt)} tokens and an answer of {len(answer) or generate}"
            hint = "Cut it (cut=True, --cut), or ask for a shorter answer."
            raise ConfigError(subject, found=found, expected=f"at most {self.limit} together", hint=hint)
        return _Ready(prompt[:room], answer, cut=max(0, len(prompt) - room))

    def _ids(self, subject: str, given: Any) -> tuple[list[int], list[int]]:
        """Prompt and answer."""
        if isinstance(given, Exchange):
            return list(map(int, given.prompt)), list(map(int, given.answer))
        if isinstance(given, str):
            try:
                given.encode()
            except UnicodeEncodeError as error:
                found, expected = "half a surrogate pair", "text that UTF-8 can have"
                raise ConfigError(subject, found=found, expected=expected) from error
            return list(self._needed(subject)(given, verbose=False)["input_ids"]), []
        items = list(given)
        if items and isinstance(items[0], Mapping):
            return self._chat(subject, items), []
        return list(map(int, items)), []

    def _chat(self, subject: str, messages: list[Any]) -> list[int]:
        tokenizer = self._needed(subject)
        try:
            found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        except Exception as error:  # a template is a program, and says what it likes
            expected = "messages that the chat template takes"
            raise ConfigError(subject, found=f"{error!s:.200}", expected=expected) from error
        return list(found["input_ids"])

    def _needed(self, subject: str) -> Any:
        if self.tokenizer is None:
            hint = "Give token ids, or a tokenizer."
            raise ConfigError(f"{subject}: tokenizer", found=self._no_tokenizer, expected="the model's own", hint=hint)
        return self.tokenizer

    def _scored(self, index: int, ready: _Ready, generate: int) -> Scored:
        answer = ready.answer
        if generate and ready.prompt and not answer:
            answer = self._generated(ready.prompt, generate)
        ids = [*ready.prompt, *answer]
        fed = ids[:-1] if answer else ids
        seen = self._tap.read(fed) if fed else Seen(Encoded.empty(), 0)
        found = seen.encoded
        firing, feature = self.table.fired(found.slot, found.value)
        return Scored(
            index=index,
            ids=np.array(ids, np.int64),
            pieces=self.pieces(ids),
            prompt_len=len(ready.prompt),
            excluded=found.excluded,
            not_finite=seen.not_finite,
            cut=ready.cut,
            position=found.row[firing],
            slot=found.slot[firing],
            feature=feature,
            value=found.value[firing],
            table=self.table,
        )

    def _generated(self, prompt: list[int], count: int) -> list[int]:
        ids = torch.tensor([prompt], device=self.model.device)
        asked = {"max_new_tokens": count, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        with torch.no_grad():
            found = self.model.generate(ids, attention_mask=torch.ones_like(ids), **asked)
        return [int(token) for token in found[0, len(prompt) :]]

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text that each token adds; a character of several tokens comes with the last of them."""
        if self.tokenizer is None:
            return ("",) * len(ids)
        found = []
        for index in range(len(ids)):
            start = max(0, index - BEHIND)
            before, after = (self._decoded(list(ids[start:stop])) for stop in (index, index + 1))
            found.append(after[len(before) :])
        return tuple(found)

    def _decoded(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text.rstrip("\N{REPLACEMENT CHARACTER}")


def _many(given: Any) -> list[Any]:
    """A list of texts from whatever was given."""
    if isinstance(given, str | Exchange):
        return [given]
    items = given.tolist() if hasattr(given, "tolist") else list(given)
    return [items] if items and isinstance(items[0], Integral | Mapping) else items


def _chosen(catalogue: Catalogue, ids: Collection[str], categories: Collection[str]) -> Catalogue:
    known = {
        "feature": {one.id for one in catalogue.features},
        "category": {one.category for one in catalogue.features},
    }
    for kind, names in (("feature", ids), ("category", categories)):
        for name in names:
            if name not in known[kind]:
                there = sorted(known[kind])
                more = [f"{len(there) - NAMED} more"] if len(there) > NAMED else []
                hint = f"It has {', '.join(there[:NAMED] + more)}."
                raise ConfigError(kind, found=repr(name), expected=f"a {kind} of the catalogue", hint=hint)
    found = tuple(one for one in catalogue.chosen(ids) if not categories or one.category in categories)
    if not found and (ids or categories):  # a dictionary without features has rows all the same
        raise ConfigError("features", found="none", expected="at least one that is named and of such a category")
    return replace(catalogue, features=found)


def _table(tap: HfTap, chosen: Catalogue) -> WatchTable:
    """What the tap's slots mean, as the sidecar would join it, for the chosen features only."""
    bundle = tap.bundle
    known = KnownDictionary(
        manifest=bundle.manifest,
        catalogue=chosen,
        weights_digest=bundle.sheet.weights,
        catalogue_digest=bundle.sheet.catalogue,
    )
    return join(tap.watch_sets(), number=1, stream=StreamIdentity(number=1, opening=tap.opening, dictionary=known))
