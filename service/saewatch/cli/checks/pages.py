"""The metrics page of the running sidecar: whether every series that was asked for is on it."""

from __future__ import annotations

import http.client
import json
import re
import urllib.request
from collections.abc import Iterator

from saewatch.cli.checks.finding import Finding, Setup, good, unverified, warning
from saewatch.core import limits

TIMEOUT_S = 5.0
DROPPED = re.compile(r'saewatch_series_dropped_total\{metric="(\w+)"\} (\S+)')


def series(setup: Setup) -> Iterator[Finding]:
    """Whether a metric has outgrown its cap, and how many the largest has."""
    try:
        page = _page(setup)
    except (OSError, ValueError, http.client.HTTPException):
        hint = "Name the sidecar's configuration with -c; `web.listen` in it says where the page is."
        found = f"no page of this sidecar at {setup.web or 'a known address'}"
        yield unverified("series", found, expected="its metrics page", hint=hint)
        return
    dropped = {metric: int(float(count)) for metric, count in DROPPED.findall(page)}
    if any(dropped.values()):
        found = ", ".join(f"{metric} lacks {count} or more" for metric, count in dropped.items() if count)
        hint = f"Raise `limits.series`, to {limits.SERIES_MAX} at most, and restart the sidecar, or watch fewer."
        yield warning("series", found, expected="every series on the page", hint=hint)
        return
    counts = [(page.count(f"\n{metric}_total{{"), metric) for metric in dropped]
    count, metric = max(counts)
    yield good("series", f"none is left out; {metric} has most, {count}")


def _page(setup: Setup) -> str:
    """The page of the sidecar whose gRPC service was asked. Raises `OSError` or `ValueError` where there is none."""
    told = json.loads(_get(f"http://{setup.web}/"))
    if not isinstance(told, dict) or _port(str(told.get("grpc"))) != _port(setup.address):
        raise ValueError("another sidecar's")
    page = _get(f"http://{setup.web}/metrics")
    if not DROPPED.search(page):
        raise ValueError("another program's")
    return page


def _get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on loopback
    with opener.open(url, timeout=TIMEOUT_S) as answer:
        return str(answer.read().decode())


def _port(address: str) -> str:
    return address.rpartition(":")[2]
