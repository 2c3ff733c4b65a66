"""One thread that settles steps, builds their batches and sends them; the engine never waits for it.

The worker's thread puts a `Note` into the inbox after each step and goes on. This thread applies the notes in order to
the ledger and the books, builds and checks a batch for each stream, and drains a bounded queue into a non-blocking Unix
socket, on which acknowledgements and commands come back. Nothing here is shared with the worker's thread but the inbox
and the slabs, which go back through `Note.release`.

Losses are booked once: what the encoder left out, *excluded* and *overflow*; what was not captured, by the note's own
reason; what was given up unacknowledged, *gap*; a fault of ours, *blind*; and what `Dispatch` loses. A connection
begins with every stream, watch set and open request; the sidecar's first acknowledgement on it says what of the last
one had arrived. What is watched may change between two steps (`turn`): streams end, open, or go on with other slots.
While the model's weights are away or change the streams are blind for now (`pause`), until the turn that resumes it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from saewatch.core import limits
from saewatch.core.batch import Origin, Reason
from saewatch.core.errors import RecordError, UnreachableError
from saewatch.core.records import Ack, Beat, Command, Record, RequestEnd, RequestStart, Result, StreamBeat
from saewatch.core.wire import encode
from saewatch.engine.batching import Encoded, check_captured
from saewatch.engine.bell import Bell
from saewatch.engine.beside import OwnStream, beside
from saewatch.engine.books import STREAMS_ENDING, Sight, Stream, beat_of
from saewatch.engine.commands import Carried, Commands
from saewatch.engine.control import Turn
from saewatch.engine.dispatch import Dispatch
from saewatch.engine.ledger import Ledger, Settled, Skipped, Step
from saewatch.engine.outbox import Outbox
from saewatch.engine.reuse import Replay
from saewatch.engine.staging import Note

logger = logging.getLogger("vllm.saewatch")

INBOX_NOTES = 8192
"""Notes that wait for this thread: minutes of steps, so a device that hangs. Beyond it a step is dropped, and the
streams are blind for good: the ledger lacks it."""
CONNECT_EVERY_S = 0.5
HEAR_EVERY_S = 0.25
"""While steps come, what the sidecar says waits for the next one, at most so long: waking up for it takes 0.2 ms."""
FAULT_PAUSE_S = 0.1
"""After a fault of ours, so that one that comes again and again takes no time from the engine."""


class Shipper:
    """Owns the thread, the ledger, the books and the socket.

    ``counters`` reads each stream's device counter of sink calls, ``stages`` the seconds spent by stage, and
    ``commands`` are carried out, by verb. ``taken``: how many steps have been given what they watch.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        streams: Sequence[Stream],
        counters: Callable[[], Sequence[int]],
        stages: Callable[[], Mapping[str, float]],
        commands: Mapping[str, Carried] | None = None,
        taken: Callable[[], int] = int,
        stream: OwnStream = None,
        beat_every_s: float = limits.BEAT_INTERVAL_NS / 1e9,
        connect_every_s: float = CONNECT_EVERY_S,
    ) -> None:
        self._outbox = outbox
        self.dispatch = Dispatch(outbox, self._fault)
        self._streams = {stream.opening.stream: stream for stream in streams}
        self._current = list(streams)  # that a step is booked to; the others are ending
        self._turns: deque[Turn] = deque()
        self._counters = counters
        self._stages = stages
        self._commands = Commands(commands or {})
        self._taken = taken
        self._left = self._watching = 0  # notes that are done with, and the number of what they watched
        self._sight = Sight()
        self._beat_every_s, self._connect_every_s = beat_every_s, connect_every_s
        self._ledger = Ledger(block=max((one.reuse.block for one in streams if one.reuse), default=0))
        self._inbox: deque[Note] = deque()
        self._bell, self._stopping = Bell(), threading.Event()
        self._thread = beside(self._run, name="shipper", stream=stream)
        self._next_beat = self._next_connect = self._hear_at = self._seconds = 0.0
        self._stage_seconds: Mapping[str, float] = {}
        self.faults = self.dropped = 0

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def books(self) -> tuple[StreamBeat, ...]:
        """Each stream's books; exact once the thread has stopped."""
        return tuple(stream.books.beat() for stream in self._streams.values())

    def put(self, note: Note) -> None:
        """Called by the worker's thread; never waits. A note that comes too late, or of far too many, is dropped."""
        if self._stopping.is_set() or len(self._inbox) >= INBOX_NOTES:
            self.dropped += 1
            self.blind("shipper_behind")  # the ledger misses a step: what it says from here on may be wrong
            if note.release:
                note.release()
            return
        self._inbox.append(note)
        self._bell.ring()

    def blind(self, reason: str) -> None:
        """Every stream is blind from now on; told with the next beat."""
        self._sight.fault = self._sight.fault or reason
        for stream in list(self._streams.values()):
            stream.books.fault = stream.books.fault or reason

    def pause(self, number: int, reason: str) -> None:
        """Called by the tap: the streams are blind for now, until a turn resumes this pause; told with a beat."""
        self._sight.pause = (number, reason)
        self._bell.ring()

    def turn(self, turn: Turn) -> None:
        """Called by the thread that prepared it, before any step is taken under its number."""
        self._turns.append(turn)
        self._bell.ring()

    def answer(self, result: Result) -> None:
        """Called by the thread that carried a command out."""
        self._commands.answer(result)
        self._bell.ring()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Ends the streams, sends what the socket takes in time, and stops the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._bell.ring()
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except UnreachableError as error:
                self._disconnect(error)
            except Exception as error:  # the thread must go on: a fault of ours blinds the streams and is counted
                self._fault(error)
                self._stopping.wait(FAULT_PAUSE_S)
        try:
            self._end()
        except UnreachableError:
            logger.warning("saewatch: the sidecar was gone at the end; its last books are those of the last beat")
        except Exception as error:  # at the end there is nothing to save but the engine's own shutdown
            self._fault(error)
        self._outbox.close()

    def _fault(self, error: Exception) -> None:
        """The streams are blind from here on, and what the fault lost is booked."""
        self.faults += 1
        self.blind("shipper_fault")
        for stream in self._streams.values():
            stream.books.write_off(Reason.BLIND)
        if self.faults == 1:
            logger.error("saewatch: the shipper failed; the streams are blind from here on", exc_info=error)

    def _turn(self) -> None:
        now = time.monotonic()
        if not self._outbox.connected and now >= self._next_connect:
            self._next_connect = now + self._connect_every_s
            self._connect()
        spoken_to = self._wait(now)
        if self._inbox:
            self._hear_at = now + HEAR_EVERY_S
        if len(self._inbox) == 1:
            self._bell.give_way()
        started = time.thread_time()
        for record in self._outbox.receive() if spoken_to else ():
            self._receive(record)
        for _ in range(len(self._inbox)):  # not those that come meanwhile: beats and acknowledgements have their turn
            if self._stopping.is_set():
                return
            self._ship(self._inbox.popleft())
            self._outbox.flush()
        self._change()
        if time.monotonic() >= self._next_beat:
            self._beat()
        self._outbox.flush()
        self._seconds += time.thread_time() - started

    def _wait(self, now: float) -> bool:
        """Until there is something to do. True when the sidecar may have spoken, or be gone."""
        until = self._next_beat if self._outbox.connected else min(self._next_beat, self._next_connect)
        if deaf := now < self._hear_at and not self._outbox.waiting:
            until = min(until, self._hear_at)
        seconds, socket = 0.0 if self._inbox else until - now, -1 if deaf else self._outbox.fileno()
        return self._bell.wait(seconds, socket=socket, writing=self._outbox.waiting) or deaf

    # --- connections ----------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        if not self._outbox.connect():
            return
        logger.info("saewatch: connected to the sidecar")
        try:
            self._introduce()
        except Exception:  # whatever it was, half an introduction must not stay; the caller counts it
            self._disconnect("it could not be told what there is")
            raise

    def _introduce(self) -> None:
        starts = self._ledger.starts
        known = {start.request for start in starts}
        for stream in self._streams.values():
            stream.books.forget(known, known=True)
            self._control(replace(stream.opening, blind=stream.books.blind))
            for part in stream.watch:
                self._control(part)
        self._count()
        self._control(self._beat_record())
        for start in starts:
            self._announce(start)
        for stream in self._streams.values():  # after the requests that the losses name
            self.dispatch.tell(stream)

    def _disconnect(self, why: object) -> None:
        logger.warning("saewatch: lost the sidecar: %s", why)
        with contextlib.suppress(UnreachableError):  # what it acknowledged last has arrived
            for record in self._outbox.receive():
                if isinstance(record, Ack):
                    self._receive(record)
        self._outbox.close()

    def _control(self, record: Record) -> None:
        if self._outbox.connected and not self._outbox.put_control(encode(record)):
            self._disconnect("it has not read for very long")

    def _announce(self, start: RequestStart) -> None:
        try:
            self._control(start)
        except RecordError as error:  # a request that no record can hold must not keep the others from being booked
            self._fault(error)

    def _receive(self, record: Record) -> None:
        if isinstance(record, Ack):
            stream = self._streams.get(record.stream)
            if stream is not None and record.epoch == stream.opening.epoch:
                stream.books.acknowledge(record.seq, self._outbox.connection)
        elif isinstance(record, Command):
            for result in self._commands.carry_out(record, self._outbox.connection):
                self._control(result)

    # --- changes ------------------------------------------------------------------------------------------------------
    def _change(self) -> None:
        """What came about between two steps: pauses, turns that no step waits for, answers, and the ends of streams."""
        if self._sight.news and self._sight.tell(self._current):  # not at each step
            self._beat()
        while self._turns and self._left + self.dropped == self._taken():  # none is on its way
            self._turn_over(self._turns.popleft())
        self._reply()
        ending = [one for one in self._streams.values() if one.ending]
        settled = [one for one in ending if self._outbox.connected and one.books.settled]
        for stream in settled or ending[:-STREAMS_ENDING]:
            if not settled:
                logger.warning("saewatch: the books of stream %d were never told in full", stream.opening.stream)
            self._control(stream.ended(stream.ending))
            del self._streams[stream.opening.stream]

    def _turn_over(self, turn: Turn) -> None:
        self._watching = turn.number
        self._sight.turn(off=turn.off, resumes=turn.resumes)
        for stream in [one for one in self._current if one not in turn.streams]:
            stream.end(turn.ending)
        self._current = list(turn.streams)
        self._sight.tell(self._current)
        for stream in turn.streams:
            number, watch = stream.opening.stream, turn.watch.get(stream.opening.stream)
            if watch is not None:
                stream.turn(watch)
            if number not in self._streams:
                self._streams[number] = stream
                self._control(replace(stream.opening, blind=stream.books.blind))
                watch = stream.watch
            for part in watch or ():
                self._control(part)
        turn.turned()
        self._beat()
        if turn.answer is not None:
            self._commands.answer(turn.answer)
            self._reply()

    def _reply(self) -> None:
        for result in self._commands.due(self._outbox.connection):  # which has asked, and no other
            self._control(result)

    # --- steps ----------------------------------------------------------------------------------------------------
    def _ship(self, note: Note) -> None:
        while self._turns and note.watching > self._watching:
            self._turn_over(self._turns.popleft())
        try:
            step, encoded = self._read(note)
            settled = self._ledger.settle(step)
            for start in settled.started:
                self._announce(start)
            for index, stream in enumerate(self._current):
                self._book(stream, step, settled, encoded[index] if encoded else None)
            for end in settled.ended:
                self._ended(replace(end, time_ns=step.time_ns))
            self.dispatch.pass_on(note.census)
        finally:
            self._left += 1
            if note.release:
                note.release()

    def _read(self, note: Note) -> tuple[Step, Sequence[Encoded] | None]:
        """The step and what fired in it; a step that cannot be read is one that was not captured."""
        if note.read is None:
            return replace(note.step, positions=None), None
        try:
            encoded = note.read()
            step = replace(note.step, positions=note.positions()) if note.positions else note.step
            check_captured(step, encoded, streams=len(self._current))
        except Exception as error:  # a device fault, or a bug: the books stay right, the step is lost
            self._fault(error)
            return replace(note.step, positions=None, reason=Reason.BLIND), None
        return step, encoded

    def _ended(self, end: RequestEnd) -> None:
        for stream in self._streams.values() if self._outbox.connected else ():
            if stream.books.owes(end.request):
                self.dispatch.tell(stream)
        self._control(end)
        if not self._outbox.connected:  # the next connection will not know it: keep the untold losses bounded
            for stream in self._streams.values():
                stream.books.forget({end.request}, known=False)

    def _book(self, stream: Stream, step: Step, settled: Settled, encoded: Encoded | None) -> None:
        fed = settled.fed
        for span, known in self._replays(stream, settled, encoded):
            fed -= span.tokens
            stream.books.skip(span, len(known[0].row) if known else 0)
            if known:
                self.dispatch.report(stream, step, *known)
        stream.books.take(fed, int((settled.origin != Origin.RECOMPUTED).sum()), settled.missed)
        if encoded is not None and len(settled.row):
            self.dispatch.report(stream, step, settled, encoded)

    def _replays(
        self, stream: Stream, settled: Settled, encoded: Encoded | None
    ) -> list[tuple[Skipped, Replay | None]]:
        try:
            return stream.replays(settled, encoded, self._ledger.chains)
        except Exception as error:  # then nothing is known to have fired there; the step is reported all the same
            self._fault(error)
            return [(span, None) for span in settled.skipped]

    # --- beats and the end ----------------------------------------------------------------------------------------
    def _beat(self) -> None:
        self._next_beat = time.monotonic() + self._beat_every_s
        self._count()
        for stream in self._streams.values():
            self.dispatch.tell(stream)
        self._control(self._beat_record())

    def _count(self) -> None:
        try:
            for stream, calls in zip(self._current, self._counters(), strict=True):
                stream.books.sink_calls = calls
            self._stage_seconds = self._stages()
        except Exception as error:  # a device that is gone: the beat that says so must go out
            self._fault(error)

    def _beat_record(self) -> Beat:
        return beat_of(
            list(self._streams.values()),
            time_ns=time.time_ns(),
            queue_bytes=self._outbox.bytes,
            stage_seconds={**self._stage_seconds, "ship": self._seconds},
        )

    def _end(self) -> None:
        deadline = time.monotonic() + 1.0
        while self._inbox:
            note = self._inbox.popleft()
            if time.monotonic() >= deadline:  # no time to read it: its tokens are counted all the same
                note = replace(note, read=None, step=replace(note.step, reason=Reason.SHUTDOWN))
            self._ship(note)
        self._beat()
        while self._outbox.connected and self._on_its_way() and time.monotonic() < deadline:
            self._outbox.flush()
            time.sleep(0.01)
            for record in self._outbox.receive():
                self._receive(record)
        for stream in self._streams.values():
            stream.books.give_up(Reason.SHUTDOWN)
            self._control(stream.ended(stream.ending or "shutdown"))
        self._outbox.flush()

    def _on_its_way(self) -> bool:
        return self._outbox.waiting or any(stream.books.unacknowledged for stream in self._streams.values())
