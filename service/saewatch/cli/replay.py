"""Replay a recording through the same sidecar as `saewatch serve`: gRPC, metrics and status, without an engine.

It goes at the recorded pace from the first request on, with the dictionaries in the recording (a configured one with
the same weights has precedence), and serves on when it has ended. The figures do not depend on the pace.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from saewatch import logs
from saewatch.app import Addresses, serve
from saewatch.cli import UsageError, recordings, scratch, sidecar
from saewatch.cli.terminal import ProgressLine
from saewatch.cli.values import above_zero, from_zero
from saewatch.config import Config, Grpc, Web
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.core.recording import Recording
from saewatch.edge import dictionaries
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.replay import RecordedClock, ReplaySource
from saewatch.edge.shortfall import FIRINGS, TOKENS
from saewatch.monitor.tables import KnownDictionary

logger = structlog.get_logger(__name__)

LOOK_S = 0.05
ANY_PORT = "127.0.0.1:0"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What, how fast, which part of it, and what then."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a recording")
    sidecar.config_arguments(parser)
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--speed", type=above_zero(float), default=1.0, metavar="X", help="times the recorded pace")
    pace.add_argument("--fast", action="store_true", help="as fast as it goes")
    parser.add_argument("--once", action="store_true", help="end with the recording, and print what it came to")
    from_says = "the pace begins here, what is before it goes as fast as it can; without it: at the first request"
    parser.add_argument("--from", type=from_zero(float), dest="begin_s", metavar="SECONDS", help=from_says)
    parser.add_argument(
        "--to", type=from_zero(float), dest="end_s", default=math.inf, metavar="SECONDS", help="end here"
    )
    parser.add_argument("--addresses", type=Path, metavar="FILE", help="write the bound addresses, as JSON")


def run(options: argparse.Namespace) -> int:
    """Replays."""
    config = _configured(options)
    sidecar.return_memory()
    logs.set_up(config.log.level)
    with recordings.opened(options.file) as recording, scratch.folder() as folder:
        replay = Replay(options, recording)
        asyncio.run(replay.run(_history_in(folder, config)))
        if options.once:
            print(replay.text())
    return 0


class Replay:
    """One replay, from its recording to its figures."""

    def __init__(self, options: argparse.Namespace, recording: Recording) -> None:
        self._options = options
        self._recording = recording
        self._line = ProgressLine()
        self._source: ReplaySource
        self._pipeline: Pipeline
        self._address = ""
        self._check()

    async def run(self, config: Config) -> None:
        """Serves until it is to end."""
        clock, ending = RecordedClock(self._recording.began_ns), asyncio.Event()

        def source(pipeline: Pipeline) -> ReplaySource:
            speed = 0.0 if self._options.fast else self._options.speed
            begin_s, end_s = self._options.begin_s, self._options.end_s
            self._pipeline = pipeline
            self._source = ReplaySource(
                recording=self._recording, pipeline=pipeline, clock=clock, speed=speed, begin_s=begin_s, end_s=end_s
            )
            return self._source

        tasks: list[asyncio.Task[None]] = []

        def started(addresses: Addresses) -> None:
            sidecar.announce(addresses, self._options, silent=self._options.once)
            self._address = addresses.grpc
            tasks.append(asyncio.create_task(self._look(ending)))

        try:
            await serve(config, on_start=started, ending=ending, source=source, known=self._known(), clock=clock)
        finally:
            for task in tasks:
                task.cancel()

    async def _look(self, ending: asyncio.Event) -> None:
        """Shows how far it has come, and says or does what is to come after it."""
        shown = 0.0
        while not self._source.progress.ended:
            if time.monotonic() - shown > sidecar.PROGRESS_S:
                progress, shown = self._source.progress, time.monotonic()
                self._line.show(f"{self._position(progress.seconds)}  {sidecar.counted(progress.totals)}")
            await asyncio.sleep(LOOK_S)
        self._line.clear()
        if self._source.failed is not None:
            return  # the sidecar ends with it
        if self._options.once:
            ending.set()
        else:
            print(self.text(), flush=True)

    # --- before ---------------------------------------------------------------------------------------------------
    def _check(self) -> None:
        """Refuses what cannot be replayed, and says what is missing."""
        index, begin_s = self._recording.index, self._options.begin_s or 0.0
        if begin_s >= self._options.end_s:
            raise UsageError("--from", found=f"{begin_s:g} s", expected=f"less than --to, {self._options.end_s:g} s")
        if index is None:
            [reason, *_] = self._recording.defects()
            logger.warning("recording without an index", file=str(self._options.file), reason=reason)
        elif begin_s > index.duration_ns / 1e9:
            expected = f"at most {index.duration_ns / 1e9:.3f} s, which it has"
            raise ConfigError("--from", found=f"{begin_s:g} s", expected=expected)
        elif index.lost:
            logger.warning("recording with gaps", file=str(self._options.file), lost_records=index.lost)

    def _known(self) -> Mapping[str, KnownDictionary]:
        """The dictionaries in the recording."""
        found = {}
        for weights, files in self._recording.sheets.items():
            try:
                found[weights] = dictionaries.known(files, where=f"{self._options.file}: ")
            except ManifestError as error:
                logger.warning("dictionary left out", weights=weights, reason=str(error))
        return found

    # --- afterwards -----------------------------------------------------------------------------------------------
    def text(self) -> str:
        """What it came to, for people or programs."""
        facts = self._facts()
        if self._options.json:
            return json.dumps(facts)
        return f"The recording has ended after {sidecar.clock_time(facts['duration_s'])}: {' '.join(self._said(facts))}"

    def _said(self, facts: Mapping[str, Any]) -> Iterator[str]:
        yield f"frames {facts['frames']:,}, requests {facts['requests']:,}, {_seen(facts)}."
        yield from (f"{line}." for line in recordings.damaged(self._recording.defects()))
        if facts["lost_tokens"]:
            lacks = f"{facts['lost_tokens']:,} tokens with {facts['lost_slot_firings']:,} slot firings"
            yield f"The engine had told {lacks} that the file lacks: they count as missed (gap)."
        if not self._options.once:
            yield f"It can still be asked: `saewatch query firings --address {self._address}`, or status; Ctrl-C ends."

    def _facts(self) -> dict[str, Any]:
        status, source, recording = self._pipeline.status(), self._source, self._recording
        told = [(stream.books, stream.unread_rows) for stream in status.streams if stream.books]
        books, lost = [one for one, _ in told], source.lost
        fed = sum(one.fed for one in books)
        seen = sum(max(one.encoded + one.reused - unread, 0) for one, unread in told)
        missed = sum((Counter(one.missed) for one in books), Counter[str]())
        facts = {
            "frames": source.progress.totals.frames,
            "damaged_frames": recording.damaged_frames,
            "damaged_bytes": recording.damaged_bytes,
            "lost_records": recording.index.lost if recording.index else 0,
            "lost_tokens": lost[TOKENS],
            "lost_slot_firings": lost[FIRINGS],
            "requests": source.progress.totals.requests,
            "fed": fed,
            "encoded": sum(one.encoded for one in books),
            "reused": sum(one.reused for one in books),
            "missed": missed.total(),
            "missed_by_reason": dict(missed),
            "imbalance": sum(abs(one.imbalance) for one in books),
            "coverage": recordings.coverage(seen, fed),
            "slot_firings": sum(stream.received_firings for stream in status.streams),
            "gaps": sum(stream.seq_gaps for stream in status.streams),
            "dropped": sum(queue.dropped for queue in self._pipeline.queues()),
            "duration_s": round(source.progress.seconds, 3),
        }
        if source.progress.first_firing is not None:
            facts["first_firing_s"] = round(source.progress.first_firing - _began(), 2)
        return facts

    def _position(self, seconds: float) -> str:
        index = self._recording.index
        return sidecar.clock_time(seconds) + (f" / {sidecar.clock_time(index.duration_ns / 1e9)}" if index else "")


def _seen(facts: Mapping[str, Any]) -> str:
    if not facts["fed"]:
        return "nothing was fed"
    shares = ", ".join(f"{name} {facts[name]:,}" for name in ("encoded", "reused", "missed") if facts[name])
    covered = recordings.covered(facts["coverage"], facts["missed_by_reason"])
    return f"fed {facts['fed']:,} ({shares}), {covered}, slot firings {facts['slot_firings']:,}"


def _configured(options: argparse.Namespace) -> Config:
    """As for `saewatch serve`, without socket and store; with ``--once`` and no configuration on any ports."""
    config = sidecar.configured(options).model_copy(update={"socket": "", "store": ""})
    if options.once and options.config is None:
        config = config.model_copy(update={"grpc": Grpc(listen=ANY_PORT), "web": Web(listen=ANY_PORT)})
    return config


def _history_in(folder: Path, config: Config) -> Config:
    """With a history of its own: that of `saewatch serve` is about what really happened, and happened once."""
    return config.model_copy(update={"history": config.history.model_copy(update={"path": str(folder / "history.db")})})


def _began() -> float:
    """When this process began, on `time.monotonic`."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # proc(5): starttime, in ticks
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age
