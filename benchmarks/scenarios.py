"""What can happen to a request in an engine: a table of small plays, each with requests of its own.

They run in the engine's own process, step by step, so that an abort comes exactly between two steps. A request's id
begins with its play's name. What a play leaves is what its client knows: prompt and tokens, and whether the request
came to its own end or was cut.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RepetitionDetectionParams
from vllm.v1.core.sched.scheduler import Scheduler

from saewatch.engine.staging import Rows
from saewatch.engine.tap import Begun, Tap

BLOCK = 128
"""Tokens of a KV block on the CPU."""


@dataclass(slots=True)
class Told:
    """One request as its client knows it."""

    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    end: str = "cut"  # finished | cut
    adapter: str = ""


class Stage:
    """An engine in this process, and what its clients were told."""

    def __init__(self, engine: Any, adapters: Mapping[str, str]) -> None:
        self.engine = engine.llm_engine
        self.told: dict[str, Told] = {}
        self.chance = random.Random(0)
        self._vocabulary = self.engine.model_config.get_vocab_size()
        self._adapters = {
            name: LoRARequest(name, number, path) for number, (name, path) in enumerate(adapters.items(), 1)
        }

    @property
    def longest(self) -> int:
        """Tokens that a request may have."""
        return int(self.engine.model_config.max_model_len)

    def prompt(self, length: int, *, of: int = 0) -> list[int]:
        """Random token ids; ``of``: from so few."""
        return [self.chance.randrange(8, 8 + of if of else self._vocabulary) for _ in range(length)]

    def ask(self, name: str, prompt: Sequence[int], *, adapter: str = "", **sampling: Any) -> None:
        """Sends a request."""
        asked = {"temperature": 0.0, "max_tokens": 8, "detokenize": "stop" in sampling, **sampling}
        several = asked.get("n", 1)
        for name_of_one in [name] if several == 1 else [f"{index}_{name}" for index in range(several)]:
            self.told[name_of_one] = Told(list(prompt), adapter=adapter)
        lora = self._adapters[adapter] if adapter else None
        self.engine.add_request(name, {"prompt_token_ids": list(prompt)}, SamplingParams(**asked), lora_request=lora)

    def abort(self, *names: str) -> None:
        """As a client that is gone."""
        self.engine.abort_request(list(names))

    def step(self) -> None:
        """One step of the engine, and what it told."""
        for output in self.engine.step():
            for one in output.outputs:
                told = self.told.get(output.request_id) or self.told[f"{one.index}_{output.request_id}"]
                told.tokens = list(one.token_ids)
                # A stop string is found by the client's side, while the engine goes on: it is aborted then.
                told.end = "finished" if one.finish_reason and not isinstance(one.stop_reason, str) else "cut"
                if one.stop_reason == "repetition_detected":
                    told.end = "finished"

    def run(self, steps: int = 100_000) -> None:
        """Until all is done, or for some steps."""
        while self.engine.has_unfinished_requests() and steps:
            self.step()
            steps -= 1
        if steps:
            self.settle()

    def settle(self) -> None:
        """Empty steps, in which the engine tells its workers what has ended."""
        for _ in range(4):
            self.step()


def mixed(stage: Stage) -> None:
    """Many at once, of all lengths, and prompts longer than a step."""
    for index in range(12):
        stage.ask(f"mixed{index}", stage.prompt(stage.chance.randint(1, 140)), max_tokens=stage.chance.randint(1, 12))
    stage.ask("mixed-long", stage.prompt(400), max_tokens=5)
    stage.run()


def smallest(stage: Stage) -> None:
    """One token in, one token out."""
    for index in range(3):
        stage.ask(f"smallest{index}", stage.prompt(1), max_tokens=1)
    stage.run()


def cached(stage: Stage) -> None:
    """The same prompt, one that begins like it, and one of exactly some blocks."""
    first = stage.prompt(2 * BLOCK + 70)
    whole = stage.prompt(2 * BLOCK)
    for index, prompt in enumerate((first, first, [*first[: BLOCK + 9], *stage.prompt(200)], whole, whole)):
        stage.ask(f"cached{index}", prompt, max_tokens=4)
        stage.run()


def crowded(stage: Stage) -> None:
    """More than a small KV cache holds: requests are preempted and computed again."""
    for index in range(8):
        stage.ask(f"crowded{index}", stage.prompt(100 + 7 * index), max_tokens=150, ignore_eos=True)
    stage.run()


def aborted(stage: Stage) -> None:
    """Gone before the first step, inside a prompt, after the first token, and in the middle of the answer."""
    for name, length in (("early", 40), ("prompt", 400), ("first", 30), ("middle", 30), ("stays", 50)):
        stage.ask(f"aborted-{name}", stage.prompt(length), max_tokens=40, ignore_eos=True)
    stage.abort("aborted-early")
    stage.run(1)
    stage.abort("aborted-prompt")
    while not stage.told["aborted-first"].tokens:
        stage.step()
    stage.abort("aborted-first")
    stage.run(7)
    stage.abort("aborted-middle")
    stage.run()


def stopped(stage: Stage) -> None:
    """By a stop token, at a random place."""
    for index in range(10):
        stops = stage.chance.sample(range(512), 60)
        stage.ask(f"stopped{index}", stage.prompt(20 + index), max_tokens=40, temperature=1.0, stop_token_ids=stops)
    stage.run()


def strings(stage: Stage) -> None:
    """By a stop string, which only the client's side can see."""
    for index in range(6):
        stage.ask(f"strings{index}", stage.prompt(20 + index), max_tokens=40, temperature=1.0, stop=["7"])
    stage.run()


