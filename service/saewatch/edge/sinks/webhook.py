"""A sink that posts alerts to a URL, signed, and again until they are taken: Standard Webhooks 1.0.0.

The specification (github.com/standard-webhooks/standard-webhooks) has three headers: ``webhook-id``, the same in every
attempt, so that a receiver knows a repetition; ``webhook-timestamp``, the seconds of this attempt; and
``webhook-signature``, ``v1,`` and the base64 of HMAC-SHA256 over ``id.timestamp.body``. A 2xx is taken; 410 ends the
webhook; what asks for time (408, 425, 429, 5xx) or does not answer is tried again, later each time, with full jitter;
any other answer is final for this alert, so that one that is refused does not hold up those behind it.

Alerts leave in order, one at a time. What does not fit into the queue, or is tried in vain, is counted. Neither the URL
nor the secret is ever logged: both let others in.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from random import Random, SystemRandom
from typing import NoReturn

import httpx
import structlog
from google.protobuf.json_format import MessageToDict

from saewatch import __version__
from saewatch.core import limits
from saewatch.core.backoff import Backoff
from saewatch.edge.pipeline import Dropped, Item
from saewatch.edge.rpc import alerted
from saewatch.monitor.alert import Alert, AlertChanged

logger = structlog.get_logger(__name__)

DELIVERED, REFUSED, GIVEN_UP, DROPPED, RETRIED = "delivered", "refused", "given_up", "dropped", "retried"
OUTCOMES = (DELIVERED, REFUSED, GIVEN_UP, DROPPED, RETRIED)
PASSING = frozenset({408, 425, 429})
"""Besides all of 5xx: it may be taken later."""
GONE = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where alerts go, and which ones. Of ``severities`` none chooses all."""

    name: str
    url: str = field(repr=False)
    secret: bytes = field(repr=False)
    states: Collection[str]
    severities: Collection[str] = ()
    trust_environment: bool = True
    """Whether a proxy of the environment may be used."""

    def wants(self, alert: Alert) -> bool:
        """Whether an alert is sent: it is delivered, and asks for more than to be kept."""
        return (
            not alert.held_back
            and alert.action != "record"
            and alert.state in self.states
            and (not self.severities or alert.severity in self.severities)
        )


@dataclass(frozen=True, slots=True)
class _Message:
    id: str
    body: bytes


