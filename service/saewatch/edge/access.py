"""Who asks. Every call has a `Principal`, and whoever has none is refused.

Without authentication configured there is one: the local user, to whom everything is open. That is safe only while
nobody else can reach the port, so such a service binds loopback addresses only. Authentication (tokens, client
certificates) becomes another `Access`; the services ask it the same question.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from saewatch.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks, and whose requests it may see; ``tenants`` None: everybody's."""

    name: str
    tenants: frozenset[str] | None = None


LOCAL = Principal(name="local")


class LocalAccess:
    """The single user of a service that listens on loopback addresses only."""

    def principal(self, metadata: Mapping[str, str | bytes]) -> Principal:
        """Who sent a call with this metadata. Raises `AccessError` for nobody known."""
        del metadata  # nothing in it matters to a single user
        return LOCAL


def require_loopback(field: str, host: str) -> None:
    """Raises `ConfigError` unless ``host`` is this machine's own."""
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host.strip("[]")).is_loopback:
            return
    except ValueError:
        pass
    raise ConfigError(
        field,
        found=host,
        expected="a loopback address, such as 127.0.0.1",
        hint="There is no authentication yet: put a proxy that has it in front, on this machine.",
    )