def several(stage: Stage) -> None:
    """Several answers to one prompt."""
    stage.ask("several", stage.prompt(2 * BLOCK + 30), n=3, temperature=1.0, max_tokens=6)
    stage.run()


def full(stage: Stage) -> None:
    """To the model's own limit, which no bound of the request's is."""
    for index, left in enumerate((1, 2, 9)):
        stage.ask(f"full{index}", stage.prompt(stage.longest - left), max_tokens=1000, ignore_eos=True)
    stage.run()


def repeating(stage: Stage) -> None:
    """Ended by vLLM because the answer repeats itself."""
    detect = RepetitionDetectionParams(max_pattern_size=3, min_count=2)
    for index in range(4):
        stage.ask(
            f"repeating{index}",
            stage.prompt(12),
            max_tokens=60,
            temperature=0.0,
            ignore_eos=True,
            repetition_detection=detect,
        )
    stage.run()


def looping(stage: Stage) -> None:
    """Prompts that repeat few tokens: drafts from them are accepted and rejected."""
    for index in range(6):
        part = stage.prompt(9)
        warm = 0.0 if index % 2 else 0.7
        stage.ask(f"looping{index}", part * 6, max_tokens=40, temperature=warm, ignore_eos=index != 4)
    stage.run()


def again(stage: Stage) -> None:
    """An id that comes again when its first request is over."""
    for turn in (1, 2):
        stage.ask("again", stage.prompt(30), max_tokens=4)
        stage.run()
        stage.told[f"again#{turn}"] = stage.told.pop("again")


def session(stage: Stage) -> None:
    """Streaming input: the same request goes on with more of its prompt."""
    turns = stage.prompt(150), stage.prompt(40)
    fed: list[int] = []
    internal = ""
    for number, part in enumerate(turns, 1):
        made = stage.engine.input_processor.process_inputs(
            internal or "session",
            {"prompt_token_ids": part},
            SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, detokenize=False),
            supported_tasks=stage.engine.get_supported_tasks(),
            resumable=True,
        )
        if not internal:
            stage.engine.input_processor.assign_request_id(made)
            internal = made.request_id
        made.external_req_id = "session"
        theirs = copy.copy(made)  # between processes each side has a list of its own, and makes it longer
        theirs.prompt_token_ids = list(part)
        stage.engine.output_processor.add_request(theirs, None, None, 0)
        stage.engine.engine_core.add_request(made)
        told = stage.told["session"] = Told([*fed, *part])
        for _ in range(40):
            stage.step()
        told.tokens = told.tokens[-5:]
        told.end = "finished"
        stage.told[f"session#{number}"] = stage.told.pop("session")
        fed = [*told.prompt, *told.tokens[:-1]]
    stage.abort("session")
    stage.settle()


