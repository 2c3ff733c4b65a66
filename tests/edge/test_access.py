"""Who asks, and which addresses are one's own."""

from __future__ import annotations

import pytest

from saewatch.core.errors import ConfigError
from saewatch.edge.access import LocalAccess, require_loopback


def test_the_single_user_sees_everything() -> None:
    principal = LocalAccess().principal({"authorization": "anything"})
    assert (principal.name, principal.tenants) == ("local", None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    require_loopback("grpc.listen", host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "127.0.0.1.example.org", "*"])
def test_everything_else_is_refused_by_name(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_loopback("grpc.listen", host)
    assert caught.value.subject == "grpc.listen"
    assert "authentication" in caught.value.hint
