"""`AsyncClient`: the same as `Client`, for programs with an asyncio loop. No thread of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from weakref import WeakSet

import grpc

from saewatch.client import asks, questions, stored
from saewatch.client.aiowatches import AsyncAlertWatch, AsyncVerdicts, AsyncWatch
from saewatch.client.alerts import AlertSession, WantedAlerts, acknowledgement, alert_filter, silence
from saewatch.client.channel import ADDRESS, OPTIONS, TIMEOUT_S
from saewatch.client.failures import told
from saewatch.client.filters import Several, firing_filter
from saewatch.client.questions import Wanted
from saewatch.client.session import SILENCE_S, Session
from saewatch.client.stored import Bucket, Page, StoredFiring, StoredRequest
from saewatch.client.verdicts import SaidInLoop, VerdictSession
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


class AsyncClient:
    """A connection to one sidecar, of the loop that it was made in. The arguments are those of `Client`."""

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
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._watches: WeakSet[AsyncWatch | AsyncAlertWatch | AsyncVerdicts] = WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every watch, and the connection."""
        for watch in list(self._watches):
            watch.close()
        await self._channel.close()

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
    ) -> AsyncWatch:
        """Events as they happen, as `Client.watch` gives them."""
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
        watch = AsyncWatch(session, self._channel, self._silence_s)
        self._watches.add(watch)
        return watch

    async def status(self) -> status_pb2.GetStatusResponse:
        """What is watched, how completely, and what is blind."""
        return await self._drive(asks.status())

    async def record(self, request_id: str) -> list[firing_pb2.RequestRecord]:
        """What the firings of a request came to, by its key, the engine's id or the client's id; latest first."""
        return await self._drive(asks.record(request_id))

    async def dictionaries(self) -> list[dictionary_pb2.Dictionary]:
        """The dictionaries that the sidecar knows."""
        return await self._drive(asks.dictionaries())

    async def features(self, weights_digest: str = "", *, category: str = "") -> list[common_pb2.Feature]:
        """The features of one dictionary, or of all; of one category, or of all."""
        return await self._drive(asks.features(weights_digest, category))

    async def self_test(self, engine: str = "", *, timeout_s: float = limits.SELF_TEST_S) -> list[tap_pb2.SelfTest]:
        """Asks the taps of one engine, or of all, whether they see."""
        return await self._drive(asks.self_test(engine, timeout_s))

    async def set_watching(
        self, engine: str = "", *, on: bool, timeout_s: float = limits.CHANGE_S
    ) -> list[tap_pb2.Change]:
        """Switches taps on or off, as `Client.set_watching` does."""
        return await self._drive(asks.set_watching(engine, timeout_s, on=on))

    async def set_watch_list(
        self,
        weights_digest: str,
        features: Iterable[str] = (),
        *,
        engine: str = "",
        hook_point: str = "",
        timeout_s: float = limits.CHANGE_S,
    ) -> list[tap_pb2.Change]:
        """Watches other features, as `Client.set_watch_list` does."""
        where = {"engine": engine, "hook_point": hook_point}
        return await self._drive(asks.set_watch_list(weights_digest, features, timeout_s=timeout_s, **where))

    async def load_dictionary(
        self,
        replaces: str,
        weights_digest: str,
        *,
        path: str = "",
        engine: str = "",
        hook_point: str = "",
        timeout_s: float = limits.LOAD_S,
    ) -> list[tap_pb2.Change]:
        """Puts a dictionary in the place of another, as `Client.load_dictionary` does."""
        where = {"engine": engine, "hook_point": hook_point}
        return await self._drive(asks.load_dictionary(replaces, weights_digest, path, timeout_s=timeout_s, **where))

    async def apply_bundle(
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
        return await self._drive(asked)

    async def compare_shadow(self, model_name: str = "", hook_point: str = "") -> list[status_pb2.ShadowComparison]:
        """Each shadow dictionary beside the stable one, on live requests; empty names: all."""
        return await self._drive(asks.shadow(model_name, hook_point))

    def watch_alerts(
        self, *, resume_token: str = "", give_up_after_s: float | None = None, **wanted: Unpack[WantedAlerts]
    ) -> AsyncAlertWatch:
        """Alerts as they change their state, as `watch` gives firings; `WantedAlerts` says which ones."""
        session = AlertSession(
            address=self.address,
            wanted=alert_filter(**wanted),
            resume_token=resume_token,
            give_up_after_s=give_up_after_s,
            random=self._random,
        )
        watch = AsyncAlertWatch(session, self._channel, self._silence_s)
        self._watches.add(watch)
        return watch

    async def list_alerts(self, **wanted: Unpack[WantedAlerts]) -> AsyncIterator[alert_pb2.Alert]:
        """The alerts that are kept, the latest change first."""
        asked = alert_pb2.ListAlertsRequest(filter=alert_filter(**wanted), page_size=limits.PAGE_ITEMS)
        following: alert_pb2.ListAlertsRequest | None = asked
        while following is not None:
            answer = await self._drive(asks.alerts_page(following))
            for one in answer.alerts:
                yield one
            following = asks.next_page(following, answer)

    async def get_alert(self, name: str) -> alert_pb2.Alert:
        """One alert, by its id."""
        return await self._drive(asks.alert(name))

    async def acknowledge_alert(self, name: str, verdict: str = "", reason: str = "") -> alert_pb2.Alert:
        """Says that an alert was right (``true_positive``), wrong (``false_positive``), or just seen; and why."""
        return await self._drive(asks.acknowledge(acknowledgement(name, verdict, reason)))

    async def create_silence(
        self, policy: str, rules: Several = None, *, duration_s: float, reason: str, tenant: str = ""
    ) -> alert_pb2.Silence:
        """Holds the alerts of these rules (none: all of the policy) and tenant (none: all) back for so long.

        They are made and kept, and delivered to nobody; verdicts count them.
        """
        asked = silence(policy, rules, tenant=tenant, duration_s=duration_s, reason=reason)
        return await self._drive(asks.create_silence(asked))

    async def list_silences(self) -> alert_pb2.ListSilencesResponse:
        """Those in force, policies' own among them; what ends first comes first."""
        return await self._drive(asks.silences())

    async def delete_silence(self, name: str) -> alert_pb2.Silence:
        """Ends one before its time; gives it as it stood."""
        return await self._drive(asks.delete_silence(name))

    def verdicts(self, *, give_up_after_s: float | None = None) -> AsyncVerdicts:
        """Verdicts on the requests that are followed, as `Client.verdicts` gives them."""
        session = VerdictSession(
            address=self.address, said=SaidInLoop, give_up_after_s=give_up_after_s, random=self._random
        )
        watch = AsyncVerdicts(session, self._channel, self._silence_s)
        self._watches.add(watch)
        return watch

    def query_firings(
        self, *, latest: bool = False, page_size: int = limits.PAGE_ITEMS, **wanted: Unpack[Wanted]
    ) -> AsyncIterator[Page[StoredFiring]]:
        """Stored firings by time, page by page, as `Client.query_firings` gives them."""
        asked = questions.firings(latest=latest, page_size=page_size, **wanted)
        return self._pages(asked, stored.firings_page)

    def count_firings(
        self,
        by: str = "feature",
        *,
        bucket_s: float | None = None,
        page_size: int = limits.PAGE_ITEMS,
        **wanted: Unpack[Wanted],
    ) -> AsyncIterator[Page[Bucket]]:
        """Stored firings as counts, as `Client.count_firings` gives them."""
        asked = questions.counts(by, bucket_s=bucket_s, page_size=page_size, **wanted)
        return self._pages(asked, stored.buckets_page)

    def list_requests(
        self, *, latest: bool = False, page_size: int = limits.PAGE_ITEMS, **wanted: Unpack[Wanted]
    ) -> AsyncIterator[Page[StoredRequest]]:
        """Stored requests, as `Client.list_requests` gives them."""
        asked = questions.requests(latest=latest, page_size=page_size, **wanted)
        return self._pages(asked, stored.requests_page)

    async def _pages(self, asked: asks.R, read: Callable[[Any], Page[Item]]) -> AsyncIterator[Page[Item]]:
        following: asks.R | None = asked
        while following is not None:
            answer = await self._drive(asks.history_page(following))
            yield read(answer)
            following = asks.next_page(following, answer)

    async def _drive(self, plan: asks.Plan[T]) -> T:
        answer: Any = None
        while True:
            try:
                ask = plan.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            call = getattr(ask.service(self._channel), ask.method)
            try:
                answer = await call(ask.request, timeout=self._timeout_s + ask.longer_s)
            except grpc.RpcError as error:
                raise told(self.address, error) from None  # gRPC's own text is long and says nothing more
