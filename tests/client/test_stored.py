"""Stored messages as plain objects; that they are right is in test_with_the_services."""

from __future__ import annotations

from saewatch.client import stored
from saewatch.client.stored import Bucket, Covered, FeatureFirings, StoredRequest
from saewatch.client.tables import Request
from saewatch.edge.pb import common_pb2, history_pb2

T0 = 1_700_000_000_000_000_001
MOMENT = "2023-11-14T22:13:20.000000001Z"


def firing(**fields: object) -> stored.StoredFiring:
    message = history_pb2.StoredFiring(feature_id="a.l1", value=1.5, position=3, **fields)  # type: ignore[arg-type]  # its fields
    message.time.FromNanoseconds(T0)
    (found,) = stored.firings_page(history_pb2.QueryFiringsResponse(firings=[message]))
    return found


def test_a_firing_as_a_line() -> None:
    known = firing(engine_id="e", client_id="r1", unit_kind=common_pb2.UNIT_KIND_LATENT, unit=12)
    assert (known.time_ns, known.prompt, known.unit) == (T0, False, "latent 12")
    assert str(known) == f"{MOMENT} r1 answer 3 a.l1 1.50"
    assert str(firing(engine_id="e", prompt=True)) == f"{MOMENT} e prompt 3 a.l1 1.50"


def test_a_label_is_shown_with_what_had_been_said_of_it() -> None:
    assert firing(label="Threats").shown == "Threats (unreviewed)"
    accepted = firing(label="Threats", label_review=common_pb2.LABEL_REVIEW_ACCEPTED)
    assert (accepted.shown, accepted.label_review) == ("Threats", "accepted")


def test_a_firing_through_an_adapter_says_what_is_not_known() -> None:
    adapted = firing(engine_id="e", adapter="sql", fit=common_pb2.FIT_UNVERIFIED)
    assert adapted.request is not None
    assert (adapted.request.adapter, adapted.request.fit) == ("sql", "unverified")
    assert str(adapted) == f"{MOMENT} e (fit to adapter sql unverified) answer 3 a.l1 1.50"


def test_a_request_that_is_not_known_has_no_prompt() -> None:
    unknown = firing(tenant="")
    assert (unknown.request, unknown.prompt) == (None, None)
    assert str(unknown) == f"{MOMENT} unknown ? 3 a.l1 1.50"


def test_a_bucket_without_firings_has_no_values() -> None:
    empty, full = stored.buckets_page(
        history_pb2.QueryFiringsResponse(
            buckets=[
                history_pb2.Bucket(group="a.l1", tokens_seen=9),
                history_pb2.Bucket(group="b.l1", firings=2, tokens_seen=9, max_value=0.0, mean_value=-1.0),
            ]
        )
    )
    assert (empty.max_value, empty.mean_value, full.max_value, full.mean_value) == (None, None, 0.0, -1.0)
    assert str(empty).endswith("a.l1: 0 feature firings on 9 tokens")
    assert isinstance(full, Bucket)


def test_the_others_as_lines() -> None:
    one = StoredRequest(
        request=Request(engine_id="e"),
        first_ns=T0,
        last_ns=T0,
        state="ended",
        fed=5,
        emitted=1,
        tokens_seen=4,
        missed={},
        firings=2,
        features=(FeatureFirings(feature="a.l1", firings=2, max_value=3.0),),
        features_fired=1,
    )
    assert str(one) == f"{MOMENT} e (ended): a.l1 x2 on 4 tokens"
    covered = Covered(start_ns=0, end_ns=1, tokens_seen=4, missed={"gap": 2})
    assert str(covered) == "4 tokens seen, missed 2 gap"


def test_what_a_newer_sidecar_says_goes_through() -> None:
    message = history_pb2.HistoryLoss()
    message.MergeFromString(b"\x08\x63")  # cause 99
    (loss,) = stored.requests_page(
        history_pb2.ListRequestsResponse(losses=history_pb2.HistoryLosses(losses=[message]))
    ).losses
    assert loss.cause == "cause_99"
