"""The services of a fake sidecar: what they say comes from its `State`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from saewatch import __version__
from saewatch.client.fake import pages, tallies
from saewatch.client.fake.alerts import Alerts
from saewatch.client.fake.log import Place, read_token
from saewatch.client.fake.made import MadeDictionary, message
from saewatch.client.fake.refusal import Refusal, invalid
from saewatch.client.fake.rows import Rows, batch, wants
from saewatch.client.fake.state import Response, State
from saewatch.client.fake.taps import Taps
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb import alert_pb2, dictionary_pb2, firing_pb2, history_pb2, status_pb2, tap_pb2, verdict_pb2

Answering = Callable[[Any, grpc.ServicerContext], Message]


def handlers(state: State) -> Sequence[grpc.GenericRpcHandler]:
    """Every service, for a server."""
    firings, dictionaries, taps, alerts = Firings(state), Dictionaries(state), Taps(state), Alerts(state.alerts)
    watch = grpc.unary_stream_rpc_method_handler(
        firings.watch, firing_pb2.WatchFiringsRequest.FromString, Response.SerializeToString
    )
    record = _unary(firings.record, firing_pb2.GetRequestRecordRequest)
    services = {
        "Firing": {
            "WatchFirings": watch,
            "GetRequestRecord": record,
            "QueryFirings": _unary(firings.query, history_pb2.QueryFiringsRequest),
            "ListRequests": _unary(firings.list_requests, history_pb2.ListRequestsRequest),
        },
        "Dictionary": {
            "ListDictionaries": _unary(dictionaries.list_dictionaries, dictionary_pb2.ListDictionariesRequest),
            "GetDictionary": _unary(dictionaries.get_dictionary, dictionary_pb2.GetDictionaryRequest),
            "ListFeatures": _unary(dictionaries.list_features, dictionary_pb2.ListFeaturesRequest),
        },
        "Status": {
            "GetStatus": _unary(lambda _, __: _status(state), status_pb2.GetStatusRequest),
            "CompareShadow": _unary(lambda _, __: status_pb2.CompareShadowResponse(), status_pb2.CompareShadowRequest),
        },
        "Tap": {
            "RunSelfTest": _unary(taps.run_self_test, tap_pb2.RunSelfTestRequest),
            "SetWatching": _unary(taps.set_watching, tap_pb2.SetWatchingRequest),
            "SetWatchList": _unary(taps.set_watch_list, tap_pb2.SetWatchListRequest),
            "LoadDictionary": _unary(taps.load_dictionary, tap_pb2.LoadDictionaryRequest),
            "ApplyBundle": _unary(taps.apply_bundle, tap_pb2.ApplyBundleRequest),
        },
        "Alert": {
            "WatchAlerts": grpc.unary_stream_rpc_method_handler(
                alerts.watch, alert_pb2.WatchAlertsRequest.FromString, _serialised
            ),
            "ListAlerts": _unary(alerts.list_alerts, alert_pb2.ListAlertsRequest),
            "GetAlert": _unary(alerts.get_alert, alert_pb2.GetAlertRequest),
            "AcknowledgeAlert": _unary(alerts.acknowledge, alert_pb2.AcknowledgeAlertRequest),
            "CreateSilence": _unary(alerts.create_silence, alert_pb2.CreateSilenceRequest),
            "ListSilences": _unary(alerts.list_silences, alert_pb2.ListSilencesRequest),
            "DeleteSilence": _unary(alerts.delete_silence, alert_pb2.DeleteSilenceRequest),
        },
        "Verdict": {
            "WatchVerdict": grpc.stream_stream_rpc_method_handler(
                alerts.watch_verdict, verdict_pb2.WatchVerdictRequest.FromString, _serialised
            ),
        },
    }
    return [
        grpc.method_handlers_generic_handler(f"saewatch.v1.{name}Service", methods)
        for name, methods in services.items()
    ]


def _unary(call: Answering, request: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(call, request.FromString, _serialised)


def _serialised(answer: Message) -> bytes:
    return answer.SerializeToString()


class Firings:
    """The stream of events, records, and queries."""

    def __init__(self, state: State) -> None:
        self._state = state

    def watch(self, request: firing_pb2.WatchFiringsRequest, context: grpc.ServicerContext) -> Iterator[Response]:
        """Every event from the beginning, from now, or from a resume token on."""
        state = self._state
        if state.refusals:
            state.refusals.pop(0).abort(context)
        self._check(request.filter, context)
        place, gap = self._begin(request.resume_token, context)
        drains = state.drains
        context.add_callback(self._wake)
        state.watchers += 1
        try:
            yield self._heartbeat(place)
            if gap is not None:
                yield Response(gap=gap, resume_token=place.token)
            yield from self._events(place, request.filter, drains, context)
        finally:
            state.watchers -= 1

    def record(
        self, request: firing_pb2.GetRequestRecordRequest, context: grpc.ServicerContext
    ) -> firing_pb2.GetRequestRecordResponse:
        """What the events that are kept say about a request."""
        found = tallies.record(self._state, request.request_id)
        if found is None:
            error = SaewatchError("request_id", found=request.request_id, expected="a request that was seen")
            Refusal(grpc.StatusCode.NOT_FOUND, error).abort(context)
        return firing_pb2.GetRequestRecordResponse(records=[found])

    def query(
        self, request: history_pb2.QueryFiringsRequest, context: grpc.ServicerContext
    ) -> history_pb2.QueryFiringsResponse:
        """A page of the firings that are kept, or of counts of them."""
        if (refusal := pages.refused(request)) is not None:
            refusal.abort(context)
        return (pages.buckets if request.HasField("aggregate") else pages.firings)(self._state, request)

    def list_requests(
        self, request: history_pb2.ListRequestsRequest, context: grpc.ServicerContext
    ) -> history_pb2.ListRequestsResponse:
        """A page of the requests that are kept."""
        if (refusal := pages.refused(request)) is not None:
            refusal.abort(context)
        return pages.requests(self._state, request)

    def _events(
        self, place: Place, wanted: firing_pb2.FiringFilter, drains: int, context: grpc.ServicerContext
    ) -> Iterator[Response]:
        log, told = self._state.log, set[int]()
        spoke = time.monotonic()
        while context.is_active():
            if self._state.drains != drains and place.event >= self._state.drain_event:
                drain = firing_pb2.Drain(reason=self._state.drain_reason)
                yield Response(drain=drain, resume_token=place.token)
                return
            entry = log.next(place)
            if entry is None:
                if time.monotonic() - spoke >= self._state.heartbeat_s:
                    yield self._heartbeat(place)
                    spoke = time.monotonic()
                self._wait(place, drains)
                continue
            if entry.at.event > place.event:
                yield Response(gap=_gap(firing_pb2.GAP_REASON_SLOW_CONSUMER, place, entry.at))
            place, item = entry.after, entry.item
            if isinstance(item, Rows):
                left, of = batch(item, wanted), item.of
                if left is None:
                    continue
                if of.table not in told:
                    told.add(of.table)
                    yield Response(table=of.made.table(of.table, of.stream), resume_token=entry.at.token)
                yield Response(batch=left, resume_token=place.token)
            elif item.WhichOneof("event") != "ended" or wants(wanted, item.ended.request):
                answer = Response(resume_token=place.token)
                answer.MergeFrom(item)
                yield answer
            spoke = time.monotonic()

    def _wait(self, place: Place, drains: int) -> None:
        log = self._state.log
        with log.changed:
            if log.next(place) is None and self._state.drains == drains:
                log.changed.wait(min(self._state.heartbeat_s, 1.0))

    def _wake(self) -> None:
        with self._state.log.changed:
            self._state.log.changed.notify_all()

    def _heartbeat(self, place: Place) -> Response:
        now = Timestamp()
        now.GetCurrentTime()
        head = self._state.log.head.event - 1
        return Response(heartbeat=firing_pb2.Heartbeat(head_event=head, server_time=now), resume_token=place.token)

    def _begin(self, text: str, context: grpc.ServicerContext) -> tuple[Place, firing_pb2.Gap | None]:
        """Where to begin, and what a token's place can no longer give."""
        log = self._state.log
        tail, head = log.tail, log.head
        if not text:
            return (tail if self._state.replay else head), None
        place = read_token(text)
        if place is None or place.run > head.run or (place.run == head.run and place.event > head.event):
            invalid("resume_token", found=repr(text[:80]), expected="a token that this service gave").abort(context)
        if place.run < head.run:
            gap = _gap(firing_pb2.GAP_REASON_RESTARTED, place, tail)
            gap.stream.CopyFrom(self._state.made.stream(self._state.of.stream))
            return tail, gap
        if place.event < tail.event:
            return tail, _gap(firing_pb2.GAP_REASON_EXPIRED, place, tail)
        return place, None

    def _check(self, wanted: firing_pb2.FiringFilter, context: grpc.ServicerContext) -> None:
        features = [one for made in self._state.dictionaries.values() for one in made.features.values()]
        known = {"feature_ids": {one.id for one in features}, "categories": {one.category for one in features}}
        for field, names in known.items():
            for index, name in enumerate(getattr(wanted, field)):
                if name not in names:
                    expected = f"one of {', '.join(sorted(names))}"
                    invalid(f"filter.{field}[{index}]", found=repr(name), expected=expected).abort(context)