def adapted(stage: Stage) -> None:
    """Through adapters, each in batches of its own: vLLM's CPU operators mix them up within one."""
    for adapter in ("", "one", "two", ""):
        for index in range(3):
            name = f"adapted-{adapter}{index}-{len(stage.told)}"
            stage.ask(name, stage.prompt(30 + 50 * index), adapter=adapter, max_tokens=6)
        stage.run()


SCENARIOS: Mapping[str, Callable[[Stage], None]] = {
    play.__name__: play
    for play in (
        mixed,
        smallest,
        cached,
        crowded,
        aborted,
        stopped,
        strings,
        several,
        full,
        repeating,
        looping,
        again,
        session,
        adapted,
    )
}
"""By their names."""


def play(
    engine: Any, names: Sequence[str], adapters: Mapping[str, str], counted: Counter[str]
) -> dict[str, dict[str, Told]]:
    """Plays them one after the other; what was told, by play and request."""
    found: dict[str, dict[str, Told]] = {}
    fed = Fed()
    for name in names:
        stage = Stage(engine, adapters)
        SCENARIOS[name](stage)
        found[name] = stage.told
        if name == "looping":
            fed.count(stage.told, counted)
        fed.rows.clear()
    return found


class Fed:
    """Which token the device was given at which position, row by row, of an engine in this process."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int]] = []
        watched: Any = Tap  # a witness of it, in a process of its own
        begin = watched.begin

        def noted(tap: Tap, **facts: Any) -> Begun:
            begun: Begun = begin(tap, **facts)
            if begun.captured is not None:
                self._note(begun.captured.rows)
            return begun

        watched.begin = noted

    def _note(self, rows: Rows) -> None:
        positions, tokens = rows.positions.tolist(), rows.tokens.tolist()
        for name, first, last in zip(rows.order, rows.starts[:-1], rows.starts[1:], strict=True):
            external = name.rpartition("-")[0]
            self.rows += [(external, positions[row], tokens[row]) for row in range(first, last)]

    def count(self, told: Mapping[str, Told], counted: Counter[str]) -> None:
        """Rows that were fed anew later: drafts that were rejected, and those whose token was right all the same."""
        last = {(name, position): row for row, (name, position, _) in enumerate(self.rows)}
        for row, (name, position, token) in enumerate(self.rows):
            if last[name, position] != row:
                one = told[name]
                counted["rejected"] += 1
                counted["rejected_equal"] += [token] == [*one.prompt, *one.tokens][position : position + 1]


def count() -> Counter[str]:
    """Forward passes, drafted and accepted tokens of this process's engine, as its scheduler has them from now on."""
    counted = Counter[str](forwards=0, drafted=0, accepted=0, rejected=0, rejected_equal=0)
    make: Any = Scheduler.make_spec_decoding_stats
    schedule: Any = Scheduler.schedule

    def counting(scheduler: Any, *arguments: Any, **named: Any) -> Any:
        counted["drafted"] += named["num_draft_tokens"]
        counted["accepted"] += named["num_accepted_tokens"]
        return make(scheduler, *arguments, **named)

    def scheduled(scheduler: Any, *arguments: Any, **named: Any) -> Any:
        output = schedule(scheduler, *arguments, **named)
        counted["forwards"] += output.total_num_scheduled_tokens > 0
        return output

    Scheduler.make_spec_decoding_stats = counting
    Scheduler.schedule = scheduled
    return counted
