from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soakload import Answer, asks, read_answers, slope_mb_per_1k, write_answer


def test_the_same_seed_asks_the_same_and_more_requests_begin_alike() -> None:
    assert list(asks(50, 0)) == list(asks(80, 0))[:50] != list(asks(50, 1))


def test_requests_share_beginnings_leave_and_fit_the_model() -> None:
    asked = list(asks(500, 0))
    firsts = [tuple(ask.prompt[:100]) for ask in asked if len(ask.prompt) > 100]
    assert len(firsts) - len(set(firsts)) > 200
    assert 20 < sum(bool(ask.leaves_after) for ask in asked) < 90
    assert all(0 <= ask.leaves_after <= ask.tokens for ask in asked)
    assert all(len(ask.prompt) >= 1 and len(ask.prompt) + ask.tokens <= 768 for ask in asked)


def test_an_answer_feeds_all_but_its_last_token() -> None:
    assert Answer(5, [1, 2, 3], left=False).fed == 7


def test_answers_come_back_from_their_file(tmp_path: Path) -> None:
    answers = {"0": Answer(5, [1, 2], left=False), "1": Answer(3, [4], left=True)}
    (tmp_path / "answers").write_text("".join(write_answer(name, answer) for name, answer in answers.items()))
    assert read_answers(tmp_path / "answers") == answers


def test_the_slope_is_that_of_the_memory_after_the_warm_up() -> None:
    samples = [(one, 500.0 - max(0, 2000 - one) + 0.002 * one + (one % 100) / 50) for one in range(50, 10_001, 50)]
    assert slope_mb_per_1k(samples) == pytest.approx(2.0, abs=0.01)
    assert slope_mb_per_1k(samples[:40]) is None
