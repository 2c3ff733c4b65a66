"""`Client`: for programs without a loop. A watch is an iterator, and another thread may close it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from weakref import WeakSet

import grpc

from saewatch.client import asks, questions, stored
from saewatch.client.alerts import AlertSession, WantedAlerts, acknowledgement, alert_filter, silence
from saewatch.client.channel import ADDRESS, OPTIONS, TIMEOUT_S
from saewatch.client.failures import told
from saewatch.client.filters import Several, firing_filter
from saewatch.client.questions import Wanted
from saewatch.client.session import SILENCE_S, Session
from saewatch.client.stored import Bucket, Page, StoredFiring, StoredRequest
from saewatch.client.verdicts import SaidInThreads, VerdictSession
from saewatch.client.watches import AlertWatch, Verdicts, Watch
from saewatch.core import limits
from saewatch.edge.pb import (
    alert_pb2,
    common_pb2,
    dictionary_pb2,
    firing_pb2,
    status_pb2,
    tap_pb2,
)

T = TypeVar("T")
Item = TypeVar("Item")
E = TypeVar("E")


class Client:
    """A connection to one sidecar. Its methods may be called from any thread.

    Args:
        address: host and port of its gRPC service.
        timeout_s: for a call with one answer.
        silence_s: a watch that hears nothing for this long connects anew.
        random: for the waits between attempts to connect.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        *,
        timeout_s: float = TIMEOUT_S,
        silence_s: float = SILENCE_S,
        random: Random | None = None,
    ) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._random = random
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._watches: WeakSet[Watch | AlertWatch | Verdicts] = WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends every watch, and the connection."""
        for watch in list(self._watches):
            watch.close()
        self._channel.close()

    def watch(
        self,
        feature: Several = None,
        *,
        category: Several = None,
        min_value: float | None = None,
        tenant: Several = None,
        request: Several = None,
        traffic_class: Several = None,
        resume_token: str = "",
        heartbeats: bool = False,
        give_up_after_s: float | None = None,
    ) -> Watch:
        """Events as they happen, from now or from ``resume_token`` on, until it is closed.

        ``feature``, ``category`` and ``min_value`` choose firings, the others requests; of each, one text or several,
        and an event has to satisfy all that are given. Iterating raises `SaewatchError` for what the sidecar refuses,
        and `UnreachableError` after ``give_up_after_s`` without a connection; otherwise it connects again, for ever.
        """
        wanted = firing_filter(
            feature=feature,
            category=category,
            min_value=min_value,
            tenant=tenant,
            request=request,
            traffic_class=traffic_class,
        )
        session = Session(
            address=self.address,
            wanted=wanted,
            resume_token=resume_token,
            heartbeats=heartbeats,
            give_up_after_s=give_up_after_s,
            random=self._random,
        )
        watch = Watch(session, self._channel, self._silence_s)
        self._watches.add(watch)
        return watch

    def status(self) -> status_pb2.GetStatusResponse:
        """What is watched, how completely, and what is blind."""
        return self._drive(asks.status())

    def record(self, request_id: str) -> list[firing_pb2.RequestRecord]:
        """What the firings of a request came to, by its key, the engine's id or the client's id; latest first."""
        return self._drive(asks.record(request_id))

    def dictionaries(self) -> list[dictionary_pb2.Dictionary]:
        """The dictionaries that the sidecar knows."""
        return self._drive(asks.dictionaries())

    def features(self, weights_digest: str = "", *, category: str = "") -> list[common_pb2.Feature]:
        """The features of one dictionary, or of all; of one category, or of all."""
        return self._drive(asks.features(weights_digest, category))

    def self_test(self, engine: str = "", *, timeout_s: float = limits.SELF_TEST_S) -> list[tap_pb2.SelfTest]:
        """Asks the taps of one engine, or of all, whether they see."""
        return self._drive(asks.self_test(engine, timeout_s))

    def set_watching(self, engine: str = "", *, on: bool, timeout_s: float = limits.CHANGE_S) -> list[tap_pb2.Change]:
        """Switches the taps of one engine, or of all, on or off. Off: their streams are blind, and say so."""
        return self._drive(asks.set_watching(engine, timeout_s, on=on))

    def set_watch_list(
        self,
        weights_digest: str,
        features: Iterable[str] = (),
        *,
        engine: str = "",
        hook_point: str = "",
        timeout_s: float = limits.CHANGE_S,
    ) -> list[tap_pb2.Change]:
        """Watches these features of a dictionary, in one engine or in all that have it; none: those of its start."""
        where = {"engine": engine, "hook_point": hook_point}
        return self._drive(asks.set_watch_list(weights_digest, features, timeout_s=timeout_s, **where))

    def load_dictionary(
        self,
        replaces: str,
        weights_digest: str,
        *,
        path: str = "",
        engine: str = "",
        hook_point: str = "",
        timeout_s: float = limits.LOAD_S,
    ) -> list[tap_pb2.Change]:
        """Puts a dictionary in the place of one that is in force; both have the same hook point and size.

        ``path`` is its bundle's folder as the engine sees it; empty: the one that the sidecar has.
        """
        where = {"engine": engine, "hook_point": hook_point}
        return self._drive(asks.load_dictionary(replaces, weights_digest, path, timeout_s=timeout_s, **where))

    def apply_bundle(
        self,
        bundle_digest: str,
        role: str = "stable",
        *,
        path: str = "",
        engine: str = "",
        validate_only: bool = False,
        timeout_s: float = limits.LOAD_S,
    ) -> list[tap_pb2.Change]:
        """Brings a bundle of the sidecar's store to the streams of its hook point and of a role: stable or shadow.

        ``path`` is its folder as the engine sees it; empty: the one that the sidecar reads. With ``validate_only``
        nothing is done, and it is said what would be. What is in force already is left alone.
        """
        asked = asks.apply_bundle(
            bundle_digest, role, path, engine=engine, timeout_s=timeout_s, validate_only=validate_only
        )
        return self._drive(asked)

    def compare_shadow(self, model_name: str = "", hook_point: str = "") -> list[status_pb2.ShadowComparison]:
        """Each shadow dictionary beside the stable one, on live requests; empty names: all."""
        return self._drive(asks.shadow(model_name, hook_point))

    def watch_alerts(
        self, *, resume_token: str = "", give_up_after_s: float | None = None, **wanted: Unpack[WantedAlerts]
    ) -> AlertWatch:
        """Alerts as they change their state, as `watch` gives firings; `WantedAlerts` says which ones."""
        session = AlertSession(
            address=self.address,
            wanted=alert_filter(**wanted),
            resume_token=resume_token,
            give_up_after_s=give_up_after_s,
            random=self._random,
        )
        watch = AlertWatch(session, self._channel, self._silence_s)
        self._watches.add(watch)
        return watch

    def list_alerts(self, **wanted: Unpack[WantedAlerts]) -> Iterator[alert_pb2.Alert]:
        """The alerts that are kept, the latest change first."""
        asked = alert_pb2.ListAlertsRequest(filter=alert_filter(**wanted), page_size=limits.PAGE_ITEMS)
        following: alert_pb2.ListAlertsRequest | None = asked
        while following is not None:
            answer = self._drive(asks.alerts_page(following))
            yield from answer.alerts
            following = asks.next_page(following, answer)

    def get_alert(self, name: str) -> alert_pb2.Alert:
        """One alert, by its id."""
        return self._drive(asks.alert(name))

    def acknowledge_alert(self, name: str, verdict: str = "", reason: str = "") -> alert_pb2.Alert:
        """Says that an alert was right (``true_positive``), wrong (``false_positive``), or just seen; and why."""
        return self._drive(asks.acknowledge(acknowledgement(name, verdict, reason)))

    def create_silence(
        self, policy: str, rules: Several = None, *, duration_s: float, reason: str, tenant: str = ""
    ) -> alert_pb2.Silence:
        """Holds the alerts of these rules (none: all of the policy) and tenant (none: all) back for so long.

        They are made and kept, and delivered to nobody; verdicts count them.
        """
        asked = silence(policy, rules, tenant=tenant, duration_s=duration_s, reason=reason)
        return self._drive(asks.create_silence(asked))

    def list_silences(self) -> alert_pb2.ListSilencesResponse:
        """Those in force, policies' own among them; what ends first comes first."""
        return self._drive(asks.silences())

    def delete_silence(self, name: str) -> alert_pb2.Silence:
        """Ends one before its time; gives it as it stood."""
        return self._drive(asks.delete_silence(name))

    def verdicts(self, *, give_up_after_s: float | None = None) -> Verdicts:
        """Verdicts on the requests that are followed, from when they are, as `watch` gives firings.

        Without a connection each of them is unknown, and told so.
        """
        session = VerdictSession(
            address=self.address, said=SaidInThreads, give_up_after_s=give_up_after_s, random=self._random
        )
        watch = Verdicts(session, self._channel, self._silence_s)
        self._watches.add(watch)
        return watch

    def query_firings(
        self, *, latest: bool = False, page_size: int = limits.PAGE_ITEMS, **wanted: Unpack[Wanted]
    ) -> Iterator[Page[StoredFiring]]:
        """Stored firings by time, page by page; `Wanted` says which ones, the latest first with ``latest``.

        Raises `SaewatchError` for what makes no sense, and where nothing is stored; `UnreachableError` without an
        answer.
        """
        asked = questions.firings(latest=latest, page_size=page_size, **wanted)
        return self._pages(asked, stored.firings_page)

    def count_firings(
        self,
        by: str = "feature",
        *,
        bucket_s: float | None = None,
        page_size: int = limits.PAGE_ITEMS,
        **wanted: Unpack[Wanted],
    ) -> Iterator[Page[Bucket]]:
        """Stored firings counted by feature, category, tenant, class or model, in buckets of a length or in one."""
        asked = questions.counts(by, bucket_s=bucket_s, page_size=page_size, **wanted)
        return self._pages(asked, stored.buckets_page)

    def list_requests(
        self, *, latest: bool = False, page_size: int = limits.PAGE_ITEMS, **wanted: Unpack[Wanted]
    ) -> Iterator[Page[StoredRequest]]:
        """Stored requests by the time when they were first seen, with what fired in each."""
        asked = questions.requests(latest=latest, page_size=page_size, **wanted)
        return self._pages(asked, stored.requests_page)

    def _pages(self, asked: asks.R, read: Callable[[Any], Page[Item]]) -> Iterator[Page[Item]]:
        following: asks.R | None = asked
        while following is not None:
            answer = self._drive(asks.history_page(following))
            yield read(answer)
            following = asks.next_page(following, answer)

    def _drive(self, plan: asks.Plan[T]) -> T:
        answer: Any = None
        while True:
            try:
                ask = plan.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            call = getattr(ask.service(self._channel), ask.method)
            try:
                answer = call(ask.request, timeout=self._timeout_s + ask.longer_s)
            except grpc.RpcError as error:
                raise told(self.address, error) from None  # gRPC's own text is long and says nothing more
