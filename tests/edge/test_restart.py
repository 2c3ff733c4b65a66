"""A subscriber, a sidecar that is ended or killed and started again, and the engine's real shipper in between.

What the subscriber adds up is what happened: every token that was fed is one that it saw, one that it was told is
missed, or one in a gap, less those that it was told will be said again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.servers import free_port
from saewatch.core import limits
from saewatch.engine.books import Stream
from saewatch.engine.outbox import Outbox
from saewatch.engine.shipper import Shipper
from tests import fakes
from tests.engine import shipping
from tests.engine.shipping import Run
from tests.sidecar import Sidecar
from tests.simulate.engine import Engine, Traffic
from tests.subscriber import Subscriber
from tests.waiting import wait_until

KNOWN = fakes.dictionary([fakes.feature(f"demo.l{slot + 1}", latents=(slot,)) for slot in range(shipping.SLOTS)])
TRAFFIC = Traffic(requests=60, prompt_max=200, output_max=60, stops=0.005, preempted=0.02, arrivals=1.0)


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    with Sidecar(tmp_path, [KNOWN], grpc={"listen": f"127.0.0.1:{free_port()}"}) as one:
        yield one


@pytest.fixture
def engine(sidecar: Sidecar) -> Iterator[Run]:
    streams = [Stream(opening=fakes.stream_open(KNOWN, stream=0), watch=[fakes.watch_set(KNOWN, stream=0)])]
    shipper = Shipper(
        outbox=Outbox(path=sidecar.addresses["socket"], bound=limits.QUEUE_BYTES),
        streams=streams,
        counters=lambda: [5],
        stages=dict,
        beat_every_s=0.05,
        connect_every_s=0.05,
    )
    simulated = Engine(TRAFFIC, 3)
    run = Run(shipper, streams, simulated, list(simulated.steps()))
    shipper.start()
    yield run
    shipper.stop()


def put_some(engine: Run, share: float) -> None:
    engine.put(int(len(engine.steps) * share))


def at_rest(engine: Run) -> bool:
    """Whether the sidecar has everything that was put so far."""
    books = engine.streams[0].books
    before = books.fed
    time.sleep(0.2)
    return books.fed == before and books.beat().in_flight == 0 and not books.untold


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("absent_s", [0.0, 0.5])
def test_what_a_subscriber_adds_up_over_restarts_is_what_was_fed(
    sidecar: Sidecar, engine: Run, number: signal.Signals, absent_s: float
) -> None:
    subscriber = Subscriber(sidecar.addresses["grpc"])
    try:
        assert subscriber.ready.wait(10)
        put_some(engine, 0.3)
        wait_until(lambda: subscriber.seen > engine.fed / 20)  # of all that is fed until the end
        for _ in range(2):
            put_some(engine, 0.3)
            sidecar.signal(number)
            sidecar.process.wait()
            put_some(engine, 0.3)
            time.sleep(absent_s)
            sidecar.start_again()
        engine.put()
        wait_until(lambda: at_rest(engine))
        wait_until(lambda: subscriber.accounted >= engine.fed)
        time.sleep(0.3)
    finally:
        subscriber.leave()
    assert subscriber.accounted == engine.fed, (subscriber.watch.totals, subscriber.gaps)
    books = engine.streams[0].books
    if number is signal.SIGTERM:
        assert subscriber.watch.totals.repeated_tokens == 0
        assert subscriber.firings == books.told_firings


def test_a_subscriber_that_was_away_for_a_whole_run_of_the_sidecar_is_told_of_it(sidecar: Sidecar, engine: Run) -> None:
    subscriber = Subscriber(sidecar.addresses["grpc"])
    assert subscriber.ready.wait(10)
    put_some(engine, 0.2)
    wait_until(lambda: subscriber.seen > 0)
    subscriber.leave()
    for _ in range(2):
        sidecar.signal(signal.SIGTERM)
        sidecar.process.wait()
        sidecar.start_again()
        put_some(engine, 0.4)
        wait_until(lambda: at_rest(engine))
    again = Subscriber(sidecar.addresses["grpc"], subscriber)
    try:
        engine.put()
        wait_until(lambda: at_rest(engine) and again.accounted >= engine.fed)
    finally:
        again.leave()
    assert again.accounted == engine.fed
    (gap,) = again.gaps
    assert gap.tokens > 0
    assert again.firings == engine.streams[0].books.told_firings
