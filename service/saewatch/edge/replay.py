"""The source that reads a recording: the same pipeline, from a file.

Time is the recorded time. One thread goes from record to record, and every `TICK_NS` of recorded time between them it
tells the pipeline that time has passed, but for ticks at which nothing is due (`Pipeline.due_ns`) while it goes as fast
as it can: a week has six million. The pace decides how long it waits in between and nothing else, so that what comes
out does not depend on it. It never overruns a sink: while one's queue is more than half full, it waits. At the end
time stands still, nobody is disconnected, and everything can still be asked for.

What the file lacks of what the engine had told is told as missed (`edge.shortfall`).
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from saewatch.core import limits
from saewatch.core.batch import FiringBatch
from saewatch.core.errors import AccessError, EngineError, RecordError, SaewatchError
from saewatch.core.marks import Happening
from saewatch.core.recording import Received, Recording, Totals
from saewatch.core.records import Command, Record, RequestStart, Result
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.shortfall import Shortfall
from saewatch.edge.sources import FAULTS

logger = structlog.get_logger(__name__)

TICK_NS = 100_000_000
SETTLE_NS = limits.LABEL_WAIT_NS + TICK_NS
"""Time goes on by this much after the last record, so that what waits for a label in vain is told of."""
CROWDED_S = 0.001
REFUSAL = str(
    EngineError(
        "replay",
        found="a recording, which carries nothing out",
        expected="an engine that runs",
        hint="Ask the sidecar beside the engine.",
    )
)


class RecordedClock:
    """The recorded time, as far as the replay has come, in nanoseconds since 1970."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        """Now."""
        return self.now_ns


@dataclass(slots=True)
class Progress:
    """How far a replay has come."""

    totals: Totals = field(default_factory=Totals)
    seconds: float = 0.0
    """Of the recording."""
    first_firing: float | None = None
    """When the first batch with firings had been given to the sinks, on `time.monotonic`."""
    ended: bool = False


class ReplaySource:
    """Feeds ``pipeline``, which has ``clock``, from ``recording``.

    Args:
        speed: recorded seconds for each second; 0: as fast as it goes.
        begin_s: up to here it goes as fast as it can, whatever the speed; None: up to the first request.
        end_s: it ends here.
        on_end: called by the thread when it has ended.
    """

    def __init__(
        self,
        *,
        recording: Recording,
        pipeline: Pipeline,
        clock: RecordedClock,
        speed: float = 1.0,
        begin_s: float | None = None,
        end_s: float = math.inf,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._recording = recording
        self._pipeline = pipeline
        self._clock = clock
        self._speed = speed
        self._begin_s = begin_s
        self._end_s = end_s
        self._on_end = on_end
        self._due: float | None = None  # when it is the clock's time, on time.monotonic; None: without a pace
        self._next_tick = clock.now_ns + TICK_NS
        self._links: set[int] = set()
        self._shortfall = Shortfall()
        self._told: set[str] = set()
        self._refused = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saewatch-ingest", daemon=True)
        self.progress = Progress()
        self.failed: BaseException | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread where it is."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it has been started and has not failed; its end is none."""
        return self._thread.ident is not None and self.failed is None

    @property
    def lost(self) -> Counter[str]:
        """What the engine had told and the file lacks: `shortfall.TOKENS`, ROWS and FIRINGS, as far as is known."""
        return self._shortfall.lost

    @property
    def counters(self) -> Counter[str]:
        """Those of a socket source, and what could not be read of the file."""
        found = Counter(dict.fromkeys(FAULTS, 0))
        found["refused_record"] = self._refused
        found["damaged_frames"] = self._recording.damaged_frames
        found["damaged_bytes"] = self._recording.damaged_bytes
        return found

    def send(self, link: int, command: Command) -> None:
        """A recorded engine answers nothing: whoever asked is told so."""
        self._pipeline.receive(link, Result(command=command.command, good=False, message=REFUSAL))

    # --- the thread -----------------------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            for received in self._recording.received():
                seconds = (received.mark.time_ns - self._recording.began_ns) / 1e9
                if self._stopping.is_set() or seconds > self._end_s:
                    break
                self._reach(received.mark.time_ns)
                self._give(received)
                self.progress.seconds = seconds
                self._begin(seconds, received.record)
            for link, batch in self._shortfall.rest(self._links):
                self._receive(link, batch)
            self._reach(self._clock.now_ns + SETTLE_NS)
        except BaseException as error:  # the thread's end must be seen: it makes the sidecar exit
            self.failed = error
            logger.exception("replay failed")
        finally:
            self.progress.ended = True
            self._on_end()

    def _begin(self, seconds: float, record: Record | None) -> None:
        """From where on there is a pace."""
        if self._due is None and self._speed:
            begins = isinstance(record, RequestStart) if self._begin_s is None else seconds >= self._begin_s
            self._due = time.monotonic() if begins else None

    def _reach(self, time_ns: int) -> None:
        """Time goes on to ``time_ns``; it never goes back."""
        self._next_tick = max(self._next_tick, time_ns - limits.RECORDING_SILENCE_NS)
        while self._next_tick <= time_ns and not self._stopping.is_set():
            self._wait(self._next_tick)
            self._pipeline.tick()
            self._next_tick += self._until_due(time_ns)
        self._wait(time_ns)

    def _until_due(self, time_ns: int) -> int:
        """From this tick to the first one that may change something, or to the first one after ``time_ns``."""
        if self._due is not None:  # somebody looks at the clock meanwhile
            return TICK_NS
        wanted = int(min(self._pipeline.due_ns(), time_ns + 1))
        return max(-((self._next_tick - wanted) // TICK_NS), 1) * TICK_NS  # rounded up, without floats

    def _wait(self, time_ns: int) -> None:
        if self._due is not None:
            silence = min(max(time_ns - self._clock.now_ns, 0), limits.RECORDING_SILENCE_NS)
            self._due += silence / 1e9 / self._speed
            self._stopping.wait(max(self._due - time.monotonic(), 0.0))
        while self._crowded() and not self._stopping.is_set():
            time.sleep(CROWDED_S)
        self._clock.now_ns = max(self._clock.now_ns, time_ns)

    def _crowded(self) -> bool:
        return any(2 * queue.waiting > limits.SINK_QUEUE_BATCHES for queue in self._pipeline.queues())

    # --- records --------------------------------------------------------------------------------------------------
    def _give(self, received: Received) -> None:
        mark, record = received.mark, received.record
        if record is None and mark.link in self._links:
            self._links.discard(mark.link)
            self._pipeline.disconnect(mark.link)
        if mark.link not in self._links and (record is not None or mark.what == Happening.CONNECTED):
            self._links.add(mark.link)  # by its mark, or by a frame whose mark was lost in damage
            self._pipeline.connect(mark.link)
        if record is None:
            return
        self.progress.totals.add(record)
        for amended in self._shortfall.amended(mark.link, record):
            self._receive(mark.link, amended)
        if self.progress.first_firing is None and isinstance(record, FiringBatch) and record.firings:
            self.progress.first_firing = time.monotonic()

    def _receive(self, link: int, record: Record) -> None:
        try:
            if isinstance(record, Result):
                self._pipeline.retell(link, record)
            else:
                self._pipeline.receive(link, record)
        except (RecordError, AccessError) as error:
            self._refuse(link, record, error)

    def _refuse(self, link: int, record: Record, error: SaewatchError) -> None:
        self._refused += 1
        kind = type(record).__name__
        if kind not in self._told:
            self._told.add(kind)
            logger.warning("not accepted", link=link, what=kind, reason=str(error))
