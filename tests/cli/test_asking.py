"""What a call that failed says to people: the sidecar's own words where it refused, ours where it did not get there."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from saewatch.cli.asking import told
from saewatch.core.errors import AccessError, SaewatchError, UnreachableError

Code = grpc.StatusCode


class Failed:
    """A call that has failed, as gRPC hands it over."""

    def __init__(self, code: grpc.StatusCode, said: str, *, by_us: bool) -> None:
        self._code, self._said, self._by_us = code, said, by_us

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._said

    def trailing_metadata(self) -> Any:
        return (("grpc-status-details-bin", b""),) if self._by_us else None


HINTED = SaewatchError("engine b", found="no answer, or none in time", expected="a self-test", hint="Look. Twice.")
PLAIN = SaewatchError("engine", found="'c'", expected="one of 'a', 'b'")


@pytest.mark.parametrize("said", [HINTED, PLAIN])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.UNAVAILABLE, UnreachableError),
        (Code.DEADLINE_EXCEEDED, UnreachableError),
        (Code.NOT_FOUND, SaewatchError),
        (Code.UNIMPLEMENTED, SaewatchError),
    ],
)
def test_a_refusal_keeps_the_sidecars_words(said: SaewatchError, code: grpc.StatusCode, kind: type[Exception]) -> None:
    error = told("here:1", Failed(code, str(said), by_us=True))
    assert type(error) is kind
    assert str(error) == str(said)
    assert error.subject == said.subject


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (Code.UNAVAILABLE, UnreachableError, "here:1: found no answer, expected a sidecar"),
        (Code.DEADLINE_EXCEEDED, UnreachableError, "saewatch serve"),
        (Code.UNIMPLEMENTED, SaewatchError, "Update the sidecar"),
        (Code.UNAUTHENTICATED, AccessError, "found UNAUTHENTICATED"),
    ],
)
def test_what_did_not_get_there_is_said_in_ours(code: grpc.StatusCode, kind: type[Exception], says: str) -> None:
    error = told("here:1", Failed(code, "failed to connect to all addresses: found x, expected y", by_us=False))
    assert type(error) is kind
    assert says in str(error)


def test_a_refusal_in_other_words() -> None:
    assert "found INTERNAL" in str(told("here:1", Failed(Code.INTERNAL, "no form", by_us=True)))
