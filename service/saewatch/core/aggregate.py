"""Aggregates: what a feature did in a request, as one number. A limit is then a number too, and "fires" is
``score > limit``.

    max       the largest value                  top3   the mean of the 3 largest
    3of10     the largest, over windows of 10 tokens, of the third largest in the window
    run4      the largest, over runs of 4 tokens, of the smallest in the run
    mean      the mean over the scope

Values are above 0, since floors are not below it. A token on which nothing fired counts 0, and so does what a short
request lacks of 3 tokens: but for the mean, a token more never makes a score smaller. Tokens that take no part
(excluded, or not seen) are as if they were not there: a window goes on behind them. If it broke there, whoever can put
such a token into a text could split every run. A request without any token in the scope has no score: NaN, and never 0,
because nothing was looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import F32, F64
from saewatch.core.catalogue import Feature
from saewatch.core.checks import below, finite, same_length
from saewatch.core.errors import ConfigError, RecordError

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_SPELT = re.compile(
    r"(?P<max>max)|(?P<mean>mean)|top(?P<top>[1-9]\d{0,2})|(?P<k>[1-9]\d{0,2})of(?P<n>[1-9]\d{0,2})|run(?P<run>[1-9]\d{0,2})",
    re.ASCII,
)
_CELLS = 2**20  # of windows that are looked at together: 8 MiB


@dataclass(frozen=True, slots=True)
class Aggregation:
    """One of three: ``mean``; ``top``: the mean of the k largest; ``window``: the k-th largest among n tokens."""

    kind: str
    k: int = 1
    n: int = 1


def read(text: str) -> Aggregation:
    """The aggregation that a catalogue spells so. Raises `ConfigError` for any other text, and for 5of3."""
    found = _SPELT.fullmatch(text)
    if found is None or int(found["k"] or 0) > int(found["n"] or 0):
        expected = "max, mean, topM, KofN with K up to N, or runR"
        raise ConfigError("aggregation", found=f"{text!r:.40}", expected=expected)
    if found["mean"]:
        return Aggregation("mean")
    if found["n"]:
        return Aggregation("window", int(found["k"]), int(found["n"]))
    if found["run"]:
        return Aggregation("window", int(found["run"]), int(found["run"]))
    return Aggregation("top", int(found["top"] or 1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """The tokens of R requests, one request after the other, T in all."""

    start: I64  # [R+1] the first token of each, and T
    prompt_len: I64  # [R]
    scored: Flags  # [T] False: excluded, or not seen

    @classmethod
    def of(cls, lengths: Sequence[int], prompt_len: Sequence[int], scored: Flags) -> Requests:
        """From the tokens of each request."""
        start = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        return cls(start=start, prompt_len=np.array(prompt_len, np.int64), scored=scored)

    @property
    def count(self) -> int:
        """R."""
        return len(self.prompt_len)

    def taking_part(self, scope: str) -> Flags:
        """The tokens that are scored and lie in ``scope`` (all | prompt | reply), ``[T]``."""
        if scope == "all":
            return self.scored
        lengths = np.diff(self.start)
        position = np.arange(len(self.scored)) - np.repeat(self.start[:-1], lengths)
        prompt = position < np.repeat(self.prompt_len, lengths)
        return self.scored & (prompt if scope == "prompt" else ~prompt)

    def tokens(self, scope: str) -> I64:
        """How many they are in each request, ``[R]``."""
        return np.diff(_before(self.taking_part(scope))[self.start])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Firings:
    """Firings of features in any order. Where a feature fires twice on one token, the larger value counts."""

    request: I64  # [K]
    position: I64  # [K]
    feature: I64  # [K]
    unit: I64  # [K] which of the feature's latents it was, as they stand in the catalogue
    value: F32  # [K]


def scores(features: Sequence[Feature], requests: Requests, firings: Firings) -> F64:
    """The score of each feature in each request, ``[features, R]``; NaN where no token was looked at.

    A group with a linear head has the sum of weight * log1p(aggregate of the latent). Raises `RecordError` for firings
    that contradict ``requests``, `ConfigError` for an aggregation that there is not.
    """
    at = _checked(requests, firings, len(features))
    found = np.empty((len(features), requests.count))
    for aggregation, scope in sorted({(one.aggregation, one.scope) for one in features}):
        chosen = [i for i, one in enumerate(features) if (one.aggregation, one.scope) == (aggregation, scope)]
        widths = [max(1, len(features[i].head)) for i in chosen]
        base = np.full(len(features), -1, np.int64)
        base[chosen] = np.concatenate([[0], np.cumsum(widths[:-1])])
        headed = np.array([bool(one.head) for one in features], bool)
        column = base[firings.feature] + np.where(headed[firings.feature], firings.unit, 0)
        own = base[firings.feature] >= 0
        entries = (column[own], firings.request[own], at[own], firings.value[own].astype(np.float64))
        whole = _aggregated(read(aggregation), requests, scope, entries, sum(widths))
        for i, width in zip(chosen, widths, strict=True):
            part = whole[base[i] : base[i] + width]
            found[i] = _headed(features[i].head, part) if features[i].head else part[0]
    return found


def _headed(head: Sequence[float], part: F64) -> F64:
    """One term after the other: a request's score has the same bits whatever it is computed together with."""
    total = np.zeros(part.shape[1])
    for weight, row in zip(head, part, strict=True):
        total += weight * np.log1p(row)
    return total


