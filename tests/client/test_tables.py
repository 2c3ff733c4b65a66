"""Which features fire with a slot."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from saewatch.client.decode import feature_table
from saewatch.client.filters import chosen, firing_filter
from saewatch.client.tables import UNLABELLED, Request, Table
from saewatch.core.batch import SlotKind, WatchSet
from saewatch.edge.rpc import messages
from saewatch.monitor import tables as of_the_sidecar
from tests import fakes
from tests.client.messages import table

GREETING, HESITATION, MEDICAL, VIOLENCE = range(4)


def default(**wanted: object) -> Table:
    return feature_table(table().table, chosen(firing_filter(**wanted)))  # type: ignore[arg-type]  # features and categories


def fired(found: Table, *firings: tuple[int, float]) -> list[tuple[int, int]]:
    slot = np.array([one for one, _ in firings], dtype=np.uint32)
    firing, feature = found.fired(slot, np.array([value for _, value in firings], dtype=np.float32))
    return list(zip(firing.tolist(), feature.tolist(), strict=True))


def test_a_slot_fires_each_feature_that_it_is_above_the_floor_of() -> None:
    found = fired(default(), (0, 0.8), (0, 1.5), (2, 3.0), (1, 0.6))
    assert found == [(0, GREETING), (1, GREETING), (1, HESITATION), (2, VIOLENCE), (3, GREETING)]


def test_only_chosen_features_are_shown() -> None:
    assert fired(default(feature="hesitation.l1"), (0, 1.5), (0, 0.8), (2, 1.0)) == [(0, HESITATION)]
    assert fired(default(category=["x.greeting", "vcr"]), (0, 1.5), (2, 1.0)) == [(0, GREETING), (1, VIOLENCE)]


def test_what_serves_no_feature_is_shown_unless_features_were_asked_for() -> None:
    assert fired(default(), (0, 0.1), (2, 1.0)) == [(0, UNLABELLED), (1, VIOLENCE)]
    assert fired(default(category="vcr"), (0, 0.1), (2, 1.0)) == [(1, VIOLENCE)]


def test_no_firings() -> None:
    assert fired(default()) == []


def test_names() -> None:
    found = default()
    names = [found.unit_name(slot) for slot in range(found.slots)]
    assert names == ["latent 12", "latent 40", "direction 0", "direction 1"]
    assert str(found.stream) == "fake-engine resid_post.7"
    known = [Request(engine_id="e", key="k", client_id="c"), Request(engine_id="e", key="k"), Request(engine_id="e")]
    assert list(map(str, known)) == ["c", "k", "e"]
    adapted = [Request(client_id="c", adapter="sql", fit=fit) for fit in ("attested", "unverified")]
    assert list(map(str, adapted)) == ["c", "c (fit to adapter sql unverified)"]


FLOORS = st.sampled_from([0.0, 0.5, 1.0, 2.5])


@given(
    floors=st.lists(FLOORS, min_size=3, max_size=3),
    firings=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.5, 3.0])), max_size=12),
)
def test_the_client_and_the_sidecar_say_the_same(floors: list[float], firings: list[tuple[int, float]]) -> None:
    """Latents 1 to 3, each alone and all in a group with a floor of its own."""
    alone = [fakes.feature(f"a{unit}.l1", latents=(unit,), floor=floor) for unit, floor in enumerate(floors, 1)]
    known = fakes.dictionary([*alone, fakes.feature("g.g1", latents=(1, 2, 3), floor=0.75)])
    watch: WatchSet = fakes.watch_set(known)
    assert set(watch.kind.tolist()) == {SlotKind.LATENT}
    stream = of_the_sidecar.StreamIdentity(number=1, opening=fakes.stream_open(known), dictionary=known)
    theirs = of_the_sidecar.join([watch], number=1, stream=stream)
    from_wire = type(table().table).FromString(messages.feature_table(theirs))
    ours = feature_table(from_wire, chosen(firing_filter()))
    slot, value = np.array([s for s, _ in firings]), np.array([v for _, v in firings], dtype=np.float32)
    firing, feature = theirs.fired(slot.astype(np.uint16), value)
    expected = sorted(zip(firing.tolist(), feature.tolist(), strict=True))
    assert [one for one in fired(ours, *firings) if one[1] != UNLABELLED] == expected
