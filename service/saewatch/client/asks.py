"""The calls that give one answer, and those that come in pages, written once for both clients.

Each is a generator that yields what to ask and is sent the answer; its return value is the caller's. Who drives it
decides how one waits.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import Message

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.edge.pb import (
    alert_pb2,
    alert_pb2_grpc,
    common_pb2,
    dictionary_pb2,
    dictionary_pb2_grpc,
    firing_pb2,
    firing_pb2_grpc,
    history_pb2,
    status_pb2,
    status_pb2_grpc,
    tap_pb2,
    tap_pb2_grpc,
)

T = TypeVar("T")
R = TypeVar("R", history_pb2.QueryFiringsRequest, history_pb2.ListRequestsRequest)
Paged = TypeVar("Paged", history_pb2.QueryFiringsRequest, history_pb2.ListRequestsRequest, alert_pb2.ListAlertsRequest)
ROLES: Mapping[str, common_pb2.Role.ValueType] = {
    "stable": common_pb2.ROLE_STABLE,
    "shadow": common_pb2.ROLE_SHADOW,
}
MARGIN_S = 2.0
"""For the sidecar to say which engine did not answer in time."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One call."""

    service: Any
    method: str
    request: Message
    longer_s: float = 0.0
    """Than a call takes that waits for nobody else."""


Plan: TypeAlias = Generator[Ask, Any, T]


def status() -> Plan[status_pb2.GetStatusResponse]:
    """What is watched, how completely, and what is blind."""
    answer: status_pb2.GetStatusResponse = yield Ask(
        status_pb2_grpc.StatusServiceStub, "GetStatus", status_pb2.GetStatusRequest()
    )
    return answer


def record(request_id: str) -> Plan[list[firing_pb2.RequestRecord]]:
    """What the firings of a request came to."""
    request = firing_pb2.GetRequestRecordRequest(request_id=request_id)
    answer: firing_pb2.GetRequestRecordResponse = yield Ask(
        firing_pb2_grpc.FiringServiceStub, "GetRequestRecord", request
    )
    return list(answer.records)


def dictionaries() -> Plan[list[dictionary_pb2.Dictionary]]:
    """Every dictionary, page by page."""
    found: list[dictionary_pb2.Dictionary] = []
    request = dictionary_pb2.ListDictionariesRequest(page_size=limits.PAGE_ITEMS)
    while True:
        answer: dictionary_pb2.ListDictionariesResponse = yield Ask(
            dictionary_pb2_grpc.DictionaryServiceStub, "ListDictionaries", request
        )
        found += answer.dictionaries
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


def features(weights_digest: str, category: str) -> Plan[list[common_pb2.Feature]]:
    """The features of one dictionary, or of every one, page by page."""
    digests = [weights_digest]
    if not weights_digest:
        digests = [one.weights_digest for one in (yield from dictionaries())]
    found: list[common_pb2.Feature] = []
    for digest in digests:
        request = dictionary_pb2.ListFeaturesRequest(
            weights_digest=digest, category=category, page_size=limits.PAGE_ITEMS
        )
        while True:
            answer: dictionary_pb2.ListFeaturesResponse = yield Ask(
                dictionary_pb2_grpc.DictionaryServiceStub, "ListFeatures", request
            )
            found += answer.features
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
    return found


def history_page(request: history_pb2.QueryFiringsRequest | history_pb2.ListRequestsRequest) -> Plan[Any]:
    """One page of what is stored."""
    method = "QueryFirings" if isinstance(request, history_pb2.QueryFiringsRequest) else "ListRequests"
    answer = yield Ask(firing_pb2_grpc.FiringServiceStub, method, request, longer_s=limits.QUERY_WAIT_S)
    return answer


def next_page(request: Paged, answer: Any) -> Paged | None:
    """Asks for the page after ``answer``; None when that was the last one."""
    if not answer.next_page_token:
        return None
    following = type(request)()
    following.CopyFrom(request)
    following.page_token = answer.next_page_token
    return following


def alerts_page(request: alert_pb2.ListAlertsRequest) -> Plan[alert_pb2.ListAlertsResponse]:
    """One page of alerts."""
    answer: alert_pb2.ListAlertsResponse = yield Ask(alert_pb2_grpc.AlertServiceStub, "ListAlerts", request)
    return answer


def alert(name: str) -> Plan[alert_pb2.Alert]:
    """One alert."""
    request = alert_pb2.GetAlertRequest(id=name)
    answer: alert_pb2.GetAlertResponse = yield Ask(alert_pb2_grpc.AlertServiceStub, "GetAlert", request)
    return answer.alert


