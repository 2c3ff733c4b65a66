"""Record what engines send, in a sidecar's place, for `saewatch replay`; until SIGTERM, Ctrl-C or --for.

The file has the firings and the labels of requests (client's id, tenant, conversation), and the dictionaries' sheets;
no text and no token ids. Engines that were connected to another sidecar on the socket connect by themselves.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import threading
import time
from pathlib import Path

from saewatch import logs
from saewatch.cli import sidecar
from saewatch.core.errors import UnreachableError
from saewatch.core.limits import MIB
from saewatch.edge import dictionaries
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.recorder import FAILED, Recorded, RecordedSource, Recorder

ASKED, TIME = "asked", "time"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where from, where to, and how long."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a new file")
    sidecar.config_arguments(parser)
    parser.add_argument("--socket", help="to listen on, in the place of the configured one")
    parser.add_argument("--for", type=sidecar.above_zero, default=math.inf, dest="seconds", metavar="SECONDS")
    sidecar.size_argument(parser)
    parser.add_argument("--note", default="", metavar="TEXT", help="for people, into the recording")


def run(options: argparse.Namespace) -> int:
    """Records, and says what it came to."""
    config = sidecar.configured(options)
    if options.socket:
        config = config.model_copy(update={"socket": str(Path(options.socket).absolute())})
    logs.set_up(config.log.level)
    pipeline = Pipeline(dictionaries=dictionaries.load(Path(one) for one in config.dictionaries))
    recorder = sidecar.recorder(options, config, file=options.file, consumer=pipeline, note=options.note)
    source = RecordedSource(path=config.socket, allowed_users=config.allowed_users, recorder=recorder)
    try:
        source.start()
        if not options.json:
            print(f"recording into {options.file} what comes to {config.socket}; Ctrl-C ends", flush=True)
        ended = _wait(source, recorder, options.seconds)
    finally:
        source.stop()
    return _summary(options, recorder.state(), ended)


def _wait(source: RecordedSource, recorder: Recorder, seconds: float) -> str:
    """Until one of the ends; which one."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    line, began = sidecar.ProgressLine(), time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        if ending.wait(min(left, sidecar.PROGRESS_S)):
            break
        if source.failed is not None:
            raise source.failed
        state = recorder.state()
        if state.ended:
            line.clear()
            return state.ended
        line.show(f"{sidecar.clock_time(time.monotonic() - began)}  {_counted(state)}")
    line.clear()
    return ASKED if left > 0 else TIME


def _counted(state: Recorded) -> str:
    return f"{sidecar.counted(state.totals)}, {state.bytes / MIB:.1f} MiB"


def _summary(options: argparse.Namespace, state: Recorded, ended: str) -> int:
    """Prints it. Raises `UnreachableError` when the file did not take everything."""
    if state.ended == FAILED:
        hint = "What was written before can be replayed."
        raise UnreachableError(str(options.file), found=state.problem, expected="room for a recording", hint=hint)
    seconds, totals = state.duration_ns / 1e9, state.totals
    if options.json:
        facts = {
            "file": str(options.file),
            "ended": ended,
            "bytes": state.bytes,
            "duration_s": round(seconds, 3),
            "frames": totals.frames,
            "requests": totals.requests,
            "tokens": totals.rows + totals.missed,
            "firings": totals.firings,
            "dropped": state.dropped,
        }
        print(json.dumps(facts))
    else:
        dropped = f"; {state.dropped:,} records were dropped" if state.dropped else ""
        why = f"; it ended because {state.problem}" if state.problem else ""
        print(f"{options.file}: {sidecar.clock_time(seconds)}, {_counted(state)}{dropped}{why}")
    return 0
