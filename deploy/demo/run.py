"""The demo: a real vLLM server, watched; a sidecar; and a client that shows which tokens made which features fire.

    make demo                                  until Ctrl-C
    make demo ARGS="--once --json OUT"         a bounded script, with its facts in OUT
    make demo ARGS="--json OUT"                the script and its facts, then until Ctrl-C
    make demo ARGS=--fixture                   the small test model instead of SmolLM2

The demo is an ordinary client of two endpoints: it reads its own answers from the OpenAI endpoint and the firings from
the gRPC stream, and joins them by its own request ids. Text never passes through saewatch.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tokenizers import Tokenizer

from benchmarks import form
from deploy.demo import model as demo_model
from deploy.demo.chat import Answer, ChatError, chat
from deploy.demo.collect import Collector, Seen
from deploy.demo.ending import Ending, Stop
from deploy.demo.pieces import Pieces
from deploy.demo.screen import Mark, Screen, View, coverage_line
from deploy.demo.servers import (
    Server,
    ServerError,
    addresses,
    free_port,
    group_members,
    start_engine,
    start_sidecar,
    tail,
    tap_arguments,
    wait_healthy,
)
from saewatch.client import decode
from saewatch.core.batch import Reason
from saewatch.edge.pb.saewatch.v1 import common_pb2

ROOT = form.ROOT
WORK = ROOT / ".demo"
PROMPTS = ROOT / "deploy/demo/prompts.jsonl"
BUNDLE = ROOT / "dictionaries/smollm2-135m-it.resid_post.14"
FIXTURE = ROOT / "tests/fixture"
ENGINE_S = 900.0
ONCE_AT_A_TIME = 4
SETTLE_S = 3.0
"""How long a token's firings are waited for before it is shown unmarked."""


