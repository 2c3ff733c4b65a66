"""A real engine with a clock that we turn: blocks of ten minutes of requests in a second, and what drift says of them.

vLLM serves the fixture's model; its tap's frames go through the sidecar's own source and pipeline in this process, with
a clock that stands still while a block's requests are served, and is then set ten minutes on. Requests are prompts
alone. The panel goes through the sidecar's own prober.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import form
from benchmarks.copies import Recipe, altered
from benchmarks.rig import MODEL_NAME, Rig
from dictionaries.train.corpus import Generator
from saewatch.core import limits
from saewatch.core.batch import Reason
from saewatch.dictionary.endpoint import Endpoint
from saewatch.edge.dictionaries import load_one
from saewatch.edge.pipeline import Pipeline, SinkQueue
from saewatch.edge.prober import Prober
from saewatch.edge.sources import SocketSource
from saewatch.monitor.alert import Alert, AlertChanged
from saewatch.monitor.canary import Canary
from saewatch.monitor.drift.build import Builder, Told
from saewatch.monitor.drift.following import by_feature
from saewatch.monitor.drift.history import DAY_NS
from saewatch.monitor.drift.known import About, KnownBaseline
from saewatch.monitor.drift.pairs import key_of
from saewatch.monitor.drift.panel import KnownPanel, Replay, golden
from saewatch.monitor.drift.replays import Replays, prompt_name
from saewatch.monitor.drift.slices import source_of
from saewatch.monitor.events import DriftState, Observed, RequestEnded

FIXTURE = form.ROOT / "tests/fixture"
START_NS = 20_000 * DAY_NS
BLOCK_REQUESTS, BLOCKS_A_DAY = 60, 144
PANEL_PROMPTS = 32
TOKENS = 40
"""Of a prompt at most: a block is served in one or two steps."""
PATIENCE_S, LOOK_S = 60.0, 0.002
HAZARDS, SWING, UNREST = 0.15, 0.05, 0.01
"""Share of requests that carry a hazard: on average, over the day, and from day to day."""
DIGEST = "sha256:" + "0" * 64
RATES = (1e-4, 3e-4, 1e-3)
"""Learning rates of the tuned models, in turn."""
_WANTS = (Observed, RequestEnded, AlertChanged, DriftState)


class Prompts:
    """What is asked: hazards and innocent requests, as token ids, each text once in a block."""

    def __init__(self, seed: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(FIXTURE / "model")
        generator = Generator("a", seed=seed)
        texts = [[one.prompt for one in made] for made in (generator.hazards(120), generator.innocents(2000))]
        self.hazards, self.innocents = ([tokenizer(one)["input_ids"][:TOKENS] for one in some] for some in texts)
        other = Generator("b", seed=seed)
        mixed = [one.prompt for one in (*other.hazards(PANEL_PROMPTS // 16), *other.innocents(PANEL_PROMPTS))]
        self.panel = tuple(dict.fromkeys(mixed))[:PANEL_PROMPTS]
        self._chance = random.Random(seed)
        self._unrest = 0.0

    def block(self, number: int, *, hazards: float | None = None) -> list[list[int]]:
        """Those of one block; ``hazards``: another share of them."""
        if number % BLOCKS_A_DAY == 0:
            self._unrest = self._chance.gauss(0.0, UNREST)
        usual = HAZARDS + SWING * math.sin(2 * math.pi * number / BLOCKS_A_DAY) + self._unrest
        share = usual if hazards is None else hazards
        count = sum(self._chance.random() < share for _ in range(BLOCK_REQUESTS))
        return self._chance.sample(self.hazards, count) + self._chance.sample(self.innocents, BLOCK_REQUESTS - count)


class Deployment:
    """A pipeline that the engine's tap is connected to, and what sends requests to the engine."""

    def __init__(self, rig: Rig, panel: Sequence[str], baselines: Sequence[KnownBaseline] = (), begin: int = 0) -> None:
        self.known = load_one(rig.bundle)
        self.now_ns = START_NS + begin * limits.DRIFT_BLOCK_NS
        self.number = begin
        self.alerts: list[Alert] = []
        self.state = DriftState(scores={}, alarms={}, counters={})
        self._ended: list[RequestEnded] = []
        self._observed: list[Observed | RequestEnded] = []
        self._panel = panel
        self._queue = SinkQueue("all", lambda: None, bound=10**6, wants=_WANTS)
        self.pipeline = Pipeline(
            dictionaries={self.known.weights_digest: self.known},
            queues=[self._queue],
            clock=lambda: self.now_ns,
            baselines=baselines,
        )
        url = f"http://127.0.0.1:{rig.port}/v1"
        self._endpoint = Endpoint(url, MODEL_NAME, timeout_s=PATIENCE_S, tries=1)
        never = Canary(id="none", feature="none", fires=False, prompt="none")  # it is not sent here
        self._prober = Prober(
            [never], panel=panel, pipeline=self.pipeline, url=url, model=MODEL_NAME, period_s=300, priority=0
        )
        self._source = SocketSource(path=str(rig.socket), consumer=self.pipeline)
        self._source.start()

    def connected(self) -> None:
        """Waits for the engine's stream."""
        self._until(lambda: any(not one.ended for one in self.pipeline.status().streams), "no stream")

    def close(self) -> None:
        """Listens no more."""
        self._source.stop()

    def serve(self, prompts: Sequence[Sequence[int]], *, panel: bool) -> list[RequestEnded]:
        """A block: its requests, a round of the panel, and ten minutes. Gives the live requests that ended."""
        self._ended.clear()
        self._observed.clear()
        body = {"model": MODEL_NAME, "prompt": list(prompts), "max_tokens": 1, "temperature": 0}
        status, answer = self._endpoint.post("/completions", json.dumps(body).encode())
        assert status == 200, answer[:500]
        wanted = len(prompts)
        if panel:
            wanted += len(self._panel)
            for text in self._panel:
                self._prober.send_prompt(text)
        self._until(lambda: len(self._ended) >= wanted, f"not all of {wanted} requests ended")
        self.pipeline.tick()
        self._take()
        return [one for one in self._ended if one.identity.traffic_class != "canary"]

    def pass_on(self) -> None:
        """Ten minutes later."""
        self.number += 1
        self.now_ns += limits.DRIFT_BLOCK_NS
        self.pipeline.tick()
        self._take()

    def rounds(self, replays: Replays) -> list[Sequence[Replay]]:
        """Rounds of the panel in what was served last."""
        found = (replays.follow(one, self.now_ns) for one in self._observed)
        return [one[1] for one in found if one is not None]

    def _until(self, holds: Callable[[], bool], why: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > end:
                raise RuntimeError(why)
            time.sleep(LOOK_S)
            self._take()

    def _take(self) -> None:
        for item in self._queue.take():
            if isinstance(item, AlertChanged):
                self.alerts.append(item.alert)
            elif isinstance(item, DriftState):
                self.state = item
            elif isinstance(item, Observed | RequestEnded):
                self._observed.append(item)
                if isinstance(item, RequestEnded):
                    self._ended.append(item)


def baseline(one: Deployment, prompts: Prompts, blocks: int, told: Callable[[str], None]) -> KnownBaseline:
    """Of ``blocks`` of usual traffic, with 20 rounds of the panel among them."""
    names = tuple(map(prompt_name, prompts.panel))
    replays = Replays(names, lambda table: np.arange(len(table.features)))
    runs: list[Sequence[Replay]] = []
    features = tuple(feature.id for feature in one.known.catalogue.features)
    builder, every, began = Builder(len(features)), max(blocks // 21, 1), time.monotonic()
    about: About | None = None
    partial = 0
    for number in range(blocks):
        ended = one.serve(prompts.block(number), panel=number % every == 0)
        runs += one.rounds(replays)
        for request in ended:
            made = _told(one, request)
            partial += made is None
            if made is not None:
                builder.add(made[0])
                about = made[1]
        one.pass_on()
        if number % 100 == 99:
            told(f"baseline: {number + 1} of {blocks} blocks, {time.monotonic() - began:.0f} s")
    assert about is not None, "something was served"
    panel = KnownPanel(prompts=names, golden=golden(runs, len(features)))
    fitted = builder.fitted(partial=partial)
    return KnownBaseline(about=about, features=features, fitted=fitted, digest=DIGEST, panel=panel)


def _told(one: Deployment, ended: RequestEnded) -> tuple[Told, About] | None:
    """A request as the builder takes it; None for one that was not seen whole."""
    [record] = [
        found
        for found in one.pipeline.records(ended.identity.engine_id)
        if (found.engine, found.start.child) == (ended.identity.engine, ended.identity.child)
    ]
    [(table, tally)] = record.tallies
    seen = tally.prompt_tokens + tally.answer_tokens
    if seen + tally.missed.get(Reason.EXCLUDED, 0) != ended.fed:
        return None
    feature, count, mean = by_feature(tally.sums(), np.arange(len(table.features), dtype=np.intp))
    key = key_of(ended.identity.engine_id, ended.identity.child)
    source = source_of(ended.identity.tenant)
    told = Told(feature=feature, count=count, mean=mean, tokens=seen, key=key, ended_ns=one.now_ns, source=source)
    return told, About.of(table, "fixture")


def tuned(folder: Path, number: int) -> Path:
    """The fixture's model after some steps on texts of its own, as a file of the weights that changed.

    Only norms and embeddings are tuned: vLLM packs the other matrices for the processor, and keeps none of them.
    """
    path = folder / f"tuned-{number}.safetensors"
    if path.exists():
        return path
    torch.manual_seed(number)
    model = AutoModelForCausalLM.from_pretrained(FIXTURE / "model", dtype=torch.float32)
    for name, weight in model.named_parameters():
        weight.requires_grad_(_loadable(name))
    tokenizer = AutoTokenizer.from_pretrained(FIXTURE / "model")
    texts = [tokenizer(one.prompt)["input_ids"] for one in Generator("b", seed=100 + number).hazards(4)]
    made = altered(model, Recipe(steps=20, rate=RATES[number % len(RATES)]), texts).float()
    save_file({name: one.contiguous() for name, one in made.state_dict().items() if _loadable(name)}, path)
    return path


def _loadable(name: str) -> bool:
    return "norm" in name or "embed" in name
