"""How much a filter may list, whatever it chooses: firings, alerts, or what is stored."""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf.message import Message

from saewatch.core import limits
from saewatch.edge.rpc.refusals import invalid

FILTER_ITEMS = 1000
FILTER_ITEM_BYTES = 256
FILTER_BYTES = 64 * limits.KIB
"""Of all items of a filter: a subscriber keeps one as long as it stays."""


def bounded(asked: Message, texts: Collection[str], others: Collection[str]) -> None:
    """Raises `Refusal` where the lists of a filter have too many items, or its ``texts`` are too long."""
    total = 0
    for name in (*texts, *others):
        count = len(getattr(asked, name))
        if count > FILTER_ITEMS:
            raise invalid(f"filter.{name}", found=f"{count} items", expected=f"at most {FILTER_ITEMS}")
    for name in texts:
        for index, item in enumerate(getattr(asked, name)):
            size = len(item.encode())
            total += size
            if size > FILTER_ITEM_BYTES:
                raise invalid(f"filter.{name}[{index}]", found=f"{size} bytes", expected=f"at most {FILTER_ITEM_BYTES}")
        if total > FILTER_BYTES:
            raise invalid(f"filter.{name}", found=f"{total} bytes with it", expected=f"at most {FILTER_BYTES} in all")
