"""The same events in an asyncio program, for five seconds. `python watch_async.py 127.0.0.1:50071`."""

import asyncio
import contextlib
import sys

from saewatch.client import AsyncClient, Firings


async def main(address: str) -> None:
    """Prints firings above 1."""
    async with AsyncClient(address) as client, client.watch(min_value=1.0) as watch:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                async for event in watch:
                    for firing in event if isinstance(event, Firings) else ():
                        print(firing)
        print(watch.totals)


asyncio.run(main(sys.argv[1]))
