"""What a watch asks for."""

from __future__ import annotations

import pytest

from saewatch.client.fake.made import FEATURES
from saewatch.client.filters import chosen, firing_filter
from saewatch.core.errors import SaewatchError
from saewatch.core.records import TrafficClass
from saewatch.edge.pb import common_pb2, firing_pb2


def test_nothing_asked_is_everything() -> None:
    assert firing_filter() == firing_pb2.FiringFilter()
    assert all(chosen(firing_filter()).shows(one) for one in FEATURES)
    assert not chosen(firing_filter()).features_only


def test_one_or_several_of_each() -> None:
    found = firing_filter(
        feature="violence.p1",
        category=("vcr", "spc_hlt"),
        min_value=0.0,
        tenant="",
        request=iter(["r1", "r2"]),
        traffic_class=["live", "canary"],
    )
    assert list(found.feature_ids) == ["violence.p1"]
    assert list(found.categories) == ["vcr", "spc_hlt"]
    assert found.HasField("min_value")
    assert list(found.tenants) == [""], "requests without a tenant"
    assert list(found.request_ids) == ["r1", "r2"]
    assert list(found.traffic_classes) == [common_pb2.TRAFFIC_CLASS_LIVE, common_pb2.TRAFFIC_CLASS_CANARY]


@pytest.mark.parametrize("name", TrafficClass)
def test_every_class_has_its_number(name: str) -> None:
    assert len(firing_filter(traffic_class=name).traffic_classes) == 1


def test_a_class_that_there_is_not() -> None:
    with pytest.raises(SaewatchError, match="'life', expected one of live, canary"):
        firing_filter(traffic_class="life")


def test_a_feature_has_to_satisfy_both() -> None:
    both = chosen(firing_filter(feature=["violence.p1", "medical.p1"], category="vcr"))
    assert [one.id for one in FEATURES if both.shows(one)] == ["violence.p1"]
    assert both.features_only