def _gap(reason: firing_pb2.GapReason.ValueType, place: Place, to: Place) -> firing_pb2.Gap:
    restarted = place.run != to.run
    return firing_pb2.Gap(
        reason=reason,
        first_event=0 if restarted else place.event,
        last_event=0 if restarted else to.event - 1,
        tokens=to.tokens - place.tokens,
        firings=to.firings - place.firings,
    )


class Dictionaries:
    """The dictionaries; everything is on the first page."""

    def __init__(self, state: State) -> None:
        self._state = state

    def list_dictionaries(
        self, request: dictionary_pb2.ListDictionariesRequest, context: grpc.ServicerContext
    ) -> dictionary_pb2.ListDictionariesResponse:
        """All, on one page."""
        del request, context
        found = [made.dictionary() for _, made in sorted(self._state.dictionaries.items())]
        return dictionary_pb2.ListDictionariesResponse(dictionaries=found)

    def get_dictionary(
        self, request: dictionary_pb2.GetDictionaryRequest, context: grpc.ServicerContext
    ) -> dictionary_pb2.GetDictionaryResponse:
        """One of them."""
        made = self._find(request.weights_digest, context)
        return dictionary_pb2.GetDictionaryResponse(dictionary=made.dictionary())

    def list_features(
        self, request: dictionary_pb2.ListFeaturesRequest, context: grpc.ServicerContext
    ) -> dictionary_pb2.ListFeaturesResponse:
        """Its features, by id."""
        made = self._find(request.weights_digest, context)
        found = [one for _, one in sorted(made.features.items()) if request.category in {"", one.category}]
        return dictionary_pb2.ListFeaturesResponse(features=map(message, found))

    def _find(self, digest: str, context: grpc.ServicerContext) -> MadeDictionary:
        found = self._state.dictionaries.get(digest)
        if found is None:
            expected = f"one of {', '.join(self._state.dictionaries)}"
            error = SaewatchError("weights_digest", found=repr(digest), expected=expected)
            Refusal(grpc.StatusCode.NOT_FOUND, error).abort(context)
        return found


def _status(state: State) -> status_pb2.GetStatusResponse:
    found = status_pb2.GetStatusResponse(
        version=f"{__version__} (fake)",
        streams=[*state.ended, state.status()],
        blind=state.blind,
        subscribers=state.watchers,
    )
    found.server_time.GetCurrentTime()
    return found
