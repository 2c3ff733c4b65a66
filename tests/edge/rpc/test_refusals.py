"""Statuses with details that other programs can read."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2

from saewatch.core.errors import SaewatchError
from saewatch.edge.rpc import refusals


def details(refusal: refusals.Refusal) -> dict[str, object]:
    """The details by message name, read with the official classes."""
    status = status_pb2.Status.FromString(refusals.status(refusal))
    assert status.code == refusal.code.value[0]
    assert status.message == str(refusal)
    found = {}
    for packed in status.details:
        name = packed.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, name)()
        assert packed.Unpack(message)
        found[name] = message
    return found


def test_a_bad_argument_names_its_field() -> None:
    found = details(refusals.invalid("filter.categories[0]", found="'x'", expected="y", hint="Ask."))
    assert found["ErrorInfo"] == error_details_pb2.ErrorInfo(reason="INVALID_ARGUMENT", domain="saewatch")
    (violation,) = found["BadRequest"].field_violations  # type: ignore[attr-defined]  # of a generated class
    assert (violation.field, "found 'x', expected y" in violation.description) == ("filter.categories[0]", True)


def test_what_is_worth_a_retry_says_when() -> None:
    error = SaewatchError("subscribers", found=64, expected=63)
    refusal = refusals.Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, error, reason="SUBSCRIBERS", retry_s=5.25)
    retry = details(refusal)["RetryInfo"].retry_delay  # type: ignore[attr-defined]  # of a generated class
    assert (retry.seconds, retry.nanos) == (5, 250_000_000)


def test_what_is_missing() -> None:
    assert list(details(refusals.missing("request_id", found="x", expected="y"))) == ["ErrorInfo"]