@dataclass(slots=True)
class Facts:
    """What ``--json`` reports; seconds since the command began unless the name says otherwise."""

    began: float
    setup_s: float = 0.0
    engine_healthy_s: float = 0.0
    healthy_at: float = 0.0
    values: dict[str, float] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; 0 when it ended as asked, 2 when something did not start or went missing."""
    options = arguments().parse_args(argv)
    began = float(os.environ.get("SAEWATCH_DEMO_BEGAN", time.time()))
    facts, screen = Facts(began=began), Screen(colour=False if options.plain else None)
    servers: list[Server] = []
    code = 0
    with tempfile.TemporaryDirectory(prefix="saewatch-") as folder:  # to the end: a server that stops still writes
        try:
            ending = Ending()
            try:
                code = run(options, facts, screen, Path(folder), servers, ending=ending)
            finally:  # inside the other: a signal that comes just before this is caught there, and is the last
                ending.over()
        except Stop:
            screen.clear()
            screen.line("stopping …")
            asked_for_all = options.once or (options.json and not facts.values)
            code = 2 if asked_for_all else 0  # the script was not run to its end
        except (ServerError, demo_model.ModelError) as error:
            screen.clear()
            print(f"demo: {error}", file=sys.stderr)
            code = 2
        finally:
            orphans = sum(server.stop() for server in reversed(servers))
            orphans += sum(len(group_members(server.process.pid)) for server in servers)
    facts.values["orphans"] = orphans
    if options.json and code == 0:
        form.write(options.json, form.document("demo", facts=facts.values, quick=options.fixture))
    return code or (2 if orphans and options.once else 0)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make demo ARGS=…", description=__doc__)
    parser.add_argument("--once", action="store_true", help="a bounded script instead of running until Ctrl-C")
    parser.add_argument("--json", type=Path, help="run the script first, and write its facts there")
    parser.add_argument("--fixture", action="store_true", help="the small test model; its text is no English")
    parser.add_argument("--prompts", type=int, default=24, help="prompts of the script")
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--record", type=Path, metavar="FILE", help="a new file for what the sidecar receives")
    parser.add_argument("--plain", action="store_true", help="no colours")
    return parser


def run(
    options: argparse.Namespace, facts: Facts, screen: Screen, folder: Path, servers: list[Server], *, ending: Ending
) -> int:
    """Starts everything, then the script or the endless stream."""
    model, bundle = prepare(options, screen)
    port, socket_path = free_port(), folder / "tap.sock"
    facts.setup_s = time.time() - facts.began
    screen.line("starting the sidecar and vLLM (compilation takes a minute or two on two cores)")
    with ending.held():
        servers.append(start_sidecar(socket_path=socket_path, bundles=[bundle], folder=folder, record=options.record))
    log = WORK / "engine.log"
    extra = ("--dtype", "float32") if options.fixture else ()
    tap = tap_arguments(socket_path=socket_path, bundles=[bundle], census=0.05, instance="demo")
    started = time.time()
    name = model_name(options)
    with ending.held():
        servers.append(
            start_engine(model=model, name=name, port=port, tap=tap, socket_path=socket_path, log=log, extra=extra)
        )
    found = addresses(servers[0], folder)
    wait_healthy(port, servers, timeout_s=ENGINE_S, tick=lambda: screen.progress(stage(log, started)))
    facts.healthy_at = time.time()
    facts.engine_healthy_s = facts.healthy_at - started
    screen.clear()
    announce(screen, found, port, name)
    with Collector(found["grpc"]) as collector:
        shows = Shows(screen, collector, Tokenizer.from_file(str(model / "tokenizer.json")), port, name)
        if not options.once and not options.json:
            endless(options, shows, servers)
        code = once(options, shows, servers)
        fill(facts, collector)
        if not options.once and not code:
            endless(options, shows, servers)
        if options.record:
            servers[0].stop()  # a recording ends with its engine alive: so it can be asked after a replay
        return code


def model_name(options: argparse.Namespace) -> str:
    """The name under which the model is served."""
    return "saewatch-fixture" if options.fixture else demo_model.NAME


def prepare(options: argparse.Namespace, screen: Screen) -> tuple[Path, Path]:
    """The model's folder and the bundle's."""
    if options.fixture:
        return FIXTURE / "model", FIXTURE / "bundle"
    model = WORK / demo_model.NAME
    if not demo_model.is_current(model):
        screen.line("fetching SmolLM2-135M-Instruct (93 MB, Apache-2.0) and converting it, once")
    demo_model.make(model)
    return model, BUNDLE


def announce(screen: Screen, found: Mapping[str, str], port: int, name: str) -> None:
    """Where everything is."""
    screen.line(f"gRPC      {found['grpc']}   (saewatch.v1.FiringService, reflection on)")
    screen.line(f"metrics   {found['metrics']}   health: /healthz /readyz")
    screen.line(f"OpenAI    http://127.0.0.1:{port}/v1   log: {WORK / 'engine.log'}")
    screen.line("Send a prompt of your own from another terminal and watch it here:")
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 40})
    screen.line(f"  curl http://127.0.0.1:{port}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'")
    screen.line()
    screen.legend()


STAGES = (
    ("Starting to load model", "loading the model"),
    ("Warming up model", "compiling"),
    ("Warming up done", "preparing the KV cache"),
    ("Started server process", "starting the server"),
)


def stage(log: Path, started: float) -> str:
    """How far vLLM is, by its log."""
    text = tail(log, 200)
    reached = [says for mark, says in STAGES if mark in text]
    return f"vLLM: {reached[-1] if reached else 'importing'} … {time.time() - started:.0f} s"


@dataclass(slots=True)
class Shows:
    """Asks, joins and shows."""

    screen: Screen
    collector: Collector
    tokenizer: Tokenizer
    port: int
    model: str
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    mine: set[str] = field(default_factory=set)
    foreign: set[tuple[str, int]] = field(default_factory=set)

    def ask(self, prompt: Mapping[str, Any], *, max_tokens: int, live: bool) -> View:
        """One prompt; shown as it grows where ``live``, else `show` it when it is there."""
        answer = Answer(f"demo-{os.getpid()}-{next(self.numbers)}")
        self.mine.add(answer.request_id)
        view = View(title=answer.request_id, kind=prompt.get("kind", ""))
        text = Pieces(self.tokenizer)
        began = time.monotonic()
        if live:
            self.screen.begin(view)

        def grown() -> None:
            if live:
                self.update(view, answer, text)
                seen = self.collector.seen.get((answer.request_id, 0))
                self.screen.grow(view, seen.upto if seen else -1)

        chat(self.port, self.model, prompt["text"], answer, max_tokens=max_tokens, on=grown)
        took = time.monotonic() - began
        seen = self.wait(answer)
        self.update(view, answer, text)
        view.coverage = self.coverage(seen, answer, took)
        if live:
            self.screen.end(view, view.coverage)
        return view

    def show(self, view: View) -> None:
        """A whole request."""
        self.screen.begin(view)
        self.screen.end(view, view.coverage)

    def wait(self, answer: Answer) -> Seen | None:
        """Until everything that was fed has been told, or too long."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            seen = self.collector.seen.get((answer.request_id, 0))
            if seen is not None and seen.fed >= 0:
                told = sum(map(len, seen.position)) + sum(seen.missed.values())
                if told >= seen.fed:
                    return seen
            time.sleep(0.02)
        return self.collector.seen.get((answer.request_id, 0))

    def update(self, view: View, answer: Answer, text: Pieces) -> None:
        """Brings a view up to what is known now."""
        view.prompt_len = len(answer.prompt)
        view.pieces = text.upto([*answer.prompt, *answer.tokens])
        seen = self.collector.seen.get((answer.request_id, 0))
        if seen is not None:
            view.marks = self.marks(seen)

    def marks(self, seen: Seen) -> dict[int, list[Mark]]:
        """What fired where, on the tokens that a feature was made for: probes, and groups of latents by their head."""
        features: dict[int, list[tuple[common_pb2.Feature, float]]] = {}
        for _, slot, feature, weight in self.collector.features_of():
            features.setdefault(slot, []).append((feature, weight))
        found: dict[int, dict[str, Mark]] = {}
        _, positions, slots, values = seen.columns()
        for position, slot, value in zip(positions.tolist(), slots.tolist(), values.tolist(), strict=True):
            side = "prompt" if position < seen.request.prompt_len else "reply"
            for feature, weight in features.get(slot, ()):
                probe = feature.HasField("direction")
                if feature.scope in (side, "all") and value > feature.floor and (probe or weight):
                    here = found.setdefault(position, {})
                    more = value if probe else weight * math.log1p(value) + _value(here, feature.id)
                    here[feature.id] = Mark(feature.id, decode.feature(feature).shown, feature.category, more, probe)
        return {position: [m for m in marks.values() if m.value > 0] for position, marks in found.items()}

    def coverage(self, seen: Seen | None, answer: Answer, took: float) -> str:
        """The line of coverage."""
        fed = len(answer.prompt) + max(len(answer.tokens) - 1, 0)
        missed = {Reason(reason - 1).label: count for reason, count in seen.missed.items()} if seen else {}
        encoded = sum(map(len, seen.position)) if seen else 0
        lag = seen.lag_s * 1e3 if seen else float("nan")
        speed = (len(answer.prompt) + len(answer.tokens)) / took if took else 0.0
        return coverage_line(fed=fed, encoded=encoded, missed=missed, tokens_per_s=speed, lag_ms=lag)

    def show_foreign(self) -> None:
        """Requests of others that have ended since: their text is not ours to know."""
        for key, seen in list(self.collector.seen.items()):
            if key[0] in self.mine or key in self.foreign or seen.fed < 0:
                continue
            self.foreign.add(key)
            self.screen.line()
            who = seen.request.client_id or seen.request.engine_id
            self.screen.line(f"── a request of yours: {who}, {seen.fed} tokens fed (only its client knows its text)")
            fired = sorted({mark.label for marks in self.marks(seen).values() for mark in marks if mark.probe})
            self.screen.line(f"   probes fired: {', '.join(fired) or 'none'}")


