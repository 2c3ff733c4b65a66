"""What a call that failed says: the sidecar's own words where it refused, ours where it did not get there."""

from __future__ import annotations

import grpc
import pytest

from saewatch.client.failures import may_pass, retry_after_s, told
from saewatch.client.fake.refusal import Refusal
from saewatch.core.errors import AccessError, SaewatchError, UnreachableError
from saewatch.edge.rpc import refusals
from tests.client.messages import Failed

Code = grpc.StatusCode
HINTED = SaewatchError("engine b", found="no answer, or none in time", expected="a self-test", hint="Look. Twice.")
PLAIN = SaewatchError("engine", found="'c'", expected="one of 'a', 'b'")


@pytest.mark.parametrize("said", [HINTED, PLAIN])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.UNAVAILABLE, UnreachableError),
        (Code.DEADLINE_EXCEEDED, UnreachableError),
        (Code.UNAUTHENTICATED, AccessError),
        (Code.PERMISSION_DENIED, AccessError),
        (Code.NOT_FOUND, SaewatchError),
        (Code.INTERNAL, SaewatchError),
        (Code.UNIMPLEMENTED, SaewatchError),
    ],
)
def test_a_refusal_keeps_the_sidecars_words(said: SaewatchError, code: grpc.StatusCode, kind: type[Exception]) -> None:
    error = told("here:1", Failed(code, str(said), details=b""))
    assert type(error) is kind
    assert str(error) == str(said)
    assert error.subject == said.subject


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (Code.UNAVAILABLE, UnreachableError, "here:1: found no answer, expected a sidecar"),
        (Code.DEADLINE_EXCEEDED, UnreachableError, "found no answer in time, expected a sidecar"),
        (Code.INTERNAL, UnreachableError, "a connection that broke (INTERNAL)"),
        (Code.UNKNOWN, UnreachableError, "a connection that broke"),
        (Code.CANCELLED, UnreachableError, "a connection that broke"),
        (Code.UNIMPLEMENTED, SaewatchError, "Update the sidecar"),
        (Code.UNAUTHENTICATED, AccessError, "found UNAUTHENTICATED"),
    ],
)
def test_what_did_not_get_there_is_said_in_ours(code: grpc.StatusCode, kind: type[Exception], says: str) -> None:
    error = told("here:1", Failed(code, "failed to connect to all addresses: found x, expected y"))
    assert type(error) is kind
    assert says in str(error)


def test_a_refusal_in_other_words() -> None:
    error = told("here:1", Failed(Code.INTERNAL, "no form", details=b""))
    assert "found INTERNAL" in str(error)
    assert not isinstance(error, UnreachableError), "it was reached"


def test_what_the_caller_caused_does_not_pass() -> None:
    passing = {code for code in Code if may_pass(Failed(code))}
    assert {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.INTERNAL} <= passing
    assert not passing & {Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED}


def test_a_message_that_is_too_large_will_be_so_again() -> None:
    failed = Failed(Code.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (5 vs. 4)")
    assert not may_pass(failed)
    assert "filter" in str(told("here:1", failed))


@pytest.mark.parametrize("retry_s", [5.0, 0.25, 75.5, 0.0])
def test_when_to_ask_again_is_what_the_sidecar_wrote(retry_s: float) -> None:
    refusal = refusals.Refusal(Code.RESOURCE_EXHAUSTED, PLAIN, reason="SUBSCRIBERS", retry_s=retry_s)
    assert retry_after_s(Failed(Code.RESOURCE_EXHAUSTED, details=refusals.status(refusal))) == retry_s


def test_the_fake_sidecar_refuses_in_the_same_bytes() -> None:
    real = refusals.Refusal(Code.RESOURCE_EXHAUSTED, HINTED, reason="FAKE", retry_s=5.5)
    fake = Refusal(Code.RESOURCE_EXHAUSTED, HINTED, 5.5).details()
    assert fake.replace(b"FAKE", b"") != fake
    assert retry_after_s(Failed(Code.RESOURCE_EXHAUSTED, details=fake)) == 5.5
    assert fake[:2] == refusals.status(real)[:2]
    assert str(HINTED).encode() in fake


@pytest.mark.parametrize("details", [b"", b"\x08", b"\x1a\xff\xff\xff", b"\x0d1234", b"\x1a\x01\x00", b"\x12\x80"])
def test_details_that_are_broken_say_nothing(details: bytes) -> None:
    assert retry_after_s(Failed(Code.RESOURCE_EXHAUSTED, details=details)) == 0.0
