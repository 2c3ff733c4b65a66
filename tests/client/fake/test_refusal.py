"""Refusals on a real call; their bytes are compared with the sidecar's in tests/client/test_failures.py."""

from __future__ import annotations

import grpc
import pytest

from saewatch.client import Client
from saewatch.client.fake import FakeServer
from saewatch.client.fake.refusal import invalid
from saewatch.core.errors import AccessError, SaewatchError


def test_a_long_text_is_still_one_field() -> None:
    details = invalid("filter", found="x" * 500, expected="y").details()
    assert b"x" * 500 in details


def test_the_next_watches_are_refused(saewatch_server: FakeServer) -> None:
    saewatch_server.refuse(subject="filter.tenants", found="'a'", expected="'b'", hint="Do.", times=2)
    saewatch_server.refuse(grpc.StatusCode.PERMISSION_DENIED, subject="tenant", found="none", expected="one")
    saewatch_server.fires("violence.p1")
    with Client(saewatch_server.address) as client:
        for _ in range(2):
            with pytest.raises(SaewatchError, match=r"filter\.tenants: found 'a', expected 'b'\. Do\."):
                next(client.watch())
        with pytest.raises(AccessError, match="tenant"):
            next(client.watch())
        assert next(client.watch())
