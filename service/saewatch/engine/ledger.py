"""Which rows of a step were really fed, and to which request and position they belong. Pure: no clock, no device.

A request of ``prompt_len`` tokens that has emitted ``e >= 1`` tokens has fed ``prompt_len + e - 1`` positions: the last
token is not fed before the next step. Before the first emission it has fed what the scheduler computed of the prompt.
From this one definition everything else follows:

- a row is reported iff its position is below *fed* after its step. A rejected draft token, and the surplus row that
  asynchronous scheduling computes after a stop token, lie at or above it;
- a row below the request's frontier was reported before: it is *recomputed* (after a preemption);
- the books' *fed* is the sum of these lengths, counted here and never from rows, so that the two can disagree.

Row positions come from the device; the scheduler's counters are used for the prompt only, where they are right in every
mode. Tokens after a stop token, or beyond the request's own bound, are not emitted, whatever the runner sampled.

A pipeline's stage that does not sample is told no tokens. Without drafts and without steps that run ahead, every
position that the scheduler gave out is one that was fed, and the number of emitted tokens follows from it.

A request that comes again under its id with a longer prompt goes on with its session: what it fed before is part of
that prompt now. It ends and starts anew, and what it need not compute is cached, as for a conversation's next turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import I32, U8, U32, Origin, Reason
from saewatch.core.records import RequestEnd, RequestStart
from saewatch.engine.chain import Chain

Missed = tuple[int, Reason, int]
"""Request, reason, tokens."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """Ends a request whose last tokens are one pattern, several times over (vLLM's `RepetitionDetectionParams`)."""

    shortest: int  # tokens of the pattern
    longest: int
    times: int
    after: int = 0  # emitted tokens before which it ends nothing

    def ends(self, tail: Sequence[int], emitted: int) -> bool:
        """Whether the ``tail`` of a request's tokens, of which there are ``emitted``, is such a repetition."""
        for size in range(max(self.shortest, 1), self.longest + 1) if self.times > 1 and emitted >= self.after else ():
            last = tail[-size * self.times :]
            if len(last) == size * self.times and last[size:] == last[:-size]:
                return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRequest:
    """A request as the scheduler hands it to the worker. One that is known already comes back from a preemption."""

    engine_id: str
    prompt_len: int
    computed: int  # leading positions that need no forward pass
    external: bool = False  # some of these may have been computed elsewhere
    prompt_token_ids: Sequence[int] = ()  # none: not known
    stop_tokens: frozenset[int] = frozenset()
    max_tokens: int = 2**31 - 1
    repetition: Repetition | None = None
    adapter: str = ""
    child: int = 0
    time_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one engine step did, in the runner's row order."""

    number: int
    time_ns: int
    new: Sequence[NewRequest] = ()
    finished: Iterable[str] = ()
    computed: Mapping[str, int] = field(default_factory=dict)  # positions done by this step's end, by the scheduler
    emitted: Mapping[str, Sequence[int]] | None = field(default_factory=dict)  # sampled tokens; None: not known here
    order: Sequence[str] = ()  # requests in the order of their rows, [R]
    starts: I32 | None = None  # [R+1] first row of each request
    positions: I32 | None = None  # [rows] from the device; None: nothing was captured, for the reason below
    reason: Reason = Reason.BLIND


@dataclass(slots=True)
class OpenRequest:
    """One request's books."""

    start: RequestStart
    stop_tokens: frozenset[int]
    max_tokens: int
    chain: Chain | None = None  # None: its tokens are not known, or not needed
    repetition: Repetition | None = None
    frontier: int = 0  # positions that were reported or booked as missed
    prompt_computed: int = 0  # by the scheduler
    emitted: int = 0
    stopped: bool = False
    tail: list[int] = field(default_factory=list)  # emitted tokens, as far as a repetition is looked for

    @property
    def fed(self) -> int:
        """Positions that went through the model, cached ones included."""
        if self.emitted:
            return self.start.prompt_len + self.emitted - 1
        return min(self.prompt_computed, self.start.prompt_len)

    def emit(self, sampled: Sequence[int]) -> None:
        """Counts sampled tokens up to the one that ends the request."""
        for token in sampled:
            if self.stopped:
                return
            self.emitted += 1
            if self.chain is not None:
                self.chain.append(token)
            self.stopped = token in self.stop_tokens or self.emitted >= self.max_tokens or self._repeats(token)

    def follow(self, computed: int) -> None:
        """Counts the tokens that the scheduler must have had for ``computed`` positions, where none can be seen."""
        self.emitted = max(self.emitted, computed - self.start.prompt_len + 1)

    def _repeats(self, token: int) -> bool:
        if self.repetition is None:
            return False
        self.tail = [*self.tail, token][-self.repetition.longest * self.repetition.times :]
        return self.repetition.ends(self.tail, self.emitted)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Positions of a request that needed no forward pass: another request's blocks were read."""

    request: int
    first: int
    stop: int
    external: bool = False
    """Some of them may have been computed elsewhere: what fired there is never replayed."""

    @property
    def tokens(self) -> int:
        """How many they are."""
        return self.stop - self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The rows of a step that count, and what changed in the books."""

    started: tuple[RequestStart, ...]
    ended: tuple[RequestEnd, ...]
    fed: int  # positions fed since the step before
    missed: tuple[Missed, ...]
    skipped: tuple[Skipped, ...] = ()  # fed as well: each stream may have kept what fired there, or not
    row: I32  # [rows] row of the step's buffer
    request: U32  # [rows]
    position: I32  # [rows]
    origin: U8  # [rows] Origin


class Ledger:
    """All requests of one engine, in the order of its steps. ``block``: tokens of a block; 0: no tokens are kept."""

    def __init__(self, *, block: int = 0) -> None:
        self._open: dict[str, OpenRequest] = {}
        self._numbers = 0
        self._block = block
        self.chains: dict[int, Chain] = {}
        """The tokens of open requests, where they are known."""

    @property
    def starts(self) -> list[RequestStart]:
        """The open requests, for a sidecar that has just connected."""
        return [request.start for request in self._open.values()]

    def settle(self, step: Step) -> Settled:
        """Applies one step; steps must come in order."""
        ended = tuple(self._ends([*step.finished, *self._gone_on(step.new)]))
        missed: list[Missed] = []
        skipped: list[Skipped] = []
        started = tuple(self._starts(step.new, skipped))
        touched = {name: request for name in step.computed if (request := self._open.get(name))}
        before = sum(request.fed for request in touched.values())
        for name, request in touched.items():
            request.prompt_computed = max(request.prompt_computed, step.computed[name])
            if step.emitted is None:
                request.follow(step.computed[name])
            else:
                request.emit(step.emitted.get(name, ()))
        fed = sum(request.fed for request in touched.values()) - before
        if step.positions is None:
            missed.extend(_uncaptured(touched.values(), step.reason))
            rows = _stack([])
        else:
            rows = _stack(list(self._rows(step)))
        return Settled(started=started, ended=ended, fed=fed, missed=tuple(missed), skipped=tuple(skipped), **rows)

    def _ends(self, finished: Iterable[str]) -> Iterable[RequestEnd]:
        for name in finished:
            request = self._open.pop(name, None)
            if request is not None:
                self.chains.pop(request.start.request, None)
                yield RequestEnd(request=request.start.request, fed=request.fed, emitted=request.emitted)

    def _gone_on(self, new: Sequence[NewRequest]) -> Iterable[str]:
        """Sessions that are known, and come with what was fed meanwhile as part of their prompt."""
        for item in new:
            request = self._open.get(item.engine_id)
            if request is not None and item.prompt_len > request.start.prompt_len:
                yield item.engine_id

    def _starts(self, new: Sequence[NewRequest], skipped: list[Skipped]) -> Iterable[RequestStart]:
        for item in new:
            request = self._open.get(item.engine_id)
            if request is None:
                request = self._open[item.engine_id] = self._opened(item)
                yield request.start
            elif request.chain is not None and not request.chain.begins_with(item.prompt_token_ids):
                request.chain = None  # it goes on with other tokens
                del self.chains[request.start.request]
            if item.computed > request.frontier:  # never computed here: another request's blocks are read
                skipped.append(Skipped(request.start.request, request.frontier, item.computed, item.external))
                request.frontier = item.computed

    def _opened(self, item: NewRequest) -> OpenRequest:
        self._numbers += 1
        start = RequestStart(
            request=self._numbers,
            engine_id=_short(item.engine_id),
            child=item.child,
            prompt_len=item.prompt_len,
            cached=item.computed,
            cached_from=("external" if item.external else "prefix") if item.computed else "",
            adapter=_short(item.adapter),
            time_ns=item.time_ns,
        )
        request = OpenRequest(
            start=start, stop_tokens=item.stop_tokens, max_tokens=item.max_tokens, repetition=item.repetition
        )
        if self._block and len(item.prompt_token_ids) == item.prompt_len:
            request.chain = Chain(item.prompt_token_ids, block=self._block, adapter=item.adapter)
            self.chains[start.request] = request.chain
        return request

    def _rows(self, step: Step) -> Iterable[tuple[int, int, int, int, int]]:
        """First row, request, first position, rows that count, and how many of them are recomputed."""
        assert step.starts is not None, "a captured step has rows"
        assert step.positions is not None, "a captured step has positions"
        starts = step.starts.tolist()
        for name, first, last in zip(step.order, starts[:-1], starts[1:], strict=True):
            request = self._open.get(name)
            if request is None or last == first:
                continue
            position = int(step.positions[first])
            count = min(max(request.fed - position, 0), last - first)
            again = min(max(request.frontier - position, 0), count)
            request.frontier = max(request.frontier, position + count)
            yield first, request.start.request, position, count, again


def _short(text: str) -> str:
    """``text`` as a frame takes it: without the middleware a client chooses its id, at any length."""
    return text.encode("utf-8", "replace")[: limits.TEXT_BYTES].decode("utf-8", "ignore")


def _uncaptured(requests: Iterable[OpenRequest], reason: Reason) -> Iterable[Missed]:
    for request in requests:
        tokens = request.fed - request.frontier
        if tokens > 0:
            request.frontier = request.fed
            yield request.start.request, reason, tokens


def _stack(spans: list[tuple[int, int, int, int, int]]) -> dict[str, np.ndarray]:  # of four dtypes
    """Columns of one row each from spans of ``(first row, request, position, count, recomputed)``."""
    table = np.asarray(spans, dtype=np.int64).reshape(-1, 5)
    first, request, position, count, again = table.T
    if len(table) == count.sum() == np.count_nonzero(count):  # a token of each request: decoding
        return {
            "row": first.astype(np.int32),
            "request": request.astype(np.uint32),
            "position": position.astype(np.int32),
            "origin": np.where(again, Origin.RECOMPUTED, Origin.COMPUTED).astype(np.uint8),
        }
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    origin = np.where(offset < np.repeat(again, count), Origin.RECOMPUTED, Origin.COMPUTED)
    return {
        "row": (np.repeat(first, count) + offset).astype(np.int32),
        "request": np.repeat(request, count).astype(np.uint32),
        "position": (np.repeat(position, count) + offset).astype(np.int32),
        "origin": origin.astype(np.uint8),
    }
