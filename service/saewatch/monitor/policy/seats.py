"""Requests and subjects that are judged, as columns; and which tokens of a batch are new to them.

A *seat* is a request that is open; a *place* is the subject that is judged: the request itself, or its conversation.
Each position of a request counts once, the first time that it comes. In a conversation tokens are numbered in the order
in which they came, over all its requests.
"""

from __future__ import annotations

import numpy as np

from saewatch.core.batch import FiringBatch, Origin
from saewatch.monitor.policy.machine import NEVER_DUE
from saewatch.monitor.policy.wiring import I64, Tokens

NOWHERE = -1
"""Seat of a request that is not judged."""
_GROWN = 64
_RECOMPUTED = int(Origin.RECOMPUTED)


class Seats:
    """``numbered``: positions are those of the subject, and not of the request."""

    def __init__(self, *, numbered: bool) -> None:
        self._numbered = numbered
        self._place = np.zeros(0, np.int64)  # of each seat
        self._high = np.zeros(0, np.int64)  # … one beyond its last position that came
        self._prompt_len = np.zeros(0, np.int64)
        self._seen = np.zeros((2, 0), np.int64)  # tokens of prompts, and of replies, of each place
        self._next = np.zeros(0, np.int64)  # … one beyond the last position that was judged
        self._due = np.zeros(0, np.int64)  # … the position at which a rule of it changes with time alone
        self._free_seats: list[int] = []
        self._free_places: list[int] = []

    @property
    def places(self) -> int:
        """For how many subjects there are columns."""
        return len(self._next)

    # --- who comes and goes ---------------------------------------------------------------------------------------
    def enter(self) -> int:
        """The place of another subject."""
        if not self._free_places:
            self._grow_places()
        place = self._free_places.pop()
        self._seen[:, place] = self._next[place] = 0
        self._due[place] = NEVER_DUE
        return place

    def leave(self, place: int) -> None:
        """Nothing more is to come of a subject."""
        self._free_places.append(place)

    def sit(self, place: int, prompt_len: int) -> int:
        """The seat of another request of that subject."""
        if not self._free_seats:
            self._grow_seats()
        seat = self._free_seats.pop()
        self._place[seat], self._high[seat], self._prompt_len[seat] = place, 0, prompt_len
        return seat

    def rise(self, seat: int) -> int:
        """A request has ended; gives its place."""
        self._free_seats.append(seat)
        return int(self._place[seat])

    # --- how far a subject is -------------------------------------------------------------------------------------
    def seen(self, place: int) -> tuple[int, int]:
        """Its tokens: of prompts, and of replies."""
        return int(self._seen[0, place]), int(self._seen[1, place])

    def next(self, place: int) -> int:
        """One beyond its last position."""
        return int(self._next[place])

    def put_off(self, place: int, due: int) -> None:
        """A rule of it changes at that position, whatever comes."""
        self._due[place] = due

    def due(self, tokens: Tokens) -> list[int]:
        """Places of these tokens that have come to where a rule of theirs changes."""
        return sorted(set(tokens.place[self._due[tokens.place] < self._next[tokens.place]].tolist()))

    # --- what is new ----------------------------------------------------------------------------------------------
    def fresh(self, batch: FiringBatch, seat: I64) -> Tokens:
        """The rows of a batch whose positions have not come before; ``seat [R]`` of each span's request."""
        length, first, row = (
            batch.lengths.astype(np.int64),
            batch.position.astype(np.int64),
            batch.span_start[:-1].astype(np.int64),
        )
        taken = (seat != NOWHERE) & (batch.origin != _RECOMPUTED)
        if not taken.all():
            seat, length, first, row = seat[taken], length[taken], first[taken], row[taken]
        known = np.minimum(np.maximum(self._high[seat] - first, 0), length)
        if known.any():
            length, first, row = length - known, first + known, row + known
        prompt = np.minimum(np.maximum(self._prompt_len[seat] - first, 0), length)
        place = self._place[seat]
        tokens = self._tokens(row, place, length, prompt, first)
        self._count(seat, place, length, prompt, first)
        return tokens

    def _tokens(self, row: I64, place: I64, length: I64, prompt: I64, first: I64) -> Tokens:
        """Tokens of spans, ``first`` the position at which each begins and ``prompt`` how many of it are a prompt's."""
        in_prompt, in_reply, offset = self._seen[0].take(place), self._seen[1].take(place), np.zeros(1, np.int64)
        if not _distinct(place):
            in_prompt, in_reply = in_prompt + _before(place, prompt), in_reply + _before(place, length - prompt)
        if not (length == 1).all():
            span = np.repeat(np.arange(len(length)), length)
            offset = np.arange(len(span)) - (np.cumsum(length) - length)[span]
            row, place, first, prompt = row[span], place[span], first[span], prompt[span]
            in_prompt, in_reply = in_prompt[span], in_reply[span]
        reply, rank = offset >= prompt, in_prompt + in_reply + offset
        return Tokens(
            row=row + offset,
            place=place,
            position=rank if self._numbered else first + offset,
            reply=reply,
            rank=rank,
            rank_part=np.where(reply, in_reply - prompt, in_prompt) + offset,
        )

    def _count(self, seat: I64, place: I64, length: I64, prompt: I64, first: I64) -> None:
        np.maximum.at(self._high, seat, first + length)
        np.add.at(self._seen[0], place, prompt)
        np.add.at(self._seen[1], place, length - prompt)
        self._next[place] = (
            self._seen[0].take(place) + self._seen[1].take(place) if self._numbered else self._high[seat]
        )

    def _grow_places(self) -> None:
        places = self.places
        more = max(_GROWN, places)
        self._seen = np.concatenate([self._seen, np.zeros((2, more), np.int64)], axis=1)
        self._next = np.concatenate([self._next, np.zeros(more, np.int64)])
        self._due = np.concatenate([self._due, np.zeros(more, np.int64)])
        self._free_places = list(range(places + more - 1, places - 1, -1))

    def _grow_seats(self) -> None:
        seats = len(self._place)
        more = np.zeros(max(_GROWN, seats), np.int64)
        self._place, self._high, self._prompt_len = (
            np.concatenate([column, more]) for column in (self._place, self._high, self._prompt_len)
        )
        self._free_seats = list(range(len(self._place) - 1, seats - 1, -1))


def _distinct(group: I64) -> bool:
    """As in a step of decoding: one span of each."""
    ordered = np.sort(group)
    return not (ordered[1:] == ordered[:-1]).any()


def _before(group: I64, length: I64) -> I64:
    """How much the earlier ones of the same group came to."""
    order = np.argsort(group, kind="stable")
    first = np.ones(len(order), np.bool_)
    first[1:] = group[order[1:]] != group[order[:-1]]
    sums = np.cumsum(length[order]) - length[order]
    before = np.empty(len(order), np.int64)
    before[order] = sums - sums[first][np.cumsum(first) - 1]
    return before
