"""A tap with a pooled probe: prompts in pieces, steps that are encoded at once and late, and one that is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from saewatch.core.batch import FiringBatch
from saewatch.core.records import Beat, StreamEnd
from saewatch.core.tapconfig import DictionaryUse
from saewatch.engine.ledger import NewRequest
from saewatch.engine.tap import Tap
from tests.engine.standin import Blocks, a_config, an_engine, hidden, pooled_bundle, rows_of
from tests.engine.test_tap import shipped
from tests.simulate.sidecar import FakeSidecar
from tests.waiting import wait_until

PROMPT, ANSWER = 400, 3
FLOOR = 0.45


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.fixture
def tap(tmp_path: Path, blocks: Blocks) -> Iterator[Tap]:
    bundle, _ = pooled_bundle(tmp_path, floor=FLOOR)
    config = a_config(tmp_path, slots=2, dictionaries=(DictionaryUse(path=str(bundle)),))
    found = Tap.open(config, an_engine(rows=512, block=16), blocks)
    blocks.run(hidden(1))
    found.prove()
    yield found
    found.close()


def step(tap: Tap, blocks: Blocks, first: int, count: int, *, capture: bool = True) -> None:
    """Positions ``first ..`` of the one request."""
    rows = rows_of(a=(first, count))
    blocks.run(hidden(PROMPT + ANSWER)[first : first + count])
    if capture:
        tap.snapshot(lambda: rows)
    done = first + count
    tap.step(
        time_ns=1,
        new=[NewRequest(engine_id="a", prompt_len=PROMPT, computed=0)] if first == 0 else [],
        finished=(),
        computed={"a": done},
        emitted={"a": [7] if done >= PROMPT else []},
    )


def expected(tmp_path: Path) -> torch.Tensor:
    """The probe's value at each position, by torch over the whole sequence."""
    probe = torch.load(tmp_path / "probe.pt", weights_only=True)
    x = 3 * hidden(PROMPT + ANSWER)
    score, value = x @ probe["heads.0.attention.q"].T, x @ probe["heads.0.attention.v"].T
    found = torch.zeros(len(x))
    for last in range(1, len(x)):  # the first token is excluded
        weights = torch.nn.functional.softmax(score[1 : last + 1], dim=0)
        found[last] = (weights * value[1 : last + 1]).sum() + probe["heads.0.attention.b"][0]
    return found


def values(batches: list[FiringBatch]) -> dict[int, float]:
    found: dict[int, float] = {}
    for batch in batches:
        _, positions = batch.row_positions()
        found |= dict(zip(positions[batch.row].tolist(), batch.value.tolist(), strict=True))
    return found


def test_a_prompt_in_pieces_and_its_answer_are_one_softmax(tap: Tap, blocks: Blocks, tmp_path: Path) -> None:
    with FakeSidecar(tmp_path / "s") as sidecar:
        tap.start()
        wait_until(lambda: bool(sidecar.of(Beat)))
        for first, count in ((0, 300), (300, 100), *((PROMPT + number, 1) for number in range(ANSWER))):
            step(tap, blocks, first, count)
            shipped(tap, first + count)
        tap.close()
        wait_until(lambda: bool(sidecar.of(StreamEnd)))
    (end,) = sidecar.of(StreamEnd)
    assert (end.final.fed, end.final.imbalance, end.final.missed) == (PROMPT + ANSWER, 0, {"excluded": 1})
    wanted, found = expected(tmp_path).numpy(), values(sidecar.of(FiringBatch))
    clear = np.flatnonzero(np.abs(wanted - FLOOR) > 1e-4).tolist()
    assert {at for at in clear if wanted[at] > FLOOR} == set(found) & set(clear)
    assert 20 < len(found) < PROMPT - 20
    assert all(found[at] == pytest.approx(wanted[at], rel=1e-4) for at in found)


def test_behind_a_step_that_was_not_captured_all_tokens_are_missed(tap: Tap, blocks: Blocks) -> None:
    tap.start()
    for first, count, capture in ((0, 100, True), (100, 100, False), (200, 200, True), (400, 1, True)):
        step(tap, blocks, first, count, capture=capture)
        shipped(tap, first + count)
    tap.close()
    (books,) = tap.books
    assert (books.fed, books.imbalance) == (401, 0)
    assert books.missed["blind"] == 301