def once(options: argparse.Namespace, shows: Shows, servers: Sequence[Server]) -> int:
    """A bounded script, some requests at a time; each is shown when it is complete."""
    prompts = script()[: options.prompts]
    failed = 0
    pool = concurrent.futures.ThreadPoolExecutor(ONCE_AT_A_TIME)
    try:
        waiting = [pool.submit(shows.ask, prompt, max_tokens=options.max_tokens, live=False) for prompt in prompts]
        for future in concurrent.futures.as_completed(waiting):
            try:
                view = future.result()
            except ChatError as error:
                failed += 1
                shows.screen.line(f"a request failed: {error}")
                continue
            shows.show(view)
    finally:  # those that run end with the engine, and without it
        pool.shutdown(wait=False, cancel_futures=True)
    for server in servers:
        server.check()
    return 2 if failed else 0


def endless(options: argparse.Namespace, shows: Shows, servers: Sequence[Server]) -> NoReturn:
    """One prompt after the other; only `Stop` ends it."""
    prompts = itertools.cycle(script())
    while True:
        prompt = next(prompts)
        for server in servers:
            server.check()
        with contextlib.suppress(ChatError):
            view = shows.ask(prompt, max_tokens=options.max_tokens, live=shows.screen.live)
            if not shows.screen.live:
                shows.show(view)
        shows.show_foreign()
        time.sleep(1.0)


def script() -> list[dict[str, Any]]:
    """The prompts, one that fires first."""
    return [json.loads(line) for line in PROMPTS.read_text().splitlines() if line]


def fill(facts: Facts, collector: Collector) -> None:
    """The facts at quiescence: the engine's own books."""
    books = [stream.books for stream in collector.settled().streams if stream.connected]
    first = collector.first_firing or time.time()
    facts.values = {
        "firings": collector.firings,
        "fed": sum(one.fed for one in books),
        "encoded": sum(one.encoded for one in books),
        "reused": sum(one.reused for one in books),
        "missed": sum(item.tokens for one in books for item in one.missed),
        "imbalance": sum(abs(one.imbalance) for one in books),
        "setup_s": round(facts.setup_s, 2),
        "engine_healthy_s": round(facts.engine_healthy_s, 2),
        "first_firing_s": round(first - facts.healthy_at, 2),
        "total_s": round(first - facts.began, 2),
    }


def _value(marks: Mapping[str, Mark], feature: str) -> float:
    return marks[feature].value if feature in marks else 0.0


if __name__ == "__main__":
    sys.exit(main())