def _checked(requests: Requests, firings: Firings, features: int) -> I64:
    """Where each firing's token lies among all, ``[K]``."""
    columns = (firings.request, firings.position, firings.feature, firings.unit, firings.value)
    same_length("firings", *columns)
    below("firings.feature", firings.feature, features)
    below("firings.request", firings.request, requests.count)
    finite("firings.value", firings.value)
    at = requests.start[firings.request] + firings.position
    if (firings.position < 0).any() or (at >= requests.start[firings.request + 1]).any():
        raise RecordError("firings.position", found="a position outside of its request", expected="one inside")
    if not requests.scored[at].all():
        raise RecordError("firings", found="one on a token that takes no part", expected="none")
    if (firings.value <= 0).any():
        raise RecordError("firings.value", found=float(firings.value.min()), expected="a value above 0")
    return at


def _aggregated(
    how: Aggregation, requests: Requests, scope: str, entries: tuple[I64, I64, I64, F64], columns: int
) -> F64:
    """``[columns, R]`` from (column, request, token, value) of the firings in any order."""
    part = requests.taking_part(scope)
    tokens = np.diff(_before(part)[requests.start])
    column, request, at, fired = entries
    inside, groups = part[at], columns * requests.count
    group = (column * requests.count + request)[inside]
    rank = (_before(part)[at] - _before(part)[requests.start[request]])[inside]
    group, rank, value = _largest(group, rank, fired[inside])
    if how.kind == "window":
        found = _windows(group, rank, value, groups, how)
    else:
        order = np.lexsort((-value, group))
        group, value = group[order], value[order]
        counts = (_ordinal(group) < how.k) | (how.kind == "mean")
        found = np.zeros(groups)
        np.add.at(found, group[counts], value[counts])
        found /= np.tile(np.maximum(tokens, 1), columns) if how.kind == "mean" else how.k
    found = found.reshape(columns, requests.count)
    found[:, tokens == 0] = np.nan
    return found


def _before(flags: Flags) -> I64:
    """How many are set before each place, and at the end, ``[T+1]``."""
    return np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])


def _largest(group: I64, rank: I64, value: F64) -> tuple[I64, I64, F64]:
    """One entry for each token of a group, ascending, with the largest of its values."""
    order = np.lexsort((-value, rank, group))
    group, rank, value = group[order], rank[order], value[order]
    first = np.ones(len(group), bool)
    first[1:] = (group[1:] != group[:-1]) | (rank[1:] != rank[:-1])
    return group[first], rank[first], value[first]


def _ordinal(group: I64) -> I64:
    """The place of each entry within its group; ``group`` is ascending."""
    return np.arange(len(group)) - np.searchsorted(group, group)


def _windows(group: I64, rank: I64, value: F64, groups: int, how: Aggregation) -> F64:
    """The largest k-th largest value in n consecutive tokens, ``[groups]``.

    Every window is contained, as far as anything fired, in one that begins with a firing: only those are looked at.
    """
    found = np.zeros(groups)
    key = group * (int(rank.max(initial=0)) + 1 + how.n) + rank
    first = np.arange(len(key))
    stop = np.searchsorted(key, key + how.n)
    first, stop = first[stop - first >= how.k], stop[stop - first >= how.k]
    step = max(1, _CELLS // how.n)
    for begin in range(0, len(first), step):
        start, end = first[begin : begin + step, None], stop[begin : begin + step, None]
        place = start + np.arange(how.n)
        block = np.where(place < end, value[np.minimum(place, len(value) - 1)], 0.0)
        largest = np.partition(block, how.n - how.k, axis=1)[:, how.n - how.k]
        np.maximum.at(found, group[start[:, 0]], largest)
    return found
