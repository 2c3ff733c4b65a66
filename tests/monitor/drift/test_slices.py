from __future__ import annotations

import numpy as np
import pytest

from saewatch.core.errors import RecordError
from saewatch.monitor.drift.counts import EXPOSURE_UNIT
from saewatch.monitor.drift.history import DAY_NS
from saewatch.monitor.drift.slices import (
    HOURS,
    KINDS,
    LENGTHS,
    NO_TENANT,
    QUARTER_NS,
    QUARTERS_KEPT,
    SLICES,
    SOURCES,
    Building,
    Counted,
    Live,
    kind_of,
    merged,
    name_of,
    source_of,
)
from tests.monitor.drift.mixes import Request

FEATURES = 9
NOON = DAY_NS // 2


def requests(count: int = 200, seed: int = 1) -> list[Request]:
    """Of two days, of any kind."""
    chance = np.random.default_rng(seed)
    return [
        Request(
            np.flatnonzero(chance.random(FEATURES) < 0.3),
            int(chance.integers(1, 4000)),
            int(chance.integers(SOURCES)),
            int(chance.integers(2 * DAY_NS)),
        )
        for _ in range(count)
    ]


def built(of: list[Request]) -> Building:
    found = Building(FEATURES)
    for one in of:
        found.add(one.feature, tokens=one.tokens, source=one.source, ended_ns=one.now_ns)
    return found


@pytest.mark.parametrize(
    ("tokens", "length"), [(0, 0), (63, 0), (64, 1), (255, 1), (256, 2), (1023, 2), (1024, 3), (10**6, 3)]
)
def test_a_request_is_of_a_band_of_lengths(tokens: int, length: int) -> None:
    assert kind_of(NO_TENANT, tokens) == length
    assert name_of(kind_of(3, tokens)) == (LENGTHS[length], "source 3")
    assert name_of(kind_of(NO_TENANT, tokens))[1] == "without a tenant"


def test_bands_and_sources_are_told_apart() -> None:
    kinds = {kind_of(source, tokens) for source in range(SOURCES) for tokens in (1, 100, 500, 5000)}
    assert kinds == set(range(KINDS))


def test_a_tenants_bucket_is_the_same_everywhere_and_never_that_of_none() -> None:
    assert source_of("") == NO_TENANT
    assert [source_of(name) for name in ("acme", "globex", "initech")] == [2, 4, 6], "it is kept in baselines"
    assert {source_of(f"tenant-{number}") for number in range(200)} == set(range(1, SOURCES))


def test_a_baseline_counts_each_request_in_its_slice() -> None:
    one = Building(FEATURES)
    one.add(np.array([2, 5]), tokens=300, source=4, ended_ns=3 * DAY_NS + NOON)
    one.add(np.array([5]), tokens=300, source=4, ended_ns=NOON)
    one.add(np.array([5]), tokens=300, source=4, ended_ns=NOON - 1)
    found = one.slices(np.array([2, 5]))
    noon = 2 * KINDS + kind_of(4, 300)
    assert found.n[noon].tolist() == [1, 2]
    assert found.requests[noon] == 2
    assert found.exposure[noon, -1] == 600 * EXPOSURE_UNIT
    assert found.n.sum() == 4
    assert found.usual.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert (found.low[noon], found.high[noon], found.high[0]) == (1.0, 1.0, 0.0)


def test_shares_are_those_of_days_and_a_day_with_few_requests_is_none() -> None:
    one = Building(FEATURES)
    for number, (short, long) in enumerate([(9, 1), (8, 2), (6, 4), (0, 1)]):
        for tokens, count in ((10, short), (2000, long)):
            for _ in range(count):
                one.add(np.array([0]), tokens=tokens, source=NO_TENANT, ended_ns=number * DAY_NS)
    found, long = one.slices(np.array([0])), kind_of(NO_TENANT, 2000)
    assert (found.low[long], found.high[long]) == (0.1, 0.4)
    assert found.usual[0] == 10.0