class WebhookSink:
    """Posts what one webhook wants. Lives on the event loop alone; `start` begins, `stop` ends.

    ``clock``: seconds since 1970, for signatures. ``wait``: what waits between attempts.
    """

    def __init__(
        self,
        webhook: Webhook,
        *,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Random | None = None,
    ) -> None:
        self.webhook = webhook
        self.name = f"webhook_{webhook.name}"
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        """What came of alerts, and ``retried``: attempts that were followed by another."""
        self._clock, self._wait = clock, wait
        self._backoff = Backoff(random or SystemRandom(), first_s=limits.WEBHOOK_FIRST_S, max_s=limits.WEBHOOK_MAX_S)
        self._waiting: deque[_Message] = deque()
        self._bell = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    @property
    def waiting(self) -> int:
        """Alerts that are still to be sent."""
        return len(self._waiting)

    def take(self, items: Iterable[Item]) -> None:
        """Takes what the pipeline has; never waits."""
        for item in items:
            if isinstance(item, Dropped):
                self.outcomes[DROPPED] += item.events
            elif isinstance(item, AlertChanged) and not item.acknowledged and self.webhook.wants(item.alert):
                if len(self._waiting) >= limits.WEBHOOK_QUEUE:
                    self.outcomes[DROPPED] += 1
                else:
                    self._waiting.append(_message(item.alert))
                    self._idle.clear()
        self._bell.set()

    async def idle(self) -> None:
        """Waits until nothing waits."""
        await self._idle.wait()

    def start(self) -> None:
        """Begins to send."""
        self._task = asyncio.create_task(self._run())

    async def stop(self, grace_s: float) -> None:
        """Sends what can be sent in so long; the rest is counted as dropped."""
        if self._task is None:
            return
        if not self._failing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.idle()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            logger.warning("webhook did not get all", webhook=self.webhook.name, alerts=len(self._waiting))
        self.outcomes[DROPPED] += len(self._waiting)
        self._waiting.clear()

    # --- sending --------------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        async with _client(trust_environment=self.webhook.trust_environment) as client:
            while True:
                await self._bell.wait()
                self._bell.clear()
                while self._waiting:
                    answer = await self._delivered(client, self._waiting[0])
                    self.outcomes[answer] += 1
                    self._waiting.popleft()
                self._idle.set()

    async def _delivered(self, client: httpx.AsyncClient, message: _Message) -> str:
        try:
            return await self._deliver(client, message)
        except Exception:  # one alert's whole task: what it meets must not end the delivery of the others
            logger.exception("an alert could not be posted", webhook=self.webhook.name)
            return GIVEN_UP

    async def _deliver(self, client: httpx.AsyncClient, message: _Message) -> str:
        """Until it is taken, refused, or not worth more; what came of it."""
        self._backoff.reset()
        for attempt in range(1, limits.WEBHOOK_ATTEMPTS + 1):
            status = await self._post(client, message)
            if 200 <= status < 300:
                self._say_if_changed(failing=False)
                return DELIVERED
            self._say_if_changed(failing=True, status=status)
            if status == GONE:
                await self._end()
            if status and status not in PASSING and status < 500:
                return REFUSED
            if attempt < limits.WEBHOOK_ATTEMPTS:
                self.outcomes[RETRIED] += 1
                await self._wait(self._backoff.wait_s())
        return GIVEN_UP

    async def _post(self, client: httpx.AsyncClient, message: _Message) -> int:
        """The status of one attempt; 0 without an answer. What the answer says beyond it is not read."""
        try:
            async with asyncio.timeout(limits.WEBHOOK_TIMEOUT_S):
                headers = signed(self.webhook.secret, message.id, int(self._clock()), message.body)
                async with client.stream("POST", self.webhook.url, content=message.body, headers=headers) as answer:
                    return answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, TimeoutError, OSError):  # the middle two: of its host
            return 0

    async def _end(self) -> NoReturn:
        """Its receiver wants no more, ever: what comes from here on is refused, and so is what waits."""
        logger.error("webhook is gone", webhook=self.webhook.name, hint="Remove it from the configuration.")
        while True:
            self.outcomes[REFUSED] += len(self._waiting)
            self._waiting.clear()
            self._idle.set()
            self._bell.clear()
            await self._bell.wait()

    def _say_if_changed(self, *, failing: bool, status: int = 0) -> None:
        if failing and not self._failing:
            logger.warning("webhook takes no alerts", webhook=self.webhook.name, status=status or "no answer")
        elif self._failing and not failing:
            logger.info("webhook takes alerts again", webhook=self.webhook.name)
        self._failing = failing


def _client(*, trust_environment: bool) -> httpx.AsyncClient:
    """One that keeps no cookies, and does not look at where a redirect leads: both come from the other side."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(limits.WEBHOOK_TIMEOUT_S),
        follow_redirects=False,
        trust_env=trust_environment,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        event_hooks={"response": [_stay]},
    )


async def _stay(response: httpx.Response) -> None:
    """httpx makes the next request of a redirect that it is not to follow, and fails where that cannot be one."""
    response.headers.pop("location", None)


def signed(secret: bytes, name: str, seconds: int, body: bytes) -> Mapping[str, str]:
    """The headers of one attempt."""
    content = f"{name}.{seconds}.".encode() + body
    signature = base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "user-agent": f"saewatch/{__version__}",
        "webhook-id": name,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{signature}",
    }


def secret_of(text: str) -> bytes:
    """The key in a secret as the specification spells it, ``whsec_`` and base64. Raises `ValueError` for another."""
    with contextlib.suppress(ValueError):
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        if text.startswith("whsec_") and limits.WEBHOOK_SECRET_BYTES_MIN <= len(key) <= limits.WEBHOOK_SECRET_BYTES_MAX:
            return key
    raise ValueError(
        f"whsec_ and the base64 of {limits.WEBHOOK_SECRET_BYTES_MIN} to {limits.WEBHOOK_SECRET_BYTES_MAX} bytes"
    )


def _message(alert: Alert) -> _Message:
    """An alert as the specification's type, timestamp and data. A replay gives the same id."""
    data = MessageToDict(alerted.message(alert), preserving_proto_field_name=True)
    body = {"type": f"alert.{alert.state}", "timestamp": data["change_time"], "data": data}
    name = f"{alert.id}-{alert.state}-{alert.activations}"
    return _Message(name, json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())
