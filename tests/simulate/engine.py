"""A pure, seeded simulation of an engine's scheduler and model runner: it makes `ledger.Step`s and knows the truth.

Modelled on vLLM's: chunked prefill under a token budget, prefix-cache hits, preemption with recompute, aborts in every
state, steps without tokens that only finish requests, speculative decoding with rejected drafts, asynchronous
scheduling (a step is scheduled before the tokens of the one before it are known, so that a stopped request has one
surplus row), several children of one request, rows in any order with padding after them, and steps that the tap did not
capture.

The truth is kept position by position, by following which tokens the device was really given: nothing of the ledger's
own arithmetic is used. A row is real when its token is part of the request's final sequence and is not its last token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import numpy as np

from saewatch.core.batch import Origin, Reason
from saewatch.engine.ledger import NewRequest, Step

STOP = 0
"""The token that ends a request."""
PREEMPTIONS_MAX = 3
"""Of one request, so that every simulation ends."""
COMPUTED, RECOMPUTED = int(Origin.COMPUTED), int(Origin.RECOMPUTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What happens, and how often: chances are per step."""

    requests: int = 30
    prompt_max: int = 600
    output_max: int = 200
    running_max: int = 8
    budget: int = 256  # rows of a step
    arrivals: float = 0.5
    stops: float = 0.02  # chance that a sampled token is STOP
    cached: float = 0.3  # chance of a prefix-cache hit
    block: int = 16
    preempted: float = 0.03
    aborted: float = 0.01
    uncaptured: float = 0.1
    drafts: int = 0  # speculative tokens of a decoding request
    asynchronous: bool = False
    children: float = 0.2
    shared: float = 0.0  # chance that a prompt begins as an earlier request, or all but its first token


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A step, and what a perfect observer would report of it."""

    step: Step
    rows: list[tuple[int, str, int, int]]  # (row, request, position, origin) in row order
    missed: dict[tuple[str, Reason], int]


@dataclass(slots=True, eq=False)
class Request:
    """A request as the scheduler and the device know it."""

    name: str
    prompt_len: int
    max_tokens: int
    child: int
    ids: list[int]  # its prompt, and what the device has sampled
    sampled: int = 0  # tokens that the device has sampled, those after the end included
    ended_at: int | None = None  # emitted tokens, once the device sampled the last one
    done: int = 0  # positions whose keys and values the device holds
    counted: int = 0  # the scheduler's own counter, which drafts make too large
    known: bool = False  # the worker has seen it
    preemptions: int = 0
    waiting_until: int = 0  # first step in which it may be scheduled again
    seen: dict[int, Reason | None] = field(default_factory=dict)  # real positions; why one was missed the first time

    @property
    def emitted(self) -> int:
        """Tokens of its answer."""
        return self.sampled if self.ended_at is None else self.ended_at

    @property
    def tokens(self) -> int:
        """Tokens that the device can be given, without drafts."""
        return self.prompt_len + self.sampled


class Engine:
    """Scheduler and runner. ``requests`` are all that there ever were, by their names."""

    def __init__(self, traffic: Traffic, seed: int) -> None:
        self.traffic = traffic
        self.random = Random(seed)
        self._ids = Random(seed)  # apart: other prompts, and the same steps
        self.requests: dict[str, Request] = {}
        self.over: set[str] = set()  # finished or aborted, as far as the scheduler knows
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._finished: list[str] = []
        self._unknown: list[Request] = []  # ended on the device in the step before; told after the next is scheduled
        self._arrived = 0
        self._number = 0

    def steps(self) -> Iterator[Simulated]:
        """Until every request is over and that was told."""
        while self._arrived < self.traffic.requests or self._waiting or self._running or self._finished:
            self._number += 1
            self._arrive()
            self._abort()
            self._preempt()
            finished, self._finished = self._finished, []
            learnt, self._unknown = self._unknown, []
            yield self._step(finished)
            self._learn(learnt)
            if not self.traffic.asynchronous:
                self._learn(self._unknown)
                self._unknown = []

    # --- what happens to requests -------------------------------------------------------------------------------------
    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _arrive(self) -> None:
        if self._arrived >= self.traffic.requests or not self._chance(self.traffic.arrivals):
            return
        children = self.random.randint(2, 3) if self._chance(self.traffic.children) else 1
        prompt = self._size(self.traffic.prompt_max)
        ids = self._prompt(prompt)
        for child in range(children):
            name = f"{child}_cmpl-{self._arrived}" if children > 1 else f"cmpl-{self._arrived}"
            request = Request(name, prompt, self._size(self.traffic.output_max), child, [*ids])
            self.requests[name] = request
            self._waiting.append(request)
        self._arrived += 1

    def _prompt(self, length: int) -> list[int]:
        ids = [self._ids.randint(1, 99) for _ in range(length)]
        if self.requests and self._ids.random() < self.traffic.shared:
            before = self._ids.choice(list(self.requests.values())).ids
            upto = self._ids.randint(0, min(length, len(before)))
            ids[:upto] = before[:upto]
            if self._ids.random() < 0.3:
                ids[0] = 100
        return ids

    def _size(self, most: int) -> int:
        return 1 if self._chance(0.1) else self.random.randint(1, most)

    def _abort(self) -> None:
        for request in [*self._running, *self._waiting]:
            if self._chance(self.traffic.aborted):
                self._learn([request])

    def _preempt(self) -> None:
        for request in list(self._running):
            if request.preemptions < PREEMPTIONS_MAX and self._chance(self.traffic.preempted):
                request.preemptions += 1
                self._running.remove(request)
                self._waiting.insert(0, request)
                request.done = request.counted = 0
                request.waiting_until = self._number + 2  # not before its last tokens are known

    def _learn(self, ended: list[Request]) -> None:
        """The scheduler hears that requests are over and tells the worker in the next step."""
        for request in ended:
            if request.name not in self.over:
                self.over.add(request.name)
                self._finished.append(request.name)
                self._running = [item for item in self._running if item is not request]
                self._waiting = [item for item in self._waiting if item is not request]

    # --- one step -----------------------------------------------------------------------------------------------------
    def _step(self, finished: list[str]) -> Simulated:
        captured = not self._chance(self.traffic.uncaptured)
        reason = self.random.choice([Reason.NO_SLOT, Reason.BLIND])
        missed: dict[tuple[str, Reason], int] = {}
        new: list[NewRequest] = []
        plan: list[tuple[Request, int, int]] = []  # request, first position, rows
        budget = self.traffic.budget
        for request in self._running:
            budget -= self._plan(request, budget, plan)
        while self._waiting and len(self._running) < self.traffic.running_max and budget > 0:
            request = self._waiting[0]
            if request.waiting_until > self._number:
                break
            self._waiting.pop(0)
            self._running.append(request)
            self._admit(request, new, missed)
            budget -= self._plan(request, budget, plan)
        self.random.shuffle(plan)
        rows, computed, emitted = self._forward(plan, None if captured else reason, missed)
        starts, positions = self._layout(plan)
        step = Step(
            number=self._number,
            time_ns=self._number * 1_000_000,
            new=new,
            finished=finished,
            computed=computed,
            emitted=emitted,
            order=[request.name for request, _, _ in plan] if captured else (),
            starts=starts if captured else None,
            positions=positions if captured and plan else None,
            reason=reason,
        )
        return Simulated(step=step, rows=rows if captured else [], missed=missed)

    def _plan(self, request: Request, budget: int, plan: list[tuple[Request, int, int]]) -> int:
        """Rows of ``request`` in this step."""
        left = request.tokens - request.done
        drafts = self.random.randint(0, self.traffic.drafts) if left == 1 and request.sampled else 0
        rows = min(left + drafts, budget)
        if rows > 0 or self._chance(0.3):  # the runner's batch may name a request that has no rows
            plan.append((request, request.done, max(rows, 0)))
        return max(rows, 0)

    def _admit(self, request: Request, new: list[NewRequest], missed: dict[tuple[str, Reason], int]) -> None:
        """A request is scheduled for the first time, or comes back: then the worker may be told of it, or not."""
        most = (request.tokens - 1) // self.traffic.block * self.traffic.block
        if self._chance(self.traffic.cached):
            request.done = self.random.randrange(0, most + 1, self.traffic.block)
        unseen = [position for position in range(request.done) if position not in request.seen]
        again = request.known
        if not again or unseen or self._chance(0.5):
            # One that comes back says the prompt that it began with, or nothing.
            prompt = request.prompt_len if not again else self.random.choice([0, request.prompt_len])
            new.append(
                NewRequest(
                    engine_id=request.name,
                    prompt_len=prompt,
                    computed=request.done,
                    prompt_token_ids=() if again else request.ids[:prompt],
                    stop_tokens=frozenset({STOP}),
                    max_tokens=request.max_tokens,
                    child=request.child,
                )
            )
        request.known = True
        request.counted = request.done
        for position in unseen:
            request.seen[position] = Reason.CACHED
            _add(missed, request, Reason.CACHED)

    def _forward(
        self, plan: list[tuple[Request, int, int]], reason: Reason | None, missed: dict[tuple[str, Reason], int]
    ) -> tuple[list[tuple[int, str, int, int]], dict[str, int], dict[str, list[int]]]:
        """What the device does. A token is emitted for the last known one, and for each draft that was right."""
        rows: list[tuple[int, str, int, int]] = []
        computed: dict[str, int] = {}
        emitted: dict[str, list[int]] = {}
        row = 0
        for request, first, count in plan:
            if count == 0:
                continue
            last, before = first + count, request.tokens
            sampled = self._sample(last - before + 1) if last >= before else []
            was_over = request.ended_at is not None
            self._take(request, sampled)
            real = before if not sampled else request.prompt_len + request.emitted - 1
            real = request.prompt_len + request.emitted - 1 if was_over else real
            for position in range(first, min(last, real)):
                origin = RECOMPUTED if position in request.seen else COMPUTED
                if origin == COMPUTED:
                    request.seen[position] = reason
                    if reason is not None:
                        _add(missed, request, reason)
                rows.append((row + position - first, request.name, position, origin))
            row += count
            request.counted = max(request.counted, first) + count  # rejected drafts stay in it, as they do in vLLM's
            request.done = min(last, request.tokens - 1) if sampled else last
            computed[request.name] = request.counted if request.sampled else last
            emitted[request.name] = sampled
        return rows, computed, emitted

    def _sample(self, most: int) -> list[int]:
        count = self.random.randint(1, most)
        return [STOP if self._chance(self.traffic.stops) else self.random.randint(1, 99) for _ in range(count)]

    def _take(self, request: Request, sampled: list[int]) -> None:
        for token in sampled:
            request.sampled += 1
            request.ids.append(token)
            if request.ended_at is None and (token == STOP or request.sampled >= request.max_tokens):
                request.ended_at = request.sampled
                self._unknown.append(request)

    def _layout(self, plan: list[tuple[Request, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """First rows of the requests, and the device's positions with what a captured graph leaves behind them."""
        starts = np.cumsum([0, *(count for _, _, count in plan)]).astype(np.int32)
        junk = [self.random.randint(0, 1000) for _ in range(self.random.choice([0, 3]))]
        spans = [range(first, first + count) for _, first, count in plan]
        return starts, np.array([*(position for span in spans for position in span), *junk], dtype=np.int32)


def _add(missed: dict[tuple[str, Reason], int], request: Request, reason: Reason) -> None:
    missed[request.name, reason] = missed.get((request.name, reason), 0) + 1
