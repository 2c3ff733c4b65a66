"""Pages of these tests end where their blocks and bytes do: on a busy machine any of them may take its second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saewatch.core import limits


@pytest.fixture(autouse=True, scope="module")
def time_enough() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "QUERY_S", 600)
        yield