def acknowledge(request: alert_pb2.AcknowledgeAlertRequest) -> Plan[alert_pb2.Alert]:
    """Says what one found."""
    answer: alert_pb2.AcknowledgeAlertResponse = yield Ask(alert_pb2_grpc.AlertServiceStub, "AcknowledgeAlert", request)
    return answer.alert


def create_silence(request: alert_pb2.CreateSilenceRequest) -> Plan[alert_pb2.Silence]:
    """Holds alerts back for a while."""
    answer: alert_pb2.CreateSilenceResponse = yield Ask(alert_pb2_grpc.AlertServiceStub, "CreateSilence", request)
    return answer.silence


def silences() -> Plan[alert_pb2.ListSilencesResponse]:
    """Those in force."""
    answer: alert_pb2.ListSilencesResponse = yield Ask(
        alert_pb2_grpc.AlertServiceStub, "ListSilences", alert_pb2.ListSilencesRequest()
    )
    return answer


def delete_silence(name: str) -> Plan[alert_pb2.Silence]:
    """Ends one."""
    request = alert_pb2.DeleteSilenceRequest(id=name)
    answer: alert_pb2.DeleteSilenceResponse = yield Ask(alert_pb2_grpc.AlertServiceStub, "DeleteSilence", request)
    return answer.silence


def self_test(engine: str, timeout_s: float) -> Plan[list[tap_pb2.SelfTest]]:
    """Whether the taps of running engines see."""
    answer: tap_pb2.RunSelfTestResponse = yield _of_engines(
        "RunSelfTest", tap_pb2.RunSelfTestRequest(engine=engine), timeout_s
    )
    return list(answer.self_tests)


def set_watching(engine: str, timeout_s: float, *, on: bool) -> Plan[list[tap_pb2.Change]]:
    """Switches taps on or off."""
    answer: tap_pb2.SetWatchingResponse = yield _of_engines(
        "SetWatching", tap_pb2.SetWatchingRequest(engine=engine, on=on), timeout_s
    )
    return list(answer.changes)


def set_watch_list(
    weights_digest: str, features: Iterable[str], *, engine: str, hook_point: str, timeout_s: float
) -> Plan[list[tap_pb2.Change]]:
    """Changes which features of a dictionary are watched."""
    request = tap_pb2.SetWatchListRequest(
        engine=engine, weights_digest=weights_digest, hook_point=hook_point, feature_ids=features
    )
    answer: tap_pb2.SetWatchListResponse = yield _of_engines("SetWatchList", request, timeout_s)
    return list(answer.changes)


def load_dictionary(
    replaces: str, weights_digest: str, path: str, *, engine: str, hook_point: str, timeout_s: float
) -> Plan[list[tap_pb2.Change]]:
    """Puts a dictionary in the place of another."""
    request = tap_pb2.LoadDictionaryRequest(
        engine=engine, replaces_digest=replaces, hook_point=hook_point, weights_digest=weights_digest, path=path
    )
    answer: tap_pb2.LoadDictionaryResponse = yield _of_engines("LoadDictionary", request, timeout_s)
    return list(answer.changes)


def apply_bundle(
    bundle_digest: str,
    role: str,
    path: str,
    *,
    engine: str,
    timeout_s: float,
    validate_only: bool,
) -> Plan[list[tap_pb2.Change]]:
    """Brings a bundle of the store to engines."""
    if role not in ROLES:
        raise ConfigError("role", found=repr(role), expected=f"one of {', '.join(ROLES)}")
    request = tap_pb2.ApplyBundleRequest(
        engine=engine, bundle_digest=bundle_digest, role=ROLES[role], path=path, validate_only=validate_only
    )
    answer: tap_pb2.ApplyBundleResponse = yield _of_engines("ApplyBundle", request, timeout_s)
    return list(answer.changes)


def shadow(model_name: str, hook_point: str) -> Plan[list[status_pb2.ShadowComparison]]:
    """Shadow dictionaries beside the stable ones."""
    request = status_pb2.CompareShadowRequest(model_name=model_name, hook_point=hook_point)
    answer: status_pb2.CompareShadowResponse = yield Ask(status_pb2_grpc.StatusServiceStub, "CompareShadow", request)
    return list(answer.comparisons)


def _of_engines(method: str, request: Any, timeout_s: float) -> Ask:
    """A call whose answer engines give, within ``timeout_s``."""
    request.timeout.FromNanoseconds(round(timeout_s * 1e9))
    return Ask(tap_pb2_grpc.TapServiceStub, method, request, longer_s=timeout_s + MARGIN_S)
