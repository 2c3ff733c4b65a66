"""Which features fire together: of each request a few pairs, hashed into a bounded number of buckets.

There are more pairs than can be counted: two thousand features have two million. Of a request's 32 features that fire
highest beside how they usually do, 16 are drawn by a hash of the request and the feature, and their 120 pairs are
hashed into 2^18 buckets. A request has one vote for a bucket. What is kept of a block are the features that were drawn,
so that blocks are added up by putting them together, in any order, and an alarm can say which pairs it is about.

A request that fires at least 32 features shows a pair of them with a chance of 16/32 x 15/31 = 0.24.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saewatch.monitor.drift.counts import DRAWN, F64, I32, I64, Column, Indices

STRONGEST = 32
BUCKET_BITS = 18
BUCKETS = 2**BUCKET_BITS
NOBODY = -1
END = 2**31 - 1
"""In the place of nobody while features are put in order."""
LAST = np.uint64(2**63)
OFTEN = 1.5
STEPS = 1024
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Votes:
    """Of some requests: ``[V]`` each, one entry for each request and bucket."""

    request: Indices
    bucket: Indices
    first: I32  # the pair; of two of a request's pairs that fall into one bucket, either
    second: I32


def key_of(engine_id: str, child: int) -> int:
    """A number of 64 bits for a request: which of its features are drawn depends on it."""
    return int.from_bytes(hashlib.blake2b(f"{engine_id}/{child}".encode(), digest_size=8).digest(), "little")


def strongest(feature: Indices, mark: F64) -> Indices:
    """At most 32 of a request's features. ``feature``: each once, ascending; ``mark``: how high."""
    if len(feature) <= STRONGEST:
        return feature
    return feature[np.argpartition(-mark, STRONGEST - 1)[:STRONGEST]]


def drawn(strong: list[Indices], keys: list[int]) -> I32:
    """``[R, 16]`` of requests' strongest features, ascending, then -1; ``keys``: of `key_of`."""
    table = np.full((len(strong), STRONGEST), NOBODY, np.int64)
    table[np.arange(STRONGEST) < np.array([len(one) for one in strong])[:, None]] = np.concatenate(strong)
    order = mixed(table.astype(np.uint64) ^ np.array(keys, np.uint64)[:, None]) >> np.uint64(1)
    order[table == NOBODY] = LAST
    chosen = np.argpartition(order, DRAWN - 1, axis=1)[:, :DRAWN]
    found = np.take_along_axis(table, chosen, axis=1)
    found[found == NOBODY] = END
    found.sort(axis=1)
    found[found == END] = NOBODY
    return found.astype(np.int32)


def votes(requests: I32) -> Votes:
    """Of requests ``[R, 16]``."""
    left, right = np.triu_indices(DRAWN, 1)
    first, second = requests[:, left], requests[:, right]
    request, pair = np.nonzero(second != NOBODY)
    first, second = first[request, pair], second[request, pair]
    bucket = bucket_of(first, second)
    _, once = np.unique(request * BUCKETS + bucket, return_index=True)
    return Votes(request=request[once], bucket=bucket[once], first=first[once], second=second[once])


def bucket_of(first: I32, second: I32) -> I64:
    """Of pairs, the smaller feature first."""
    pair = first.astype(np.uint64) << np.uint64(32) | second.astype(np.uint64)
    found: I64 = (mixed(pair) >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)
    return found


def mixed(value: U64) -> U64:
    """Splitmix64's finish (Steele, Lea and Flood, 2014): each bit depends on every other."""
    found = value + np.uint64(0x9E3779B97F4A7C15)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return found ^ (found >> np.uint64(31))


def counted(requests: I32, weight: F64) -> tuple[Votes, F64]:
    """Votes, and what each is worth: the product of its features' weights ``[F]``, in steps that add up exactly."""
    found = votes(requests)
    worth: F64 = np.rint(STEPS * weight[found.first] * weight[found.second]) / STEPS
    return found, worth


def weights(fired: Column, usual: F64) -> F64:
    """``[F]`` what a vote is worth by how often its feature fires in the block, and is to be expected to (``usual``).

    Features that fire more often are together more often: a topic that comes up, a long session. Up to half as often
    again nothing is taken off, since a new pair lets its own features fire more often too.
    """
    found: F64 = np.minimum(1.0, OFTEN * (usual + 1.0) / (fired + 1.0))
    return found
