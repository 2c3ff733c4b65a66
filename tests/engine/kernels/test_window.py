"""Lists go on from window to window."""

from __future__ import annotations

import torch

from saewatch.core.footprint import WINDOW
from saewatch.engine.kernels.operands import Code
from saewatch.engine.kernels.window import appended
from tests import made
from tests.engine.kernels.latents import agrees, dense, latents_of, prepared


def test_a_second_window_is_added_to_the_first() -> None:
    one, x = made.dictionary("jumprelu", latents=WINDOW + 5), made.rows(2)
    one.limits.lim[:] += 4.0
    latents = latents_of(one)
    count, lost = torch.full((2, 2), 7, dtype=torch.int32)
    code = Code(index=torch.zeros(2, 256, dtype=torch.int32), value=torch.zeros(2, 256), count=count, lost=lost)
    appended(latents, prepared(one, x), torch.empty(2, WINDOW), code)
    assert code.lost.tolist() == [0, 0]
    assert int(code.index.max()) < WINDOW + 7
    agrees(dense(code, len(latents)), one, x)
