"""A shadow dictionary beside the stable one: which requests count, and what is counted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from saewatch.core import limits
from saewatch.core.batch import Reason
from saewatch.core.records import StreamBeat, StreamEnd
from saewatch.monitor.compared import PART_NS, PARTS, Comparison
from saewatch.monitor.tables import KnownDictionary
from tests import fakes
from tests.monitor.stage import Stage

STABLE = fakes.dictionary()
SHADOW = fakes.dictionary([*fakes.FEATURES[:2], fakes.feature("new.l1", latents=(9,))], seed=1)
THIRD = fakes.dictionary(seed=3)
ANIMALS, THREAT = "animals.g1", "threat.l1"


def slot(known: KnownDictionary, name: str) -> int:
    """The first slot of a feature."""
    feature = known.catalogue.chosen([name])[0]
    rows = known.catalogue.watch_list(known.manifest).rows
    wanted = feature.latents[0] if feature.latents else fakes.LATENTS + (feature.direction or 0)
    return rows.index(wanted)


class Beside(Stage):
    """One engine with both, as streams 1 and 2."""

    def __init__(self, stable: KnownDictionary = STABLE, shadow: KnownDictionary = SHADOW) -> None:
        super().__init__(stable, shadow, THIRD)
        self.shadow = shadow
        self.put(fakes.stream_open(stable), fakes.watch_set(stable))
        self.put(fakes.stream_open(shadow, stream=2, role="shadow"), fakes.watch_set(shadow, stream=2))
        self.seqs = {1: 0, 2: 0}

    def step(self, stream: int, request: int, fired: Sequence[str], **fields: Any) -> None:
        """Four tokens of a request; the features fire on the first of them."""
        known = self.known if stream == 1 else self.shadow
        self.seqs[stream] += 1
        firings = sorted((0, slot(known, name), 2.0) for name in fired)
        self.put(fakes.batch([(request, 0, 4)], firings, stream=stream, seq=self.seqs[stream], **fields))

    def served(self, request: int, stable: Sequence[str], shadow: Sequence[str], **label: Any) -> None:
        """A whole request."""
        self.label(request, **label)
        self.start(request)
        self.step(1, request, stable)
        self.step(2, request, shadow)
        self.end(request, fed=4)

    def compared(self) -> Comparison:
        """The only comparison."""
        (found,) = self.monitor.comparisons(self.now)
        return found


def by_id(found: Comparison) -> dict[str, tuple[int, ...]]:
    """Both, stable alone, shadow alone, and tokens of either."""
    columns = (found.both, found.stable_alone, found.shadow_alone, found.stable_firings, found.shadow_firings)
    return {name: tuple(int(column[place]) for column in columns) for place, name in enumerate(found.features)}


def test_by_both_and_by_one_alone() -> None:
    one = Beside()
    one.served(1, [ANIMALS, THREAT], [ANIMALS])
    one.served(2, [], [THREAT, "new.l1"])
    one.served(3, [THREAT, "threat.p1"], [THREAT])
    one.served(4, [], [])
    found = one.compared()
    assert by_id(found) == {ANIMALS: (1, 0, 0, 1, 1), THREAT: (1, 1, 1, 2, 2)}
    assert (found.requests, found.uneven) == (4, 0)
    assert (found.stable_only, found.shadow_only) == (("threat.p1",), ("new.l1",))
    assert (found.stable.tokens, found.stable.firings, found.shadow.firings) == (16, 4, 4)
    assert (found.stable.weights, found.shadow.weights) == (STABLE.weights_digest, SHADOW.weights_digest)


def test_one_saw_less_than_the_other() -> None:
    one = Beside()
    one.label(1)
    one.start(1)
    one.step(1, 1, [THREAT])
    one.seqs[2] += 1
    missed = [(1, Reason.QUEUE_FULL, 3)]
    one.put(fakes.batch([(1, 0, 1)], [], stream=2, seq=one.seqs[2], missed=missed))
    one.end(1, fed=4)
    found = one.compared()
    assert (found.requests, found.uneven, by_id(found)[THREAT]) == (0, 1, (0, 0, 0, 0, 0))


def test_a_request_that_crossed_a_swap_is_uneven() -> None:
    one = Beside()
    one.label(1)
    one.start(1)
    one.step(1, 1, [THREAT])
    one.step(2, 1, [THREAT])
    one.put(StreamEnd(stream=2, reason="swap", final=StreamBeat(stream=2, seq=1)))
    one.put(fakes.stream_open(THIRD, stream=3, role="shadow"), fakes.watch_set(THIRD, stream=3))
    one.put(fakes.batch([(1, 4, 1)], [], stream=1, seq=2), fakes.batch([(1, 4, 1)], [], stream=3, seq=1))
    one.end(1, fed=5)
    (found,) = one.monitor.comparisons(one.now)
    assert (found.shadow.weights, found.requests, found.uneven) == (THIRD.weights_digest, 0, 1)


def test_whose_traffic_counts() -> None:
    one = Beside()
    for number, name in enumerate(("canary", "shadow", "test"), start=1):
        one.served(number, [THREAT], [THREAT], traffic_class=name)
    assert one.monitor.comparisons(one.now) == []
    one.served(9, [THREAT], [THREAT], traffic_class="unlabelled")
    assert one.compared().requests == 1


def test_without_a_shadow_nothing_is_compared() -> None:
    one = Stage().ready()
    one.label(1)
    one.start(1)
    one.batch([(1, 0, 4)], [(0, 2, 1.0)])
    one.end(1, fed=4)
    assert one.monitor.comparisons(one.now) == []


def test_other_labels_are_another_pair() -> None:
    one = Beside()
    one.served(1, [THREAT], [THREAT])
    better = replace(SHADOW.catalogue, features=tuple(replace(f, label="better") for f in SHADOW.catalogue.features))
    relabelled = replace(SHADOW, catalogue=better, catalogue_digest=better.digest)
    one.monitor.relabel(relabelled, one.now)
    one.served(2, [THREAT], [])
    first, second = one.monitor.comparisons(one.now)
    assert [found.shadow.catalogue for found in (first, second)] == [SHADOW.catalogue_digest, better.digest]
    assert (by_id(first)[THREAT][0], by_id(second)[THREAT][1]) == (1, 1)


def test_the_window_goes_on() -> None:
    one = Beside()
    one.served(1, [THREAT], [THREAT])
    begun = one.now
    one.now += PART_NS
    one.served(2, [THREAT], [])
    found = one.compared()
    assert (found.requests, found.begin_ns, found.end_ns) == (2, begun, one.now)
    one.now += (PARTS - 1) * PART_NS
    assert (one.compared().requests, by_id(one.compared())[THREAT]) == (1, (0, 1, 0, 1, 0))
    one.now += PART_NS
    assert one.monitor.comparisons(one.now) == []


def test_so_many_pairs_are_kept() -> None:
    one = Beside()
    for number in range(limits.SHADOW_PAIRS + 2):
        known = replace(SHADOW, catalogue_digest=f"c{number}")
        one.monitor.relabel(known, one.now)
        one.served(number + 1, [], [])
    found = one.monitor.comparisons(one.now)
    assert [pair.shadow.catalogue for pair in found] == [f"c{n}" for n in range(2, limits.SHADOW_PAIRS + 2)]