def test_hours_are_sums_of_their_kinds() -> None:
    of = requests()
    found = built(of).by_hours()
    assert found.requests.tolist() == [
        sum(one.now_ns % DAY_NS // QUARTER_NS == hours for one in of) for hours in range(len(HOURS))
    ]
    assert found.n.sum() == sum(len(one.feature) for one in of)
    assert found.exposure[:, -1].sum() == EXPOSURE_UNIT * sum(one.tokens for one in of)


def test_the_order_of_requests_changes_nothing() -> None:
    of = requests()
    shuffled = [of[number] for number in np.random.default_rng(2).permutation(len(of)).tolist()]
    left, right = (built(each).slices(np.arange(FEATURES)) for each in (of, shuffled))
    for name in ("n", "exposure", "low", "high", "usual"):
        assert (getattr(left, name) == getattr(right, name)).all(), name


@pytest.mark.parametrize("seed", range(20))
def test_parts_together_are_the_whole(seed: int) -> None:
    of, chance = requests(seed=seed), np.random.default_rng(seed)
    parts = [Building(FEATURES) for _ in range(5)]
    for one in of:
        part = parts[int(chance.integers(5))]
        part.add(one.feature, tokens=one.tokens, source=one.source, ended_ns=one.now_ns)
    together = Counted(SLICES, FEATURES)
    for number in chance.permutation(5).tolist():
        together = merged(together, parts[number].counted)
    whole = built(of).counted
    assert (together.n == whole.n).all()
    assert (together.exposure == whole.exposure).all()


def test_counts_of_other_features_are_not_added() -> None:
    with pytest.raises(RecordError, match=r"slices\.n"):
        merged(Counted(SLICES, 3), Counted(SLICES, 4))


# --- live -------------------------------------------------------------------------------------------------------------
def test_only_features_of_the_baseline_are_counted() -> None:
    live = Live(np.array([1, 4]), FEATURES)
    live.add(np.array([0, 4, 8]), tokens=10, source=2, now_ns=NOON)
    [quarter] = live.latest()
    assert quarter.counted.n[kind_of(2, 10)].tolist() == [0, 1]
    assert (quarter.hours, quarter.requests, int(quarter.counted.requests.sum())) == (2, 1, 1)


def test_two_days_are_kept_however_long_it_runs() -> None:
    live = Live(np.arange(FEATURES), FEATURES)
    for number in range(40):
        live.add(np.array([0]), tokens=10, source=0, now_ns=number * QUARTER_NS)
        assert live.nbytes <= QUARTERS_KEPT * (4 * KINDS * FEATURES + 8 * KINDS * 5)
    assert [one.number for one in live.latest()] == list(range(39, 31, -1))
    live.add(np.array([0]), tokens=10, source=0, now_ns=0)
    assert sum(one.requests for one in live.latest()) == QUARTERS_KEPT, "a request of long ago changes nothing"
    live.add(np.array([0]), tokens=10, source=0, now_ns=10**6 * QUARTER_NS)
    assert [one.number for one in live.latest()] == [10**6]


def test_what_came_since_a_block_is_known_by_its_quarters() -> None:
    live = Live(np.arange(FEATURES), FEATURES)
    for block in range(1, 9):  # two a quarter, of ten requests each
        for _ in range(10):
            live.add(np.array([0]), tokens=10, source=0, now_ns=(block - 1) * QUARTER_NS // 2)
        live.closed(block)
    wanted = [(9, [3], 0.0), (8, [3], 0.5), (7, [3], 1.0), (6, [3, 2], 0.75), (1, [3, 2, 1, 0], 1.0)]
    for block, numbers, part in wanted:
        quarters, share = live.since(block)
        assert [one.number for one in quarters] == numbers
        assert share == part
    assert Live(np.arange(2), 2).since(1) == ([], 0.0)
