"""What fired in the last day, and how often, of how much. `python query.py 127.0.0.1:50071`."""

import sys
from datetime import UTC, datetime, timedelta

from saewatch.client import Client

yesterday = datetime.now(UTC) - timedelta(days=1)
with Client(sys.argv[1]) as client:
    for page in client.query_firings(category="vcr", min_value=1.0, since=yesterday):
        for firing in page:
            print(f"{firing.request}: {firing.shown} at {firing.position}, {firing.value:.2f}")
        for loss in page.losses:
            print(f"not stored ({loss.cause}): {loss.tokens} tokens")
    for counts in client.count_firings("category", since=yesterday):
        for bucket in counts:
            print(f"{bucket.group}: {bucket.firings} feature firings on {bucket.tokens_seen} tokens")
